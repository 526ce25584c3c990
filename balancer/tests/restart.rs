//! A new balancer takes over from an old one under load, again and again, and no request fails.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use common::{Running, Stub, exchange, free_address, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const RESTARTS: usize = 8;
const CLIENTS: usize = 8;

/// The results of clients.
#[derive(Debug, Default)]
struct Seen {
    answered: AtomicUsize,
    failed: AtomicUsize,
}

/// Sends a request on an open connection; true if the connection can carry another.
async fn ask(stream: &mut TcpStream) -> Option<bool> {
    let request = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    asked(stream, request, "alive").await
}

/// The same with another request, whose answer ends with `end`.
async fn asked(stream: &mut TcpStream, request: &str, end: &str) -> Option<bool> {
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    head.starts_with("http/1.1 200").then(|| !head.contains("connection: close"))
}

/// Sends requests until `ending`; every second client opens a connection for each request.
async fn client(address: SocketAddr, keeps: bool, seen: Arc<Seen>, ending: Arc<AtomicBool>) {
    let mut kept = None;
    while !ending.load(Relaxed) {
        let stream = match kept.take() {
            Some(stream) => Some(stream),
            None => TcpStream::connect(address).await.ok(),
        };
        let Some(mut stream) = stream else {
            seen.failed.fetch_add(1, Relaxed);
            continue;
        };
        let limited = tokio::time::timeout(Duration::from_secs(10), ask(&mut stream)).await;
        match limited.ok().flatten() {
            Some(is_open) => {
                seen.answered.fetch_add(1, Relaxed);
                kept = (is_open && keeps).then_some(stream);
            }
            None => drop(seen.failed.fetch_add(1, Relaxed)),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_loop_under_load_loses_nothing() {
    let stub = Stub::named("alive").await;
    let address = free_address();
    let mut fixed = settings(&[stub.address]);
    fixed.listen = Some(address);
    fixed.threads = std::num::NonZeroUsize::new(2);
    let mut running = Running::start(fixed.clone()).await;
    let (seen, ending) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = client(address, number % 2 == 0, Arc::clone(&seen), Arc::clone(&ending));
            tokio::spawn(client)
        })
        .collect();
    for round in 1..=RESTARTS {
        let next = Running::start(fixed.clone()).await;
        running.tell_to_stop();
        running.stopped().await;
        running = next;
        let wanted = seen.answered.load(Relaxed) + 50;
        let more = async {
            while seen.answered.load(Relaxed) < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), more).await.expect("answers go on");
        assert_eq!(seen.failed.load(Relaxed), 0, "restart {round}");
    }
    ending.store(true, Relaxed);
    for client in clients {
        client.await.expect("no panic");
    }
    assert_eq!(seen.failed.load(Relaxed), 0);
    println!("{RESTARTS} restarts, {} answers, none lost", seen.answered.load(Relaxed));
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Renews the lease of a worker at whatever process answers at the address, forever.
async fn renew(balancer: SocketAddr, worker: SocketAddr) {
    let body = format!(r#"{{"name":"a","instance":"1","address":"{worker}","port":1}}"#);
    let (path, length) = (wire::join::JOIN, body.len());
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\nauthorization: Bearer {TOKEN}\r\n\r\n{body}"
    );
    loop {
        assert_eq!(exchange(balancer, &request).await.status, 200);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_workers_join_they_join_the_process_that_takes_over_and_nothing_is_lost() {
    for keeps_admin in [true, false] {
        workers_join_the_process_that_takes_over(keeps_admin).await;
    }
}

/// `keeps_admin`: whether all processes use the same admin port.
async fn workers_join_the_process_that_takes_over(keeps_admin: bool) {
    let stub = Stub::named("alive").await;
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), TOKEN).expect("written");
    let (address, admin) = (free_address(), free_address());
    let mut fixed = settings(&[]);
    (fixed.listen, fixed.admin) = (Some(address), Some(admin));
    (fixed.accept_joins, fixed.join_token_file) = (Some(true), Some(token.path().to_owned()));
    let mut running = Running::start_unready(&fixed);
    let renewing = tokio::spawn(renew(address, stub.address));
    running.until(|fleet| fleet["ready"] == true).await;
    let (seen, ending) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = client(address, number % 2 == 0, Arc::clone(&seen), Arc::clone(&ending));
            tokio::spawn(client)
        })
        .collect();
    for round in 1..=4 {
        if !keeps_admin {
            fixed.admin = Some(free_address());
        }
        let next = Running::start(fixed.clone()).await;
        running.tell_to_stop();
        running.stopped().await;
        running = next;
        assert_eq!(seen.failed.load(Relaxed), 0, "restart {round}, same port: {keeps_admin}");
    }
    ending.store(true, Relaxed);
    for client in clients {
        client.await.expect("no panic");
    }
    assert_eq!(seen.failed.load(Relaxed), 0);
    assert!(!renewing.is_finished(), "each renewal was answered");
    renewing.abort();
}

/// The same at the admin port.
async fn ask_operator(stream: &mut TcpStream) -> Option<bool> {
    asked(stream, "GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n", "}\n").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_an_operator_has_asked_is_answered_while_another_process_takes_over() {
    let stub = Stub::named("alive").await;
    let mut fixed = settings(&[stub.address]);
    (fixed.listen, fixed.admin) = (Some(free_address()), Some(free_address()));
    let mut first = Running::start(fixed.clone()).await;
    let mut idle = TcpStream::connect(first.admin).await.expect("connected");
    assert_eq!(ask_operator(&mut idle).await, Some(true));
    let mut fresh = TcpStream::connect(first.admin).await.expect("connected");
    // Connections are accepted in order: this one has been when a later one is answered.
    assert_eq!(first.fleet().await["ready"], true);
    let second = Running::start_unready(&fixed);
    assert_eq!(ask_operator(&mut fresh).await, Some(false), "answered, and told to come again");
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), idle.read_to_end(&mut rest)).await;
    assert!(matches!(closed, Ok(Ok(0))), "the next request goes to the other process: {closed:?}");
    second.until(|fleet| fleet["ready"] == true).await;
    first.tell_to_stop();
    first.stopped().await;
}

#[tokio::test]
async fn an_idle_client_may_ask_once_more_while_the_balancer_drains() {
    let stub = Stub::named("alive").await;
    let mut balancer = Running::before(&[&stub]).await;
    let mut kept = TcpStream::connect(balancer.address).await.expect("connected");
    assert_eq!(ask(&mut kept).await, Some(true));
    balancer.tell_to_stop();
    balancer.until(|fleet| fleet["draining"] == true).await;
    assert_eq!(ask(&mut kept).await, Some(false), "answered, and told that it was the last");
    balancer.stopped().await;
}
