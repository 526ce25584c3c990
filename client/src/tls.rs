//! TLS to the service: which certificates to trust, which version of HTTP to negotiate.
//!
//! The trusted authorities are Mozilla's, built in, so that they are available in a container
//! without any files; `--cacert` replaces them. A handshake before the measurement detects any
//! problem with a certificate.

use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};

use crate::error::Error;
use crate::experiment::Protocol;
use crate::input;

/// Which certificates to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The public authorities, as in browsers.
    Public,
    /// The authorities in this PEM file.
    File(PathBuf),
    /// The authorities in this PEM text: the content of such a file on another machine.
    Text(String),
    /// Any certificate, without a check.
    Any,
}

/// How connections are encrypted.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// TLS for connections to `host` that carry `protocol`.
    pub fn try_new(host: &str, protocol: Protocol, trust: &Trust) -> anyhow::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("TLS 1.2 and 1.3")?;
        let mut config = match trust {
            Trust::Public => {
                let roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            Trust::File(file) => {
                let text = input::read(file, input::SMALL)?;
                let roots = authorities(&text, &file.display().to_string())?;
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            Trust::Text(text) => {
                let roots = authorities(text.as_bytes(), "--cacert")?;
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            Trust::Any => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
                .with_no_client_auth(),
        };
        config.alpn_protocols = vec![wanted(protocol).to_vec()];
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Error::Usage(format!("{host:?} is not a name that a certificate can have"))
        })?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// Encrypts an open connection.
    pub(crate) async fn connect(
        &self,
        stream: tokio::net::TcpStream,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
        TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await
    }

    /// Performs one handshake; the error states what is wrong with the service.
    pub(crate) fn try_out(&self, mut stream: TcpStream, limit: Duration) -> Result<(), String> {
        let told = |error: std::io::Error| reason(&error);
        stream.set_read_timeout(Some(limit)).map_err(told)?;
        stream.set_write_timeout(Some(limit)).map_err(told)?;
        let mut connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map_err(|error| error.to_string())?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(told)?;
        }
        let wanted = self.config.alpn_protocols.first().map(Vec::as_slice);
        if wanted == Some(H2) && connection.alpn_protocol() != Some(H2) {
            return Err("it does not offer HTTP/2 (--http http1)".to_owned());
        }
        // It does no harm if the `close_notify` does not arrive.
        connection.send_close_notify();
        let _unsaid = connection.write_tls(&mut stream);
        Ok(())
    }
}

const H2: &[u8] = b"h2";

fn wanted(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Http1 => b"http/1.1",
        Protocol::H2 => H2,
    }
}

/// Why a handshake failed, and what can be done about it.
fn reason(error: &std::io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            "its certificate is signed by no authority that is known here (--cacert FILE, or \
             --insecure to trust it all the same)"
                .to_owned()
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            format!("{error} (--insecure to trust it all the same)")
        }
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            "it does not offer this version of HTTP (--http)".to_owned()
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "what listens there does not speak TLS (http:// instead of https://)".to_owned()
        }
        Some(_) => error.to_string(),
        None => format!("no TLS handshake: {error}"),
    }
}

fn authorities(text: &[u8], place: &str) -> anyhow::Result<RootCertStore> {
    let shown = || place.to_owned();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.with_context(shown)?;
        roots.add(certificate).with_context(shown)?;
    }
    if roots.is_empty() {
        return Err(Error::Usage(format!("{place}: no certificate in this file")).into());
    }
    Ok(roots)
}

/// Accepts every certificate, but still requires valid signatures.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
