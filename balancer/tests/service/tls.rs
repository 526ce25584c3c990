//! Clients over TLS: HTTP/1.1 and HTTP/2, a new certificate, a PROXY protocol header in front.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use balancer::config::{Network, Settings};
use bytes::Bytes;
use common::{Running, Stub, settings};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::common;

/// Writes a new self-signed certificate and returns it.
fn write_pair(folder: &Path) -> CertificateDer<'static> {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    std::fs::write(folder.join("cert.pem"), pair.cert.pem()).expect("written");
    std::fs::write(folder.join("key.pem"), pair.signing_key.serialize_pem()).expect("written");
    pair.cert.der().clone()
}

fn with_tls(stub: &Stub, folder: &Path) -> Settings {
    let mut settings = settings(&[stub.address]);
    settings.tls_cert = Some(folder.join("cert.pem"));
    settings.tls_key = Some(folder.join("key.pem"));
    settings
}

/// Waits for readiness on the admin port only: the public one speaks TLS.
async fn start(settings: Settings) -> Running {
    let running = Running::start_unready(&settings);
    running.until(|fleet| fleet["ready"] == true).await;
    running
}

async fn handshake(
    stream: TcpStream,
    root: &CertificateDer<'static>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn connect(
    address: SocketAddr,
    root: &CertificateDer<'static>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    handshake(stream, root, protocol).await
}

const REQUEST: &[u8] = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx";

async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(REQUEST).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"alive") {
        assert!(stream.read_buf(&mut answer).await.expect("read") > 0, "an answer");
    }
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn the_address_that_is_announced_says_https() {
    let (stub, folder) = (Stub::named("alive").await, tempfile::tempdir().expect("a folder"));
    write_pair(folder.path());
    let config = balancer::config::Config::try_new(&with_tls(&stub, folder.path())).expect("valid");
    let mut said = Vec::new();
    balancer::Bound::new(&config).expect("bound").announce(&mut said).expect("written");
    assert!(String::from_utf8_lossy(&said).starts_with("listening on https://127.0.0.1:"));
}

#[tokio::test]
async fn http_1_over_tls_says_so_to_the_worker() {
    let (stub, folder) = (Stub::named("alive").await, tempfile::tempdir().expect("a folder"));
    let root = write_pair(folder.path());
    let balancer = start(with_tls(&stub, folder.path())).await;
    let mut stream = connect(balancer.address, &root, b"http/1.1").await.expect("connected");
    for _ in 0..3 {
        assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(stub.seen()[0].header("x-forwarded-proto"), Some("https"));
    let plain = common::exchange(balancer.address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(plain.status, 0, "no HTTP without TLS");
    assert!(balancer.metrics().await.contains("balancer_tls_handshakes_failed_total 1"));
}

#[tokio::test]
async fn many_requests_share_one_http_2_connection_and_go_the_same_way() {
    let (stub, folder) = (Stub::named("alive").await, tempfile::tempdir().expect("a folder"));
    let root = write_pair(folder.path());
    let mut balancer = start(with_tls(&stub, folder.path())).await;
    let stream = connect(balancer.address, &root, b"h2").await.expect("connected");
    let (sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    let driver = tokio::spawn(driver);
    let requests = (0..50).map(|_| {
        let mut sender = sender.clone();
        async move {
            let request = http::Request::post("https://localhost/predict")
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .body(Full::new(Bytes::from_static(b"x")))
                .expect("valid");
            let answer = sender.send_request(request).await.expect("answered");
            assert_eq!(answer.status(), 200);
            assert!(answer.headers().get("connection").is_none());
            assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes(), "alive");
        }
    });
    let mut all = tokio::task::JoinSet::new();
    requests.for_each(|request| drop(all.spawn(request)));
    while let Some(done) = all.join_next().await {
        done.expect("no panic");
    }
    let seen = &stub.seen()[0];
    assert_eq!(seen.line(), "POST /predict HTTP/1.1");
    assert_eq!(seen.header("host"), Some("localhost"));
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.header("via"), Some("2 imagefleet"));
    balancer.tell_to_stop();
    driver.await.expect("no panic").expect("an orderly goodbye");
    balancer.stopped().await;
}

#[tokio::test]
async fn a_new_certificate_counts_for_new_connections_and_old_ones_go_on() {
    let (stub, folder) = (Stub::named("alive").await, tempfile::tempdir().expect("a folder"));
    let old = write_pair(folder.path());
    let balancer = start(with_tls(&stub, folder.path())).await;
    let mut kept = connect(balancer.address, &old, b"http/1.1").await.expect("connected");
    ask(&mut kept).await;
    let new = write_pair(folder.path());
    let changed = async {
        while connect(balancer.address, &new, b"http/1.1").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), changed).await.expect("taken over");
    assert!(connect(balancer.address, &old, b"http/1.1").await.is_err());
    ask(&mut kept).await;
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    let (stub, folder) = (Stub::named("alive").await, tempfile::tempdir().expect("a folder"));
    let root = write_pair(folder.path());
    let mut settings = with_tls(&stub, folder.path());
    settings.trusted_proxy = vec!["127.0.0.0/8".parse::<Network>().expect("a network")];
    settings.proxy_protocol = Some(true);
    let balancer = start(settings).await;
    let mut stream = TcpStream::connect(balancer.address).await.expect("connected");
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([192, 0, 2, 7, 127, 0, 0, 1, 1, 1, 1, 1]);
    stream.write_all(&header).await.expect("sent");
    let mut stream = handshake(stream, &root, b"http/1.1").await.expect("connected");
    ask(&mut stream).await;
    assert_eq!(stub.seen()[0].header("x-forwarded-for"), Some("192.0.2.7"));
    let without = connect(balancer.address, &root, b"http/1.1").await;
    assert!(without.is_err(), "a trusted proxy has to introduce its clients");
}

#[tokio::test]
async fn without_trust_the_first_bytes_are_a_request() {
    let stub = Stub::named("alive").await;
    let mut settings = settings(&[stub.address]);
    settings.trusted_proxy = vec!["192.0.2.1".parse::<Network>().expect("an address")];
    settings.proxy_protocol = Some(true);
    let balancer = Running::start(settings).await;
    let request = "PROXY TCP4 192.0.2.7 127.0.0.1 1 1\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(common::exchange(balancer.address, request).await.status, 400);
    assert_eq!(balancer.post("/predict", "", "x").await.body, "alive");
    assert_eq!(stub.seen()[0].header("x-forwarded-for"), Some("127.0.0.1"));
}
