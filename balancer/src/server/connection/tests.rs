//! The answer does not depend on how a client's bytes are split and delayed.
//!
//! The clients are at the other end of a pipe and the clock is paused: a pause of seconds takes no
//! time, and connections are parked meanwhile. Only the worker is behind a real socket.

use std::cell::Cell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use fleet::Pool;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tempfile::TempDir;
use tokio::io::{
    AsyncBufRead, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf, duplex,
    split,
};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::*;
use crate::config::{Config, Settings};
use crate::shared::Shared;

thread_local! {
    /// How often a connection without buffers was polled on this thread.
    static PARKED: Cell<u32> = const { Cell::new(0) };
}

impl Transport for BufReader<DuplexStream> {
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        PARKED.set(PARKED.get() + 1);
        Pin::new(self).poll_fill_buf(context).map_ok(|_| ())
    }
}

/// No test here is about time limits.
const LONG: Duration = Duration::from_hours(100);
const CLIENT: [u8; 4] = [192, 0, 2, 1];

/// A certificate and its key.
static PAIR: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    std::fs::write(folder.path().join("cert.pem"), pair.cert.pem()).expect("written");
    let key = pair.signing_key.serialize_pem();
    std::fs::write(folder.path().join("key.pem"), key).expect("written");
    folder
});

fn shard(settings: Settings, worker: SocketAddr) -> Rc<Shard> {
    let patient = Settings {
        worker: vec![worker.to_string()],
        probe_path: Some(String::new()),
        request_timeout: Some(LONG),
        header_timeout: Some(LONG),
        body_timeout: Some(LONG),
        keep_alive: Some(LONG),
        connect_timeout: Some(LONG),
        min_body_rate: Some(0),
        ..settings
    };
    let config = Config::try_new(&patient).expect("valid");
    let pool = Arc::new(Pool::new(config.pool, Instant::now()));
    pool.replace(&[("worker1".to_owned(), worker)], Instant::now()).ignore();
    let shard = Rc::new(Shard::new(Arc::new(Shared::new(config, pool)), None));
    tokio::task::spawn_local(super::super::keep_up(Rc::clone(&shard)));
    let rounds = Rc::clone(&shard);
    tokio::task::spawn_local(poll_fn(move |context| rounds.write_queue.poll_rounds(context)));
    shard
}

/// A worker that answers with the body it got.
async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut bytes = Vec::new();
            while stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
                while let Some((_, body, length)) = message(&bytes) {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    let answer = [head.as_bytes(), &body].concat();
                    bytes.drain(..length);
                    stream.write_all(&answer).await.expect("written");
                }
            }
        });
    }
}

/// Head, body and length.
type Message = (String, Vec<u8>, usize);

/// The first message, if all of it has arrived.
fn message(bytes: &[u8]) -> Option<Message> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.trim().parse().expect("a length"));
    let body = bytes.get(end..end + length)?;
    Some((head, body.to_vec(), end + length))
}

/// Forwards what a client sends in pieces of these sizes, each after a pause, over and over.
async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    pieces: Vec<(usize, Duration)>,
) {
    let mut waiting = Vec::new();
    for (size, pause) in pieces.into_iter().cycle() {
        if waiting.is_empty() && from.read_buf(&mut waiting).await.unwrap_or(0) == 0 {
            break;
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        // What was sent in the meantime is included.
        let more = tokio::time::timeout(Duration::ZERO, from.read_buf(&mut waiting));
        drop(more.await);
        let piece = size.min(waiting.len());
        if to.write_all(&waiting[..piece]).await.is_err() {
            break;
        }
        waiting.drain(..piece);
    }
    drop(to.shutdown().await);
}

/// The client's end of a connection.
fn connect(shard: &Rc<Shard>, pieces: &[(usize, Duration)]) -> DuplexStream {
    let (client, near) = duplex(1 << 20);
    let (far, server) = duplex(1 << 20);
    let (from_client, mut to_client) = split(near);
    let (mut from_server, to_server) = split(far);
    tokio::spawn(carry(from_client, to_server, pieces.to_vec()));
    tokio::spawn(async move {
        drop(tokio::io::copy(&mut from_server, &mut to_client).await);
        drop(to_client.shutdown().await);
    });
    let seen = Rc::new(Client::new(origin(shard, CLIENT.into()), Instant::now()));
    assert!(shard.shared.connections.take(1));
    let listed = Listed::new(shard, &seen);
    tokio::task::spawn_local(async move {
        open(&listed.shard, &seen, BufReader::new(server)).await;
    });
    client
}

pub(crate) async fn encrypted<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    protocol: &[u8],
) -> tokio_rustls::client::TlsStream<S> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(PAIR.path().join("cert.pem")).expect("PEM");
    roots.add(certificate).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("connected")
}

/// A client's request, and the expected answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    Live,
    Nothing,
    Post(usize),
    /// In chunks of these sizes, after an empty line.
    Chunks(usize, usize),
}

impl Ask {
    fn bytes(self) -> Vec<u8> {
        let post = "POST /predict HTTP/1.1\r\nHost: a\r\n";
        match self {
            Self::Live => b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            Self::Nothing => b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            Self::Post(size) => {
                let head = format!("{post}Content-Length: {size}\r\n\r\n");
                [head.into_bytes(), body(size)].concat()
            }
            Self::Chunks(one, two) => {
                let chunk =
                    |size| [format!("{size:x}\r\n").as_bytes(), &body(size)[..], b"\r\n"].concat();
                let head = format!("\r\n{post}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
                [head, chunk(one), chunk(two), b"0\r\n\r\n".to_vec()].concat()
            }
        }
    }

    /// The expected status and body.
    fn answer(self) -> (u16, Vec<u8>) {
        match self {
            Self::Live => (200, b"{\"live\":true}\n".to_vec()),
            Self::Nothing => (404, Vec::new()),
            Self::Post(size) => (200, body(size)),
            Self::Chunks(one, two) => (200, [body(one), body(two)].concat()),
        }
    }
}

fn body(size: usize) -> Vec<u8> {
    (0..size).map(|at| b"0123456789\r\nabc"[at % 15]).collect()
}

/// Sends everything at once and reads the answers.
pub(crate) async fn ask_all<S: AsyncRead + AsyncWrite>(stream: S, asks: &[Ask], ends: bool) {
    let (mut reader, mut writer) = split(stream);
    let all: Vec<u8> = asks.iter().flat_map(|ask| ask.bytes()).collect();
    writer.write_all(&all).await.expect("sent");
    writer.flush().await.expect("sent");
    if ends {
        writer.shutdown().await.expect("sent");
    }
    let mut bytes = Vec::new();
    for (number, ask) in asks.iter().enumerate() {
        let (head, body, length) = loop {
            if let Some(message) = message(&bytes) {
                break message;
            }
            let count = reader.read_buf(&mut bytes).await.expect("readable");
            assert!(count > 0, "answer {number} of {asks:?} after {:?}", bytes.escape_ascii());
        };
        bytes.drain(..length);
        let (status, expected) = ask.answer();
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{number} {asks:?}: {head}");
        assert!(status != 200 || body == expected, "{number} {asks:?}");
    }
    if ends {
        assert_eq!(reader.read_buf(&mut bytes).await.expect("an orderly end"), 0);
    }
}

/// Sends the requests in sequence over HTTP/2.
pub(crate) async fn ask_each<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    asks: &[Ask],
) {
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(driver);
    for ask in asks {
        let (status, expected) = ask.answer();
        let request = match ask {
            Ask::Live => http::Request::get("http://a/v2/health/live").body(Full::default()),
            Ask::Nothing => http::Request::get("http://a/nothing").body(Full::default()),
            Ask::Post(_) | Ask::Chunks(..) => {
                let body = Full::new(Bytes::from(expected.clone()));
                http::Request::post("http://a/predict").body(body)
            }
        };
        let answer = sender.send_request(request.expect("valid")).await.expect("answered");
        assert_eq!(answer.status(), status, "{asks:?}");
        let body = answer.into_body().collect().await.expect("whole").to_bytes();
        assert!(status != 200 || body == expected, "{asks:?}");
    }
}

/// Runs `work` on a clock that advances whenever nothing else can run.
fn run<F: Future<Output = ()> + 'static>(work: F) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(LocalOptions::default())
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(LONG * 2, work).await.expect("an end");
    });
}

async fn worker() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(echo(listener));
    address
}

pub(crate) fn with_tls() -> Settings {
    Settings {
        tls_cert: Some(PAIR.path().join("cert.pem")),
        tls_key: Some(PAIR.path().join("key.pem")),
        ..Settings::default()
    }
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let ask = prop_oneof![
        Just(Ask::Live),
        Just(Ask::Nothing),
        (0_usize..300).prop_map(Ask::Post),
        Just(Ask::Post(70_000)),
        (1_usize..200, 1_usize..200).prop_map(|(one, two)| Ask::Chunks(one, two)),
    ];
    proptest::collection::vec(ask, 1..6)
}

/// Sizes and pauses, some of them long enough for a connection to be parked.
fn pieces() -> impl Strategy<Value = Vec<(usize, Duration)>> {
    let size = prop_oneof![Just(1_usize << 20), 1_usize..8, 1_usize..2000];
    let pause = proptest::sample::select(vec![0, 0, 1, 60, 300, 1100, 2500, 12_000]);
    let piece = (size, pause.prop_map(Duration::from_millis));
    // A large piece now and then, so that long bodies come to an end.
    proptest::collection::vec(piece, 1..12).prop_map(|mut pieces| {
        pieces.push((4000, Duration::ZERO));
        pieces
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48, rng_seed: RngSeed::Fixed(11), ..ProptestConfig::default()
    })]

    #[test]
    fn any_cut_and_any_pause_gives_the_same_answers(
        asks in asks(), pieces in pieces(), ends: bool, h2c: bool,
    ) {
        run(async move {
            let plain = shard(Settings { h2c: Some(h2c), ..Settings::default() }, worker().await);
            ask_all(connect(&plain, &pieces), &asks, ends).await;
            if h2c {
                ask_each(connect(&plain, &pieces), &asks).await;
            }
        });
    }

    #[test]
    fn any_cut_and_any_pause_gives_the_same_answers_over_tls(
        asks in asks(), pieces in pieces(),
    ) {
        run(async move {
            let shard = shard(with_tls(), worker().await);
            let stream = encrypted(connect(&shard, &pieces), b"http/1.1").await;
            ask_all(stream, &asks, false).await;
            let stream = encrypted(connect(&shard, &pieces), b"h2").await;
            ask_each(stream, &asks).await;
        });
    }
}

#[test]
fn a_request_that_comes_with_the_end_of_the_handshake_is_answered() {
    // The pipe waits until the client has sent everything, then forwards it in pieces of this size.
    for size in [1, 7, 100, 1 << 20] {
        run(async move {
            let shard = shard(with_tls(), worker().await);
            let mut pieces = vec![(size, Duration::ZERO); 10_000];
            pieces[0].1 = Duration::from_millis(1);
            for ends in [false, true] {
                let stream = encrypted(connect(&shard, &pieces), b"http/1.1").await;
                ask_all(stream, &[Ask::Live, Ask::Post(3)], ends).await;
            }
        });
    }
}

#[test]
fn half_of_the_next_head_waits_and_an_empty_line_is_none() {
    const LIVE: &str = "GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n";
    run(async {
        let shard = shard(Settings::default(), worker().await);
        for (early, late) in [
            ("", LIVE),
            ("GET /v2/health/live HT", "TP/1.1\r\nHost: a\r\n\r\n"),
            ("\r\n", LIVE),
            ("\n", LIVE),
            ("\r", &format!("\n{LIVE}")),
            ("\r\n\r\nG", &LIVE[1..]),
        ] {
            let mut stream = connect(&shard, &[(1 << 20, Duration::ZERO)]);
            for bytes in [&format!("{LIVE}{early}"), late] {
                stream.write_all(bytes.as_bytes()).await.expect("sent");
                let mut answer = Vec::new();
                while message(&answer).is_none() {
                    let count = stream.read_buf(&mut answer).await.expect("readable");
                    assert!(count > 0, "{early:?}");
                }
                // Long enough for the connection to be parked, and more than once.
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    });
}

#[test]
fn buffers_are_given_back_whatever_came_before_the_first_request() {
    // With --h2c the first request has arrived by the time it is known to be HTTP/1.
    for h2c in [false, true] {
        run(async move {
            let shard = shard(Settings { h2c: Some(h2c), ..Settings::default() }, worker().await);
            let mut stream = connect(&shard, &[(1 << 20, Duration::ZERO)]);
            for number in 0..3 {
                ask_all(&mut stream, &[Ask::Live], false).await;
                let before = PARKED.get();
                tokio::time::sleep(Duration::from_secs(5)).await;
                assert!(PARKED.get() > before, "after request {number}, h2c: {h2c}");
            }
        });
    }
}

#[test]
fn a_client_that_ends_its_side_without_a_goodbye_of_tls_gets_its_answer() {
    run(async {
        let shard = shard(with_tls(), worker().await);
        let pipe = connect(&shard, &[(usize::MAX, Duration::ZERO)]);
        let mut client = encrypted(pipe, b"http/1.1").await;
        client.write_all(&Ask::Post(100).bytes()).await.expect("sent");
        client.flush().await.expect("sent");
        client.get_mut().0.shutdown().await.expect("sent");
        let mut answer = Vec::new();
        while message(&answer).is_none() {
            let count = client.read_buf(&mut answer).await.expect("readable");
            assert!(count > 0, "{}", answer.escape_ascii());
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    });
}

#[test]
fn a_panic_leaves_no_connection_on_the_list() {
    run(async {
        let shard = shard(Settings::default(), worker().await);
        assert!(shard.shared.connections.take(1));
        let client = Rc::new(Client::new(origin(&shard, CLIENT.into()), Instant::now()));
        let listed = Listed::new(&shard, &client);
        assert_eq!((shard.clients.count(), shard.shared.connections.used()), (1, 1));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _listed = listed;
            panic!("a fault of the balancer");
        }));
        assert!(panicked.is_err());
        assert_eq!((shard.clients.count(), shard.shared.connections.used()), (0, 0));
    });
}

/// A policy with a bug.
#[derive(Debug)]
struct Faulty;

impl fleet::policy::Policy for Faulty {
    fn pick(
        &self,
        _: &[Arc<fleet::Endpoint>],
        _: &mut fleet::policy::Occasion<'_>,
    ) -> Option<usize> {
        panic!("a fault of the balancer")
    }
}

#[test]
fn a_panic_within_a_request_ends_that_request_and_nothing_else() {
    run(async {
        let shard = shard(Settings { h2c: Some(true), ..Settings::default() }, worker().await);
        let chosen = shard.shared.fleet.policy.load_full();
        let faulty = fleet::Chosen { kind: chosen.kind, policy: Arc::new(Faulty) };
        shard.shared.fleet.policy.store(Arc::new(faulty));
        let mut client = connect(&shard, &[(usize::MAX, Duration::ZERO)]);
        client.write_all(&Ask::Post(1000).bytes()).await.expect("sent");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("an end");
        assert!(answer.is_empty(), "{}", answer.escape_ascii());
        let streams = connect(&shard, &[(usize::MAX, Duration::ZERO)]);
        let executor = TokioExecutor::new();
        let (mut sender, driver) =
            hyper::client::conn::http2::handshake(executor, TokioIo::new(streams))
                .await
                .expect("h2");
        tokio::spawn(driver);
        let request =
            http::Request::post("http://a/predict").body(Full::new(Bytes::from(body(1000))));
        assert!(sender.send_request(request.expect("valid")).await.is_err());

        shard.shared.fleet.policy.store(chosen);
        let request =
            http::Request::post("http://a/predict").body(Full::new(Bytes::from(body(1000))));
        let answer = sender.send_request(request.expect("valid")).await.expect("answered");
        assert_eq!(answer.status(), 200, "the other streams go on");
        drop((answer, sender));
        ask_all(connect(&shard, &[(usize::MAX, Duration::ZERO)]), &[Ask::Post(1000)], true).await;
        while shard.clients.count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(shard.shared.connections.used(), 0);
        assert_eq!(shard.shared.traffic.active.load(Relaxed), 0);
        assert_eq!(shard.shared.bodies.used(), 0);
        assert_eq!(shard.shared.fleet.pool.snapshot().all()[0].in_flight(), 0);
    });
}

#[test]
fn a_panic_while_room_is_handed_out_ends_no_time_limit_and_loses_no_waiting_request() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            // The worker never answers the first request.
            let _held = listener.accept().await;
            echo(listener).await;
        });
        let settings =
            Settings { max_in_flight: Some(1), queue_timeout: Some(LONG), ..Settings::default() };
        let shard = shard(settings, address);
        let endpoint = Arc::clone(&shard.shared.fleet.pool.snapshot().all()[0]);
        let asking = async || {
            let mut client = connect(&shard, &[(usize::MAX, Duration::ZERO)]);
            client.write_all(&Ask::Post(10).bytes()).await.expect("sent");
            client
        };
        let _first = asking().await;
        while endpoint.in_flight() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut second = asking().await;
        let waiting = || shard.shared.fleet.pool.queue().waiting();
        while waiting() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let chosen = shard.shared.fleet.policy.load_full();
        let faulty = fleet::Chosen { kind: chosen.kind, policy: Arc::new(Faulty) };
        shard.shared.fleet.policy.store(Arc::new(faulty));
        endpoint.set_limit(2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(waiting(), 1, "it is not handed out");
        shard.shared.fleet.policy.store(chosen);
        let mut answer = Vec::new();
        while message(&answer).is_none() {
            assert!(second.read_buf(&mut answer).await.expect("readable") > 0);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    });
}
