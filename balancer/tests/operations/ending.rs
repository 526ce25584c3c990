//! Signals, and how long shutdown may take.

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{Act, Stub};
use crate::program::{Program, until};

/// A worker that never answers, and a client that waits for it.
async fn busy(drain: &str) -> (Program, Stub, TcpStream) {
    busy_with(drain, Act::Hang).await
}

/// A worker that does this, and a client that has sent it a request and reads nothing.
async fn busy_with(drain: &str, act: Act) -> (Program, Stub, TcpStream) {
    let stub = Stub::start(move |_| act.clone()).await;
    let arguments = ["--worker", &stub.address.to_string(), "--drain-timeout", drain];
    let balancer = Program::start(&arguments).await;
    balancer.until_ready().await;
    let mut client = TcpStream::connect(balancer.address).await.expect("connected");
    let request = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    client.write_all(request).await.expect("sent");
    until("the worker has the request", async || (!stub.seen().is_empty()).then_some(())).await;
    (balancer, stub, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_waits_for_requests_until_the_drain_limit_and_no_longer() {
    let (mut balancer, _stub, _client) = busy("1s").await;
    balancer.signal(Signal::TERM);
    assert!(balancer.ended().await.success(), "{}", balancer.log());
    assert!(balancer.log().contains("draining limit=1s"), "{}", balancer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_holds_up_the_end_no_longer_than_the_drain_limit() {
    let (mut balancer, _stub, client) = busy_with("1s", Act::ok(&"x".repeat(20_000_000))).await;
    client.readable().await.expect("the answer begins");
    balancer.signal(Signal::TERM);
    assert!(balancer.ended().await.success(), "{}", balancer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_it_at_once() {
    let (mut balancer, _stub, _client) = busy("1h").await;
    balancer.signal(Signal::TERM);
    let ended = until("it ends", async || {
        balancer.signal(Signal::TERM);
        balancer.child.try_wait().expect("a child")
    });
    assert_eq!(ended.await.code(), Some(1));
    balancer.until_logged("told a second time to stop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_stop_that_comes_twice_at_once_is_one() {
    let (mut balancer, _stub, _client) = busy("1s").await;
    balancer.signal(Signal::TERM);
    balancer.signal(Signal::INT);
    balancer.signal(Signal::TERM);
    assert!(balancer.ended().await.success(), "{}", balancer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_storm_changes_nothing() {
    let stub = Stub::named("alive").await;
    let balancer = Program::start(&["--worker", &stub.address.to_string()]).await;
    balancer.until_ready().await;
    for _ in 0..1_000 {
        balancer.signal(Signal::HUP);
        balancer.signal(Signal::USR1);
    }
    assert_eq!(balancer.post().await, 200);
}
