//! Answers in transit: workers that send them in odd pieces or too early, and clients that do not
//! read them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Act, Http2, RawWorker, Running, Stub, exchange, exchange_bytes, http2, settings};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::common;

fn request(path: &str) -> http::Request<Full<Bytes>> {
    http::Request::post(format!("http://fleet{path}")).body(Full::default()).expect("valid")
}

async fn with_h2c(stub: &Stub, change: impl FnOnce(&mut balancer::config::Settings)) -> Running {
    let mut settings = settings(&[stub.address]);
    settings.h2c = Some(true);
    change(&mut settings);
    Running::start(settings).await
}

async fn until_metric(balancer: &Running, line: &str) {
    let there = async {
        while !balancer.metrics().await.contains(line) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), there).await.expect(line);
}

#[tokio::test]
async fn a_worker_is_free_when_it_has_answered_whether_the_client_reads_or_not() {
    let stub = Stub::start(|_| Act::ok(&"x".repeat(100_000))).await;
    let narrow = |settings: &mut balancer::config::Settings| settings.max_in_flight = Some(2);
    let balancer = with_h2c(&stub, narrow).await;
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight_limit"] == 2).await;
    let mut greedy = http2(&balancer, 0).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        let response = greedy.send_request(request("/predict")).await.expect("a head");
        assert_eq!(response.status(), 200);
        held.push(response);
    }
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 0).await;
    let other = balancer.post("/predict", "", "x").await;
    assert_eq!((other.status, other.body.len()), (200, 100_000));
    let metrics = balancer.metrics().await;
    assert!(metrics.contains("balancer_requests_total{outcome=\"answered\"} 1\n"), "{metrics}");
    drop((held, greedy));
    until_metric(&balancer, "balancer_requests_total{outcome=\"cancelled\"} 20\n").await;
}

#[tokio::test]
async fn an_answer_too_long_to_be_kept_holds_its_worker_no_longer_than_the_time_limit() {
    let stub = Stub::start(|_| Act::ok(&"x".repeat(20_000_000))).await;
    let hasty = |settings: &mut balancer::config::Settings| {
        settings.max_in_flight = Some(2);
        settings.request_timeout = Some(Duration::from_secs(2));
    };
    let balancer = with_h2c(&stub, hasty).await;
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight_limit"] == 2).await;
    let mut streams = http2(&balancer, 0).await;
    let response = streams.send_request(request("/predict")).await.expect("a head");
    let mut plain = TcpStream::connect(balancer.address).await.expect("connected");
    let text = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    plain.write_all(text.as_bytes()).await.expect("sent");
    until_metric(&balancer, "balancer_answers_given_up_total 2\n").await;
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 0).await;
    // Each client learns that its answer is incomplete; the other streams continue.
    assert!(response.into_body().collect().await.is_err());
    let mut read = Vec::new();
    drop(plain.read_to_end(&mut read).await);
    assert!(read.len() < 20_000_000, "{}", read.len());
    let live = streams.send_request(request("/v2/health/live")).await.expect("an open connection");
    assert_eq!(live.status(), 405);
    assert_eq!(balancer.fleet().await["endpoints"][0]["failed"], 0, "it is the clients' fault");
}

#[tokio::test]
async fn a_client_that_sips_holds_its_worker_no_longer_than_the_time_limit() {
    let stub = Stub::start(|_| Act::ok(&"x".repeat(20_000_000))).await;
    let hasty = |settings: &mut balancer::config::Settings| {
        settings.request_timeout = Some(Duration::from_secs(2));
    };
    let balancer = with_h2c(&stub, hasty).await;
    let mut streams = http2(&balancer, 1000).await;
    let response = streams.send_request(request("/predict")).await.expect("a head");
    let mut plain = TcpStream::connect(balancer.address).await.expect("connected");
    let text = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    plain.write_all(text.as_bytes()).await.expect("sent");
    // Each client reads a little whenever it can, as long as it gets something.
    let (mut body, mut sip) = (response.into_body(), [0; 1000]);
    let sipping = async {
        while !balancer.metrics().await.contains("balancer_answers_given_up_total 2\n") {
            drop(body.frame().await);
            drop(plain.read(&mut sip).await);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), sipping).await.expect("both are given up");
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 0).await;
    // The HTTP/1.1 client sees the end of its connection, and is counted as one of them.
    let mut rest = Vec::new();
    drop(plain.read_to_end(&mut rest).await);
    assert!(rest.len() < 20_000_000, "{}", rest.len());
    until_metric(&balancer, "balancer_requests_total{outcome=\"answered\"} 0\n").await;
    assert_eq!(balancer.fleet().await["endpoints"][0]["failed"], 0, "it is the clients' fault");
}

/// Requests a whole answer.
async fn ask_whole(mut streams: Http2) -> hyper::Result<Bytes> {
    let response = streams.send_request(request("/predict")).await?;
    Ok(response.into_body().collect().await?.to_bytes())
}

#[tokio::test]
async fn streams_that_are_not_read_keep_no_room_from_others() {
    let stub = Stub::start(|_| Act::ok(&"x".repeat(10_000))).await;
    let narrow = |settings: &mut balancer::config::Settings| settings.max_in_flight = Some(8);
    let balancer = with_h2c(&stub, narrow).await;
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight_limit"] == 8).await;
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let streams = http2(&balancer, 0).await;
        let asks = (0..100).map(|_| ask_whole(streams.clone()));
        crowd.spawn(futures_util::future::join_all(asks.collect::<Vec<_>>()));
    }
    until_metric(&balancer, "balancer_active_requests 1000\n").await;
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 0).await;
    for _ in 0..200 {
        let answer = balancer.post("/predict", "", "x").await;
        assert_eq!((answer.status, answer.body.len()), (200, 10_000));
    }
    assert!(balancer.metrics().await.contains("balancer_active_requests 1000\n"), "they wait");
}

#[tokio::test]
async fn all_answers_that_wait_for_their_clients_fit_into_a_bounded_memory() {
    let stub = Stub::start(|_| Act::ok(&"x".repeat(300_000))).await;
    let small = |settings: &mut balancer::config::Settings| {
        settings.max_answers_bytes = Some(1_000_000);
    };
    let balancer = with_h2c(&stub, small).await;
    let mut greedy = http2(&balancer, 0).await;
    let mut held = Vec::new();
    let given_up = "balancer_answers_given_up_total 0\n";
    let stalled = async {
        while balancer.metrics().await.contains(given_up) {
            held.push(greedy.send_request(request("/predict")).await.expect("a head"));
            // A client that reads is served throughout.
            assert_eq!(balancer.post("/predict", "", "x").await.body.len(), 300_000);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), stalled).await.expect("the oldest are given up");
    assert!(held.remove(0).into_body().collect().await.is_err(), "the one that waited longest");
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_the_whole_answer() {
    let stub = Stub::start(|_| Act::ok(&"x".repeat(500_000))).await;
    let balancer = with_h2c(&stub, |_| {}).await;
    let mut tiny = http2(&balancer, 100).await;
    let response = tiny.send_request(request("/predict")).await.expect("a head");
    let body = response.into_body().collect().await.expect("all of it").to_bytes();
    assert_eq!(body.len(), 500_000);
    until_metric(&balancer, "balancer_requests_total{outcome=\"answered\"} 1\n").await;
}

#[tokio::test]
async fn a_client_that_vanishes_within_an_answer_frees_its_worker() {
    let stub = Stub::start(|_| Act::ok(&"x".repeat(50_000_000))).await;
    let balancer = Running::before(&[&stub]).await;
    let mut client = TcpStream::connect(balancer.address).await.expect("connected");
    let text = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    client.write_all(text.as_bytes()).await.expect("sent");
    client.read_exact(&mut [0; 1000]).await.expect("a beginning");
    drop(client);
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 0).await;
    until_metric(&balancer, "balancer_requests_total{outcome=\"cancelled\"} 1\n").await;
}

/// Reads a head, and returns the bytes that were read after it.
async fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            return Some(read.split_off(end + 4));
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn an_answer_that_begins_before_the_request_has_ended_cuts_neither() {
    const SIZE: usize = 30_000_000;
    let worker = RawWorker::start(|mut stream| async move {
        let Some(rest) = read_head(&mut stream).await else { return };
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n").await.expect("sent");
        let mut left = SIZE - rest.len();
        let mut buffer = vec![0; 100_000];
        while left > 0 {
            match stream.read(&mut buffer).await.expect("read") {
                0 => return,
                count => left -= count,
            }
        }
        stream.write_all(b"all of i").await.expect("sent");
    });
    let worker = worker.await;
    let mut large = worker.settings();
    large.max_body_bytes = Some(SIZE);
    large.max_bodies_bytes = Some(SIZE);
    let balancer = Running::start(large).await;
    let head = format!(
        "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {SIZE}\r\n\r\n"
    );
    let mut whole = head.into_bytes();
    whole.resize(whole.len() + SIZE, b'x');
    let answer = exchange_bytes(balancer.address, &whole).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "all of i"));
    until_metric(&balancer, "balancer_body_bytes 0\n").await;
}

#[tokio::test]
async fn a_worker_that_answers_without_reading_the_request_is_heard() {
    for ending in ["connection: close\r\n", ""] {
        let worker = RawWorker::start(move |mut stream| async move {
            if read_head(&mut stream).await.is_none() {
                return;
            }
            let answer = format!("HTTP/1.1 413 X\r\n{ending}content-length: 100000\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("sent");
            stream.write_all(&vec![b'x'; 100_000]).await.expect("sent");
            // It reads no more. Closing with unread bytes would reset the socket, answer and all.
            drop(stream.shutdown().await);
            std::future::pending::<()>().await;
        });
        let worker = worker.await;
        let balancer = Running::start(worker.settings()).await;
        let body = "x".repeat(8_000_000);
        for _ in 0..3 {
            let answer = balancer.post("/predict", "", &body).await;
            assert_eq!((answer.status, answer.body.len()), (413, 100_000));
        }
    }
}

#[tokio::test]
async fn a_head_tells_the_length_of_the_page_that_it_does_not_send() {
    let stub = Stub::named("a").await;
    let balancer = with_h2c(&stub, |_| {}).await;
    let whole = balancer.get("/").await;
    let head = "HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let plain = exchange(balancer.address, head).await;
    assert_eq!((plain.status, plain.body.as_str()), (200, ""));
    assert_eq!(plain.header("content-length"), Some(whole.body.len().to_string().as_str()));
    let mut client = http2(&balancer, 65_535).await;
    let head = http::Request::head("http://a/").body(Full::default()).expect("valid");
    let response = client.send_request(head).await.expect("an answer");
    let length = response.headers()["content-length"].to_str().expect("text").to_owned();
    assert_eq!(length, whole.body.len().to_string());
    let body = response.into_body().collect().await.expect("an end").to_bytes();
    assert!(body.is_empty(), "{body:?}");
}

/// A worker's answer to any request, as bytes; whether it closes the connection afterwards; and the
/// status and body that a client should see.
#[derive(Debug, Clone)]
struct Script {
    wire: Vec<u8>,
    closes: bool,
    is_head: bool,
    status: u16,
    body: Vec<u8>,
}

fn framed(framing: u8, body: &[u8], out: &mut Vec<u8>) {
    match framing {
        0 => {
            out.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            out.extend_from_slice(body);
        }
        1 => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for (number, chunk) in body.chunks(1 + body.len() / 3).enumerate() {
                let extension = ["", ";a=b", " ;quoted=\"x;y\""][number % 3];
                out.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\nx-trailer: 1\r\n\r\n");
        }
        _ => {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(body);
        }
    }
}

fn script() -> impl Strategy<Value = Script> {
    let body = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 4_000..5_000),
        1 => Just(vec![b'x'; 150_000]),
    ];
    (body, 0_u8..4, 0_usize..3, 0_u8..8, any::<bool>()).prop_map(
        |(body, framing, interim, kind, says_close)| {
            let mut wire = Vec::new();
            for _ in 0..interim {
                wire.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
            }
            let status = match kind {
                0 => 204,
                1 => 304,
                2 => 404,
                _ => 200,
            };
            let version = if framing == 3 { "1.0" } else { "1.1" };
            wire.extend_from_slice(format!("HTTP/{version} {status} X\r\n").as_bytes());
            if says_close {
                wire.extend_from_slice(b"Connection: close\r\n");
            }
            let is_head = kind == 3;
            let body = if is_head || status < 400 && status > 200 { Vec::new() } else { body };
            match (status, is_head) {
                (204 | 304, _) => wire.extend_from_slice(b"\r\n"),
                (_, true) => wire.extend_from_slice(b"content-length: 77\r\n\r\n"),
                _ => framed(framing, &body, &mut wire),
            }
            let has_end = is_head || status == 204 || status == 304 || framing < 2;
            Script { wire, closes: says_close || !has_end, is_head, status, body }
        },
    )
}

/// The outcome of an answer: its status, and its body if complete.
type Outcome = (u16, Option<Vec<u8>>);

/// Sends a request with hyper's client, which parses answers independently.
async fn ask(address: std::net::SocketAddr, is_head: bool) -> Outcome {
    let stream = TcpStream::connect(address).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    let connection = tokio::spawn(connection);
    let method = if is_head { http::Method::HEAD } else { http::Method::GET };
    let request = http::Request::builder().method(method).uri("/predict").header("host", "a");
    let request = request.header("connection", "close").body(Full::<Bytes>::default());
    let response = sender.send_request(request.expect("valid")).await.expect("an answer");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok().map(|body| body.to_bytes().to_vec());
    connection.abort();
    (status, body)
}

/// A worker that writes the pieces it is given, and lets the test continue between them.
struct Piecewise {
    worker: RawWorker,
    pieces: mpsc::UnboundedSender<Piece>,
    written: mpsc::UnboundedReceiver<()>,
}

/// The next step of a worker.
#[derive(Debug)]
enum Piece {
    Write(Vec<u8>),
    /// The answer is complete.
    Rest,
    /// The answer is complete, and the connection ends.
    Close,
}

/// State shared by the worker's connections: the next steps, and where to report each as done.
type Told = (tokio::sync::Mutex<mpsc::UnboundedReceiver<Piece>>, mpsc::UnboundedSender<()>);

/// Writes one answer; false if the connection ends with it.
async fn write_pieces(stream: &mut TcpStream, (told, done): &Told) -> bool {
    let mut told = told.lock().await;
    loop {
        match told.recv().await {
            Some(Piece::Write(piece)) => {
                drop(stream.write_all(&piece).await);
                done.send(()).expect("the test goes on");
            }
            Some(Piece::Rest) => return true,
            Some(Piece::Close) | None => return false,
        }
    }
}

impl Piecewise {
    async fn start() -> Self {
        let (pieces, to_write) = mpsc::unbounded_channel();
        let (tell, written) = mpsc::unbounded_channel();
        let told: Arc<Told> = Arc::new((tokio::sync::Mutex::new(to_write), tell));
        let worker = RawWorker::start(move |mut stream| {
            let told = Arc::clone(&told);
            async move {
                while read_head(&mut stream).await.is_some()
                    && write_pieces(&mut stream, &told).await
                {}
            }
        });
        Self { worker: worker.await, pieces, written }
    }

    /// Answers the next request in pieces that end at `cuts`. Between two of them, another request
    /// is sent to the balancer on the same thread: when that is answered, it has seen the piece.
    async fn answer(&mut self, script: &Script, cuts: &[usize], balancer: Option<&Running>) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % script.wire.len()).collect();
        cuts.extend([0, script.wire.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        for ends in cuts.windows(2) {
            let piece = script.wire[ends[0]..ends[1]].to_vec();
            self.pieces.send(Piece::Write(piece)).expect("a worker");
            self.written.recv().await.expect("a worker");
            if let Some(balancer) = balancer {
                assert_eq!(balancer.get("/v2/health/live").await.status, 200);
            }
        }
        let end = if script.closes { Piece::Close } else { Piece::Rest };
        self.pieces.send(end).expect("a worker");
    }
}

#[test]
fn it_does_not_matter_in_which_pieces_a_worker_sends_its_answer() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (piecewise, balancer) = runtime.block_on(async {
        let piecewise = Piecewise::start().await;
        let balancer = Running::start(piecewise.worker.settings()).await;
        (tokio::sync::Mutex::new(piecewise), balancer)
    });
    let cuts = prop::collection::vec(any::<usize>(), 0..6);
    let config = ProptestConfig { cases: 150, ..ProptestConfig::default() };
    proptest!(config, |(script in script(), cuts in cuts)| {
        let expected = (script.status, Some(script.body.clone()));
        let (direct, through) = runtime.block_on(async {
            let mut piecewise = piecewise.lock().await;
            let worker = piecewise.worker.address;
            let direct = tokio::spawn(ask(worker, script.is_head));
            piecewise.answer(&script, &[], None).await;
            let direct = direct.await.expect("no panic");
            let through = tokio::spawn(ask(balancer.address, script.is_head));
            piecewise.answer(&script, &cuts, Some(&balancer)).await;
            (direct, through.await.expect("no panic"))
        });
        prop_assert_eq!(&direct, &expected, "hyper's client and the test agree");
        prop_assert_eq!(&through, &expected);
    });
}
