//! Clients that send too much, too slowly, or with wrong framing.

use std::time::Duration;

use common::{Act, Gate, Running, Stub, exchange, exchange_bytes, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common;

#[tokio::test]
async fn a_body_over_the_limit_is_a_413_however_it_is_framed() {
    let stub = Stub::named("a").await;
    let mut small = settings(&[stub.address]);
    small.max_body_bytes = Some(1000);
    let balancer = Running::start(small).await;
    assert_eq!(balancer.post("/predict", "", &"x".repeat(1000)).await.status, 200);
    let announced = balancer.post("/predict", "", &"x".repeat(1001)).await;
    assert_eq!(announced.status, 413);
    assert!(announced.error().contains("1 kB"), "{}", announced.body);
    let chunk = format!("{:x}\r\n{}\r\n", 600, "x".repeat(600));
    let chunked = format!(
        "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    assert_eq!(exchange(balancer.address, &chunked).await.status, 413);
    assert_eq!(stub.seen().len(), 1);
}

#[tokio::test]
async fn fifty_megabytes_are_refused_and_the_client_gets_to_read_why() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    let mut request =
        b"POST /submit HTTP/1.1\r\nhost: a\r\ncontent-length: 50000000\r\n\r\n".to_vec();
    request.resize(request.len() + 50_000_000, b'x');
    assert_eq!(exchange_bytes(balancer.address, &request).await.status, 413);
}

#[tokio::test]
async fn all_bodies_together_stay_within_their_budget() {
    let stub = Stub::named("a").await;
    let mut small = settings(&[stub.address]);
    small.max_body_bytes = Some(10_000);
    small.max_bodies_bytes = Some(15_000);
    let balancer = Running::start(small).await;
    let hold = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 10000\r\n\r\n".to_owned()
        + &"x".repeat(9_999);
    let address = balancer.address;
    let unfinished = tokio::spawn(async move { exchange(address, &hold).await });
    let metric = "balancer_body_bytes 9999";
    tokio::time::timeout(Duration::from_secs(10), async {
        while !balancer.metrics().await.contains(metric) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is held");
    let answer = balancer.post("/predict", "", &"x".repeat(9_000)).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    unfinished.abort();
}

#[tokio::test]
async fn a_body_that_stalls_is_a_408() {
    let stub = Stub::named("a").await;
    let mut quick = settings(&[stub.address]);
    quick.body_timeout = Some(Duration::from_millis(200));
    let balancer = Running::start(quick).await;
    let stalled = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf";
    assert_eq!(exchange(balancer.address, stalled).await.status, 408);
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let stub = Stub::named("a").await;
    let mut quick = settings(&[stub.address]);
    quick.header_timeout = Some(Duration::from_millis(200));
    let balancer = Running::start(quick).await;
    let slow = exchange(balancer.address, "GET / HTTP/1.1\r\nhost: a\r\n").await;
    assert_eq!((slow.status, slow.header("connection")), (408, Some("close")));
    let silent = exchange(balancer.address, "").await;
    assert_eq!(silent.status, 0, "nothing was asked");
}

#[tokio::test]
async fn an_idle_connection_gives_its_buffers_back_and_still_works() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    let mut stream = TcpStream::connect(balancer.address).await.expect("connected");
    for _ in 0..3 {
        stream
            .write_all(b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx")
            .await
            .expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\na") {
            assert!(stream.read_buf(&mut answer).await.expect("read") > 0);
        }
        // Longer than the time after which a connection is parked.
        tokio::time::sleep(Duration::from_millis(2100)).await;
    }
}

#[tokio::test]
async fn heads_beyond_the_limits_have_their_own_statuses() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    let long = "x".repeat(9 * 1024);
    assert_eq!(balancer.get(&format!("/{long}")).await.status, 414);
    let fields = format!("a: {long}\r\nb: {long}\r\n");
    assert_eq!(balancer.post("/predict", &fields, "x").await.status, 431);
    let many = "x: 1\r\n".repeat(150);
    assert_eq!(balancer.post("/predict", &many, "x").await.status, 431);
}

#[tokio::test]
async fn requests_wait_in_line_for_room_and_are_shed_when_it_is_too_long() {
    let hold_or_answer =
        |seen: &common::Seen| if seen.line().contains("hold") { Act::Hang } else { Act::ok("ok") };
    let stub = Stub::start(hold_or_answer).await;
    let mut narrow = settings(&[stub.address]);
    narrow.max_in_flight = Some(1);
    narrow.max_queue = Some(1);
    narrow.queue_timeout = Some(Duration::from_secs(10));
    let balancer = std::sync::Arc::new(Running::start(narrow).await);
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight_limit"] == 1).await;
    let address = balancer.address;
    let mut holding = TcpStream::connect(address).await.expect("connected");
    holding.write_all(asking("hold").as_bytes()).await.expect("sent");
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 1).await;
    let waiting = tokio::spawn(exchange_owned(address, "wait"));
    tokio::time::timeout(Duration::from_secs(10), async {
        while !balancer.metrics().await.contains("balancer_queue_depth 1") {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it waits");
    let shed = balancer.post("/predict", "", "x").await;
    assert_eq!((shed.status, shed.header("retry-after")), (429, Some("1")));
    // A client that merely closes this early may still want the answer.
    holding.set_zero_linger().expect("set");
    drop(holding);
    assert_eq!(waiting.await.expect("no panic").body, "ok");
}

fn asking(query: &str) -> String {
    format!(
        "POST /predict?{query} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx"
    )
}

async fn exchange_owned(address: std::net::SocketAddr, query: &str) -> common::Answer {
    exchange(address, &asking(query)).await
}

#[tokio::test]
async fn an_address_may_hold_only_so_many_connections() {
    let stub = Stub::named("a").await;
    let mut narrow = settings(&[stub.address]);
    narrow.max_connections_per_ip = Some(1);
    let balancer = Running::start(narrow).await;
    let first = TcpStream::connect(balancer.address).await.expect("connected");
    tokio::time::timeout(Duration::from_secs(10), async {
        while !balancer.metrics().await.contains("balancer_open_connections 1") {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is counted");
    assert_eq!(balancer.get("/").await.status, 0, "turned away");
    drop(first);
}

#[tokio::test]
async fn an_empty_post_has_a_length_too() {
    let stub = Stub::named("a").await;
    let balancer = Running::before(&[&stub]).await;
    assert_eq!(balancer.post("/predict", "", "").await.status, 200);
    assert_eq!(stub.seen()[0].header("content-length"), Some("0"));
}

/// Each of these must be rejected, or reach the worker as exactly one request with a plain body.
const SMUGGLING: [&str; 22] = [
    "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
    "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
    "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy",
    "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\nxy",
    "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx",
    "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\nx",
    "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 0x1\r\n\r\nx",
    "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length : 1\r\n\r\nx",
    "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "POST /predict HTTP/1.1\r\nhost: a\r\nfoo: bar\r\n transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\nx",
    "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;a=b\nX\r\nx\r\n0\r\n\r\n",
    "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\nx\r\n0\r\n\r\n",
    "POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
    "POST /predict HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 1\r\n\r\nx",
    "POST http://evil/predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx",
    "POST /predict HTTP/1.1\r\nhost: a\r\nx: a\rb\r\ncontent-length: 1\r\n\r\nx",
    "POST /predict HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
];

#[tokio::test]
async fn what_is_framed_ambiguously_is_refused_or_forwarded_as_one_clean_request() {
    for attack in SMUGGLING {
        let stub = Stub::named("a").await;
        let mut quick = settings(&[stub.address]);
        quick.header_timeout = Some(Duration::from_millis(300));
        quick.body_timeout = Some(Duration::from_millis(300));
        let balancer = Running::start(quick).await;
        let answer = exchange(balancer.address, attack).await;
        let seen = stub.seen();
        assert!(!seen.iter().any(|seen| seen.line().contains("evil")), "{attack:?} {seen:?}");
        match seen.as_slice() {
            [] => assert!(answer.status == 0 || answer.status >= 400, "{attack:?} {answer:?}"),
            [one] => {
                assert_eq!(one.header("transfer-encoding"), None, "{attack:?}");
                assert_eq!(
                    one.header("content-length").map_or(0, |v| v.parse().expect("one number")),
                    one.body.len(),
                    "{attack:?}"
                );
            }
            several => panic!("{attack:?} became {several:?}"),
        }
    }
}

#[tokio::test]
async fn chunked_bodies_reach_the_worker_with_one_length() {
    let stub = Stub::start(|seen| Act::ok(&seen.body.len().to_string())).await;
    let balancer = Running::before(&[&stub]).await;
    let request = "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\ntrailer: x\r\n\r\n";
    assert_eq!(exchange(balancer.address, request).await.body, "7");
    let seen = &stub.seen()[0];
    assert_eq!(
        (seen.header("content-length"), seen.header("transfer-encoding")),
        (Some("7"), None)
    );
    assert_eq!(seen.body, b"abcdefg");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_is_asked_for_its_body() {
    let stub = Stub::start(|seen| Act::ok(&format!("{:?}", seen.header("expect")))).await;
    let balancer = Running::before(&[&stub]).await;
    let request = "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\nx";
    let answer = exchange(balancer.address, request).await;
    assert_eq!(answer.status, 100);
    assert!(
        answer.body.starts_with("HTTP/1.1 200") && answer.body.ends_with("None"),
        "{}",
        answer.body
    );
}

/// Sends a request and reads its answer; the connection stays open.
async fn ask_on(stream: &mut TcpStream) -> bool {
    let request = b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n";
    if stream.write_all(request).await.is_err() {
        return false;
    }
    let mut answer = Vec::new();
    while !answer.ends_with(b"}\n") {
        if stream.read_buf(&mut answer).await.is_ok_and(|count| count > 0) {
            continue;
        }
        return false;
    }
    answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn idle_clients_give_way_to_new_ones_when_there_are_too_many() {
    let stub = Stub::named("a").await;
    let mut narrow = settings(&[stub.address]);
    narrow.max_connections = Some(20);
    let balancer = Running::start(narrow).await;
    let mut idle = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(balancer.address).await.expect("connected");
        // Some clients send nothing at all, and some only the start of a request.
        match number % 4 {
            0 => {}
            1 => stream.write_all(b"GET /v2").await.expect("sent"),
            _ => assert!(ask_on(&mut stream).await, "client {number} is answered"),
        }
        idle.push(stream);
    }
    let mut youngest = idle.pop().expect("some");
    assert!(ask_on(&mut youngest).await, "who came last is still welcome");
    assert_eq!(balancer.post("/predict", "", "x").await.status, 200);
    let fleet = balancer.until(|fleet| fleet["connections"].as_u64() <= Some(20)).await;
    assert!(fleet["connections"].as_u64() > Some(0));
}

#[tokio::test]
async fn busy_clients_never_give_way() {
    let told = Gate::closed();
    let after = told.clone();
    let stub = Stub::start(move |_| Act::After(after.clone(), Box::new(Act::ok("late")))).await;
    let mut narrow = settings(&[stub.address]);
    narrow.max_connections = Some(2);
    let balancer = Running::start(narrow).await;
    let busy = [0, 1].map(|_| {
        let address = balancer.address;
        let request =
            "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
        tokio::spawn(async move { exchange(address, request).await.status })
    });
    balancer.until(|fleet| fleet["active_requests"] == 2).await;
    let refused = balancer.get("/v2/health/live").await;
    assert_eq!(refused.status, 0, "there is no room, and no idle client to close");
    told.open();
    for one in busy {
        assert_eq!(one.await.expect("no panic"), 200);
    }
    assert_eq!(balancer.get("/v2/health/live").await.status, 200);
}
