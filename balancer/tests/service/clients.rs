//! Unusual but allowed behaviour of clients: many streams at once, half a connection, unwanted
//! uploads, and input that is not HTTP at all.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::{Running, Stub, exchange, exchange_bytes, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::common;

/// Waits until the metrics contain `line`.
async fn until(balancer: &Running, line: &str) {
    let there = async {
        while !balancer.metrics().await.contains(line) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), there).await.expect(line);
}

/// Waits until the other end has read everything sent, if the system reports that.
async fn until_read(stream: &TcpStream) {
    let port = |address: std::io::Result<SocketAddr>| {
        format!(":{:04X}", address.expect("connected").port())
    };
    let (own, other) = (port(stream.local_addr()), port(stream.peer_addr()));
    let is_read = || {
        let Ok(table) = std::fs::read_to_string("/proc/net/tcp") else { return true };
        // Number, local address, remote address, state, bytes to be acknowledged and to be read.
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).all(|fields| {
            let goes = |from: &str, to: &str| fields[1].ends_with(from) && fields[2].ends_with(to);
            (!goes(&own, &other) || fields[4].starts_with("00000000:"))
                && (!goes(&other, &own) || fields[4].ends_with(":00000000"))
        })
    };
    let read = async {
        while !is_read() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("it is read");
}

async fn before(stub: &Stub, change: impl FnOnce(&mut balancer::config::Settings)) -> Running {
    let mut changed = settings(&[stub.address]);
    change(&mut changed);
    Running::start(changed).await
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
    read.await.expect("an end").expect("an orderly end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_the_others_are_answered() {
    const REQUESTS: u32 = 500;
    let stub = Stub::named("a").await;
    let balancer = before(&stub, |settings| settings.h2c = Some(true)).await;
    let stream = TcpStream::connect(balancer.address).await.expect("connected");
    let (mut sender, connection) = h2::client::Builder::new()
        // The limit that a client may assume before it has received the server's.
        .initial_max_send_streams(REQUESTS as usize)
        .handshake::<_, Bytes>(stream)
        .await
        .expect("HTTP/2");
    // Nothing is sent before the connection is driven, so the limit comes too late for them all.
    let mut answers = JoinSet::new();
    for _ in 0..REQUESTS {
        let request = http::Request::post("http://a/predict").body(()).expect("valid");
        answers.spawn(sender.send_request(request, true).expect("open").0);
    }
    tokio::spawn(connection);
    let (mut answered, mut refused) = (0, 0);
    while let Some(answer) = answers.join_next().await {
        match answer.expect("no panic") {
            Ok(answer) => answered += u32::from(answer.status() == 200),
            Err(error) => refused += u32::from(error.reason() == Some(h2::Reason::REFUSED_STREAM)),
        }
    }
    assert_eq!(answered + refused, REQUESTS, "{answered} answered, {refused} refused");
    assert!(answered >= 128, "{answered} answered");
}

#[tokio::test]
async fn a_lone_first_byte_is_not_taken_for_http_2() {
    let stub = Stub::named("a").await;
    let balancer = before(&stub, |settings| settings.h2c = Some(true)).await;
    let mut stream = TcpStream::connect(balancer.address).await.expect("connected");
    stream.write_all(b"P").await.expect("sent");
    until(&balancer, "balancer_open_connections 1").await;
    until_read(&stream).await;
    let rest =
        "OST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
    stream.write_all(rest.as_bytes()).await.expect("sent");
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn who_speaks_http_2_where_it_is_not_spoken_is_told_at_once() {
    let stub = Stub::named("a").await;
    let balancer = before(&stub, |_| {}).await;
    let mut stream = TcpStream::connect(balancer.address).await.expect("connected");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.expect("sent");
    // The client keeps its side open, as it would for answers.
    let answer = common::Answer::parse(&read_to_end(&mut stream).await);
    assert_eq!((answer.status, answer.header("connection")), (505, Some("close")));
    assert!(answer.error().contains("--h2c"), "{}", answer.body);
    let length = answer.body.len().to_string();
    assert_eq!(answer.header("content-length"), Some(&*length));
    until(&balancer, "balancer_requests_total{outcome=\"refused\"} 1").await;
}

#[tokio::test]
async fn an_idle_http_2_connection_ends_with_a_goodbye() {
    let stub = Stub::named("a").await;
    let balancer = before(&stub, |settings| {
        settings.h2c = Some(true);
        settings.keep_alive = Some(Duration::from_secs(1));
        settings.header_timeout = Some(Duration::from_secs(1));
    })
    .await;
    for requests in [1, 0] {
        let stream = TcpStream::connect(balancer.address).await.expect("connected");
        let (mut sender, mut connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        let mut answers = JoinSet::new();
        for _ in 0..requests {
            let request = http::Request::post("http://a/predict").body(()).expect("valid");
            answers.spawn(sender.send_request(request, true).expect("open").0);
        }
        let ended = tokio::time::timeout(Duration::from_secs(20), &mut connection);
        ended.await.expect("it ends").expect("in order");
        let told = sender.ready().await.expect_err("it has ended");
        assert!(told.is_go_away() && told.is_remote(), "{requests}: {told}");
    }
}

/// A request with five megabytes that are not read.
fn upload(head: &str) -> Vec<u8> {
    let mut request = format!("{head}\r\nhost: a\r\ncontent-length: 5000000\r\n\r\n").into_bytes();
    request.resize(request.len() + 5_000_000, b'x');
    request
}

#[tokio::test]
async fn a_refused_upload_is_taken_in_so_that_the_client_sees_why() {
    let stub = Stub::named("a").await;
    let balancer = before(&stub, |settings| settings.max_body_bytes = Some(1_000_000)).await;
    for (head, status) in [
        ("POST /predict HTTP/1.1\r\nexpect: 100-continue", 413),
        ("POST /predict HTTP/1.1", 413),
        ("POST /nothing HTTP/1.1", 404),
        ("PUT /submit HTTP/1.1", 405),
        ("GET / HTTP/1.1", 200),
        ("POST /predict HTTP/1.1\r\nhost: b", 400),
        ("POST /predict HTTP/1.1\r\na b: c", 400),
    ] {
        let answer = exchange_bytes(balancer.address, &upload(head)).await;
        assert_eq!(answer.status, status, "{head}");
        assert_eq!(answer.header("connection"), Some("close"), "{head}");
    }
}

#[tokio::test]
async fn a_client_that_ends_its_side_with_its_request_gets_its_answer() {
    let stub = Stub::named("answer").await;
    let balancer = before(&stub, |_| {}).await;
    for request in [
        "POST /predict HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx",
        "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(balancer.address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream.shutdown().await.expect("sent");
        assert!(read_to_end(&mut stream).await.ends_with("answer"), "{request}");
    }
    let half = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nx";
    let mut stream = TcpStream::connect(balancer.address).await.expect("connected");
    stream.write_all(half.as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("sent");
    read_to_end(&mut stream).await;
    assert_eq!(stub.seen().len(), 3, "half a request is none");
}

#[tokio::test]
async fn both_versions_take_as_many_fields() {
    let stub = Stub::named("a").await;
    let balancer = before(&stub, |settings| settings.h2c = Some(true)).await;
    // The Host field is one of them.
    for (count, status) in [(99, 200), (100, 431), (500, 431)] {
        let fields: Vec<String> = (0..count).map(|number| format!("x-{number}: 1\r\n")).collect();
        let fields = fields.concat();
        let request = format!("POST /predict HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        let answer = first_answer(balancer.address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{count}: {answer}");
        let stream = TcpStream::connect(balancer.address).await.expect("connected");
        let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut request = http::Request::post("http://a/predict");
        for number in 0..count {
            request = request.header(format!("x-{number}"), "1");
        }
        let request = request.body(()).expect("valid");
        let answer = sender.send_request(request, true).expect("open").0.await.expect("answered");
        assert_eq!(answer.status(), status, "{count}");
    }
}

/// The beginning of an answer, on a connection that may stay open.
async fn first_answer(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut answer).await.expect("read") > 0, "an answer");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn nothing_counts_after_a_trailer() {
    let stub = Stub::named("a").await;
    let balancer = before(&stub, |_| {}).await;
    let start =
        "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n";
    let next = "GET /evil HTTP/1.1\r\nhost: a\r\n\r\n";
    for trailer in ["a: b\r\n\r\n", "a: b\n\r\n", "a: b\n\n", "\n", "a: b\n\nc: d\r\n\r\n"] {
        let answer = exchange(balancer.address, &format!("{start}{trailer}{next}{next}")).await;
        assert!(answer.status == 200 || answer.status == 400, "{trailer:?} {answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{trailer:?}");
    }
    assert!(!stub.seen().iter().any(|seen| seen.line().contains("evil")));
}

#[tokio::test]
async fn what_the_parser_refuses_is_counted_and_logged() {
    let stub = Stub::named("a").await;
    let log = tempfile::NamedTempFile::new().expect("a file");
    let path = log.path().to_owned();
    let balancer = before(&stub, |settings| {
        settings.h2c = Some(true);
        settings.access_log = Some(path);
    })
    .await;
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(150));
    let broken = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nthis is no frame of HTTP/2";
    for (request, status) in [("NO HTTP\r\n\r\n", 400), (&many, 431), (broken, 0)] {
        assert_eq!(exchange(balancer.address, request).await.status, status);
    }
    until(&balancer, "balancer_requests_total{outcome=\"refused\"} 3").await;
    let logged = async {
        loop {
            let text = std::fs::read_to_string(log.path()).expect("text");
            if text.lines().count() == 3 {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(20), logged).await.expect("logged");
    for (line, status) in text.lines().zip([400, 431, 400]) {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&line["status"], &line["outcome"]), (&status.into(), &"refused".into()));
        assert_eq!(line["client"], "127.0.0.1");
        assert!(line["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{line}");
    }
}

/// Sends a request and its whole body before it reads anything, as many clients do; nothing may go
/// wrong on the way. With `Expect`, the body is sent when it is requested.
fn send_and_then_read(address: SocketAddr, head: &str, pieces: usize) -> String {
    const PIECE: usize = 100_000;
    let mut stream = std::net::TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_mins(1))).expect("set");
    stream.set_write_timeout(Some(Duration::from_mins(1))).expect("set");
    let is_chunked = head.contains("chunked");
    let framing =
        if is_chunked { String::new() } else { format!("content-length: {}\r\n", pieces * PIECE) };
    stream.write_all(format!("{head}\r\n{framing}\r\n").as_bytes()).expect("sent");
    if head.contains("asked") {
        let mut interim = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        stream.read_exact(&mut interim).expect("asked for the body");
    }
    let (before, after) =
        if is_chunked { (format!("{PIECE:x}\r\n"), "\r\n") } else { (String::new(), "") };
    let piece = [before.as_bytes(), &vec![b'x'; PIECE], after.as_bytes()].concat();
    for number in 0..pieces {
        let sent = stream.write_all(&piece);
        assert!(sent.is_ok(), "{head}: piece {number}: {sent:?}");
    }
    if is_chunked {
        stream.write_all(b"0\r\n\r\n").expect("sent");
    }
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    assert!(read.is_ok(), "{head}: {read:?}");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_everything_first_is_never_reset() {
    let stub = Stub::named("a").await;
    let balancer = before(&stub, |settings| settings.max_body_bytes = Some(1_000_000)).await;
    let (public, admin) = (balancer.address, balancer.admin);
    let load = "/v2/repository/models/m/load HTTP/1.1\r\nhost: evil.example";
    let exchanges = [
        (public, "POST /predict HTTP/1.1\r\nhost: a".to_owned(), 50, 413),
        (public, "POST /predict HTTP/1.1\r\nhost: a".to_owned(), 800, 413),
        (public, "POST /predict HTTP/1.1\r\nhost: a\r\nexpect: 100-continue".to_owned(), 50, 413),
        (
            public,
            "POST /predict HTTP/1.1\r\nhost: a\r\nx: asked\r\nexpect: 100-continue\r\ntransfer-encoding: chunked".to_owned(),
            200,
            413,
        ),
        (public, "POST /nothing HTTP/1.1\r\nhost: a".to_owned(), 50, 404),
        (public, "PUT /submit HTTP/1.1\r\nhost: a".to_owned(), 50, 405),
        (public, format!("POST {load}"), 50, 403),
        (admin, "POST /fleet/x/drain HTTP/1.1\r\nhost: evil.example".to_owned(), 50, 403),
        (admin, "POST /fleet/x/drain HTTP/1.1\r\nhost: localhost".to_owned(), 50, 404),
        (admin, "PUT /fleet HTTP/1.1\r\nhost: localhost".to_owned(), 50, 405),
    ];
    for (address, head, pieces, status) in exchanges {
        let sent = head.clone();
        let answer =
            tokio::task::spawn_blocking(move || send_and_then_read(address, &sent, pieces));
        let answer = answer.await.expect("no failure");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
        assert!(answer.contains("connection: close"), "{head}: {answer}");
    }
}

/// Uploads five megabytes on an HTTP/2 stream; nothing may go wrong on the way.
async fn upload_over_http_2(address: SocketAddr, request: http::Request<()>) -> u16 {
    let stream = TcpStream::connect(address).await.expect("connected");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let (answer, mut body) = sender.send_request(request, false).expect("open");
    let mut left = 5_000_000;
    while left > 0 {
        body.reserve_capacity(left);
        let room = poll_fn(|context| body.poll_capacity(context)).await;
        let count = room.expect("it is not reset").expect("it is not reset").min(left);
        left -= count;
        body.send_data(vec![b'x'; count].into(), left == 0).expect("it is not reset");
    }
    let status = answer.await.expect("answered").status().as_u16();
    drop((body, sender));
    connection.abort();
    status
}

#[tokio::test]
async fn an_upload_that_is_refused_over_http_2_is_not_reset() {
    let stub = Stub::named("a").await;
    let balancer = before(&stub, |settings| {
        settings.h2c = Some(true);
        settings.max_body_bytes = Some(1_000_000);
    })
    .await;
    for (method, path, status) in [
        ("POST", "/predict", 413),
        ("POST", "/nothing", 404),
        ("PUT", "/submit", 405),
        ("POST", "/v2/repository/models/m/load", 403),
        ("GET", "/", 200),
    ] {
        let request =
            http::Request::builder().method(method).uri(format!("http://evil.example{path}"));
        let upload = upload_over_http_2(balancer.address, request.body(()).expect("valid"));
        let answered = tokio::time::timeout(Duration::from_secs(20), upload).await;
        assert_eq!(answered.expect("an answer"), status, "{method} {path}");
    }
}

#[tokio::test]
async fn an_http_2_connection_that_makes_room_ends_with_a_goodbye_in_time() {
    let stub = Stub::named("a").await;
    let balancer = before(&stub, |settings| {
        settings.h2c = Some(true);
        settings.max_connections = Some(1);
    })
    .await;
    let stream = TcpStream::connect(balancer.address).await.expect("connected");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://a/predict").body(()).expect("valid");
    let answer = sender.send_request(request, true).expect("open").0.await.expect("answered");
    assert_eq!(answer.status(), 200);
    drop(answer);
    assert_eq!(balancer.get("/v2/health/live").await.status, 200, "there is room");
    let ended = tokio::time::timeout(Duration::from_secs(20), connection).await;
    ended.expect("it ends").expect("no panic").expect("in order");
    let told = sender.ready().await.expect_err("it has ended");
    assert!(told.is_go_away() && told.is_remote(), "{told}");
    // A client that does not respond to GOAWAY.
    let mut mute = TcpStream::connect(balancer.address).await.expect("connected");
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    mute.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat())
        .await
        .expect("sent");
    until(&balancer, "balancer_open_connections 1").await;
    assert!(mute.read_u8().await.is_ok(), "it is HTTP/2");
    assert_eq!(balancer.get("/v2/health/live").await.status, 200, "there is room");
    let heard = read_to_end(&mut mute).await;
    assert!(
        heard.as_bytes().windows(4).any(|window| window == [8, 7, 0, 0]),
        "a goodbye: {heard:?}"
    );
}

/// The start of an unfinished head.
const HALF: &str = "GET /v2/health/live HTTP/1.1\r\nhost: ";

/// Status and outcome of each line of an access log, once it has `count` lines.
async fn logged(path: &Path, count: usize) -> Vec<(u64, String)> {
    let there = async {
        loop {
            let text = std::fs::read_to_string(path).expect("text");
            if text.lines().count() >= count {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(20), there).await.expect("logged");
    let line = |line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let outcome = line["outcome"].as_str().unwrap_or_default();
        (line["status"].as_u64().unwrap_or_default(), outcome.to_owned())
    };
    text.lines().map(line).collect()
}

#[tokio::test]
async fn a_head_that_is_late_is_answered_counted_and_logged_and_silence_is_not() {
    let stub = Stub::named("a").await;
    let log = tempfile::NamedTempFile::new().expect("a file");
    let path = log.path().to_owned();
    let balancer = before(&stub, |settings| {
        settings.header_timeout = Some(Duration::from_millis(100));
        settings.access_log = Some(path);
    })
    .await;
    assert_eq!(exchange(balancer.address, "").await.status, 0);
    assert_eq!(exchange(balancer.address, "\r\n").await.status, 0, "an empty line is nothing");
    let mut slow = TcpStream::connect(balancer.address).await.expect("connected");
    slow.write_all(HALF.as_bytes()).await.expect("sent");
    let told = slow.read_u8().await;
    assert!(told.is_ok(), "{told:?}");
    for _ in 0..100 {
        slow.write_all(b"a").await.expect("what comes too late resets nothing");
        tokio::task::yield_now().await;
    }
    assert!(read_to_end(&mut slow).await.starts_with("TTP/1.1 408"));
    drop(slow);
    until(&balancer, "balancer_open_connections 0").await;
    until(&balancer, "balancer_requests_total{outcome=\"refused\"} 1").await;
    assert_eq!(logged(log.path(), 1).await, [(408, "refused".to_owned())]);
}

#[tokio::test]
async fn a_client_that_leaves_within_a_head_is_counted_and_logged_and_one_that_says_nothing_is_not()
{
    let stub = Stub::named("a").await;
    let log = tempfile::NamedTempFile::new().expect("a file");
    let path = log.path().to_owned();
    let balancer = before(&stub, |settings| settings.access_log = Some(path)).await;
    // Browsers open connections in case they are needed.
    drop(TcpStream::connect(balancer.address).await.expect("connected"));
    let mut leaving = TcpStream::connect(balancer.address).await.expect("connected");
    leaving.write_all(HALF.as_bytes()).await.expect("sent");
    leaving.shutdown().await.expect("sent");
    assert_eq!(read_to_end(&mut leaving).await, "");
    // Half of the next request arrives with the one before.
    let mut leaving = TcpStream::connect(balancer.address).await.expect("connected");
    leaving.write_all(format!("{HALF}a\r\n\r\n{HALF}").as_bytes()).await.expect("sent");
    assert!(leaving.read_u8().await.is_ok(), "an answer");
    leaving.shutdown().await.expect("sent");
    read_to_end(&mut leaving).await;
    until(&balancer, "balancer_open_connections 0").await;
    until(&balancer, "balancer_requests_total{outcome=\"cancelled\"} 2").await;
    let expected = [(400, "cancelled"), (200, "local"), (400, "cancelled")];
    let expected = expected.map(|(status, outcome)| (status, outcome.to_owned()));
    assert_eq!(logged(log.path(), 3).await, expected);
}
