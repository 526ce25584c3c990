//! TLS for clients: the certificate, and how it is replaced without closing connections.
//!
//! The files are read again every second and compared by content, so it does not matter how they
//! are replaced (a rename, a symbolic link, a copy). A new pair applies to new handshakes; open
//! connections keep theirs. While the two files do not match (only one has been written so far) the
//! old pair stays. HTTP/2 is offered first.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, server::ProducesTickets};

use crate::error::ConfigError;
use crate::files;

/// Interval of checks of the files.
const PERIOD: Duration = Duration::from_secs(1);

/// The certificate in use and where it comes from.
pub struct Tls {
    files: Files,
    current: ArcSwap<ServerConfig>,
    /// Kept across certificate changes, so that sessions can be resumed.
    tickets: Arc<dyn ProducesTickets>,
}

/// The paths of certificate and key.
#[derive(Debug, Clone)]
pub struct Files {
    /// The chain, the server's own certificate first, as PEM.
    pub certificate: PathBuf,
    /// The key, as PEM.
    pub key: PathBuf,
}

/// The contents of the files.
type Contents = (Vec<u8>, Vec<u8>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.files.fmt(f)
    }
}

impl Tls {
    /// Reads certificate and key, and checks that they match.
    pub fn load(files: Files) -> Result<Self, ConfigError> {
        let tickets = ring::Ticketer::new()
            .map_err(|error| ConfigError::Invalid(format!("no keys for TLS tickets: {error}")))?;
        let contents = files.read()?;
        let config = files.build(&contents, &tickets)?;
        Ok(Self { files, current: ArcSwap::from_pointee(config), tickets })
    }

    /// The path of the key.
    pub fn key(&self) -> &Path {
        &self.files.key
    }

    /// The configuration for the next handshake.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Follows the files forever.
    pub async fn watch(&self) {
        let mut tick = tokio::time::interval(PERIOD);
        let (mut known, mut is_readable) = (None, true);
        loop {
            tick.tick().await;
            let files = self.files.clone();
            // A disk that hangs holds up this task and nothing else.
            let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else { return };
            let contents = match read {
                Ok(contents) => contents,
                Err(error) => {
                    if std::mem::replace(&mut is_readable, false) {
                        tracing::warn!(%error, "certificate not read, the old one stays in use");
                    }
                    continue;
                }
            };
            is_readable = true;
            if known.as_ref() == Some(&contents) {
                continue;
            }
            match self.files.build(&contents, &self.tickets) {
                Ok(config) => {
                    self.current.store(Arc::new(config));
                    tracing::info!(certificate = %self.files.certificate.display(), "certificate loaded");
                }
                Err(error) => {
                    tracing::warn!(%error, "certificate not valid, the old one stays in use");
                }
            }
            known = Some(contents);
        }
    }
}

impl Files {
    fn read(&self) -> Result<Contents, ConfigError> {
        Ok((files::read_regular(&self.certificate)?, files::read_regular(&self.key)?))
    }

    fn build(
        &self,
        (certificate, key): &Contents,
        tickets: &Arc<dyn ProducesTickets>,
    ) -> Result<ServerConfig, ConfigError> {
        let wrong = |path: &Path, message: String| ConfigError::File {
            path: path.to_owned(),
            message: format!("{message}; PEM is expected"),
        };
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong(&self.certificate, error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| wrong(&self.key, error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError::Invalid(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| wrong(&self.certificate, format!("certificate and key: {error}")))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = Arc::clone(tickets);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(files: &Files) {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        std::fs::write(&files.certificate, pair.cert.pem()).expect("written");
        std::fs::write(&files.key, pair.signing_key.serialize_pem()).expect("written");
    }

    fn files(folder: &tempfile::TempDir) -> Files {
        let at = |name| folder.path().join(name);
        Files { certificate: at("cert.pem"), key: at("key.pem") }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_pair_is_taken_over_and_half_a_pair_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = files(&folder);
        write(&files);
        let tls = Arc::new(Tls::load(files.clone()).expect("valid"));
        let watched = Arc::clone(&tls);
        let watch = tokio::spawn(async move { watched.watch().await });
        tokio::time::sleep(PERIOD * 2).await;
        let first = tls.current();
        let key = std::fs::read(&files.key).expect("there");
        write(&files);
        let new_key = std::fs::read(&files.key).expect("there");
        std::fs::write(&files.key, key).expect("written");
        tokio::time::sleep(PERIOD * 2).await;
        assert!(Arc::ptr_eq(&first, &tls.current()), "the key belongs to the old certificate");
        std::fs::write(&files.key, new_key).expect("written");
        tokio::time::sleep(PERIOD * 2).await;
        assert!(!Arc::ptr_eq(&first, &tls.current()));
        watch.abort();
    }

    #[test]
    fn what_is_wrong_is_said_with_the_name_of_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = files(&folder);
        let error = Tls::load(files.clone()).expect_err("nothing there").to_string();
        assert!(error.contains("cert.pem"), "{error}");
        write(&files);
        std::fs::write(&files.key, "no key").expect("written");
        let error = Tls::load(files).expect_err("no key").to_string();
        assert!(error.contains("key.pem") && error.contains("PEM"), "{error}");
    }
}
