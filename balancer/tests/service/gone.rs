//! Workers that die, refuse, vanish and return: what clients see, and how the workers are treated.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Act, Gate, Running, Seen, Stub, free_address, settings};
use fleet::policy::Kind;
use futures_util::future::join_all;
use tokio::net::{TcpSocket, TcpStream};

use crate::common;

#[tokio::test]
async fn a_dead_worker_costs_no_request() {
    let (alive, dead) = (Stub::named("alive").await, Stub::named("dead").await);
    let mut slow_probes = settings(&[alive.address, dead.address]);
    slow_probes.probe_interval = Some(Duration::from_mins(1));
    let balancer = Running::start(slow_probes).await;
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
    drop(dead);
    for _ in 0..30 {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "alive");
    }
    let fleet = balancer.fleet().await;
    let state = &fleet["endpoints"][1]["state"];
    assert!(state == "ejected" || state == "down", "five failures in a row: {state}");
}

/// Waits until the first worker, which is down, has been probed several more times: whatever is
/// done about its requests has been done by then.
async fn more_probes_fail(balancer: &Running) {
    let failed = async || {
        let metrics = balancer.metrics().await;
        let name = "balancer_probes_failed_total{endpoint=\"worker1\"} ";
        let value = metrics.lines().find_map(|line| line.strip_prefix(name));
        value.and_then(|value| value.parse::<u64>().ok()).expect("it is counted")
    };
    let before = failed().await;
    let more = async {
        while failed().await < before + 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), more).await.expect("it is looked at");
}

/// A listener that accepts no further connections, like a host that has vanished: its queue is
/// full. Returns the connections that fill it too.
async fn unreachable_listener() -> (socket2::Socket, SocketAddr, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket.listen(0).expect("it listens");
    let address = socket.local_addr().ok().and_then(|it| it.as_socket()).expect("an address");
    let mut filling = Vec::new();
    let connect = || tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address));
    while let Ok(Ok(stream)) = connect().await {
        filling.push(stream);
    }
    (socket, address, filling)
}

#[tokio::test]
async fn a_host_that_has_vanished_costs_no_more_than_a_moment() {
    let alive = Stub::named("alive").await;
    let (_socket, vanished, _filling) = unreachable_listener().await;
    let mut patient = settings(&[vanished, alive.address]);
    patient.probe_path = Some(String::new());
    patient.policy = Some(Kind::RoundRobin);
    patient.connect_timeout = Some(Duration::from_mins(1));
    patient.request_timeout = Some(Duration::from_mins(2));
    let balancer = Running::start(patient).await;
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
    let ask = async {
        for _ in 0..8 {
            assert_eq!(balancer.post("/predict", "", "x").await.body, "alive");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ask).await.expect("another one is tried");
}

#[tokio::test]
async fn most_hosts_vanished_at_once_cost_no_request() {
    let alive = Stub::named("alive").await;
    let [a, b, c] =
        [unreachable_listener().await, unreachable_listener().await, unreachable_listener().await];
    let mut quick = settings(&[a.1, b.1, c.1, alive.address]);
    quick.probe_path = Some(String::new());
    quick.policy = Some(Kind::RoundRobin);
    quick.connect_timeout = Some(Duration::from_millis(200));
    let balancer = Running::start(quick).await;
    balancer.until(|fleet| fleet["endpoints"][3]["state"] == "available").await;
    for _ in 0..4 {
        let answer = balancer.post("/predict", "", "x").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "alive"));
    }
}

#[tokio::test]
async fn most_workers_gone_at_once_cost_no_request() {
    let alive = Stub::named("alive").await;
    let mut gone = Vec::new();
    for _ in 0..6 {
        gone.push(Stub::named("gone").await);
    }
    let mut addresses: Vec<SocketAddr> = gone.iter().map(|stub| stub.address).collect();
    addresses.push(alive.address);
    let mut slow_probes = settings(&addresses);
    slow_probes.probe_interval = Some(Duration::from_mins(1));
    slow_probes.policy = Some(Kind::RoundRobin);
    let balancer = Running::start(slow_probes).await;
    balancer
        .until(|fleet| (0..7).all(|number| fleet["endpoints"][number]["state"] == "available"))
        .await;
    drop(gone);
    let answer = balancer.post("/predict", "", "x").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "alive"));
}

#[tokio::test]
async fn an_idle_connection_that_died_is_replaced_without_a_second_endpoint() {
    // Answers once per connection, and then closes when the next request has arrived.
    let closing = AtomicBool::new(false);
    let stub = Stub::start(move |_| {
        if closing.fetch_xor(true, Ordering::Relaxed) { Act::Close } else { Act::ok("ok") }
    })
    .await;
    let balancer = Running::before(&[&stub]).await;
    for _ in 0..5 {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "ok");
    }
    let metrics = balancer.metrics().await;
    assert!(metrics.contains("balancer_reconnects_total 4"), "{metrics}");
    assert_eq!(balancer.fleet().await["endpoints"][0]["failed"], 0);
}

#[tokio::test]
async fn a_worker_that_dies_while_it_still_takes_connections_costs_no_request() {
    let is_dying = Arc::new(AtomicBool::new(false));
    let dies = Arc::clone(&is_dying);
    let act = move |_: &Seen| {
        if dies.load(Ordering::Relaxed) { Act::Close } else { Act::ok("dying") }
    };
    let (good, dying) = (Stub::named("good").await, Stub::start(act).await);
    let balancer = Running::before(&[&good, &dying]).await;
    while good.connections() == 0 || dying.connections() == 0 {
        assert_eq!(balancer.post("/predict", "", "x").await.status, 200);
    }
    is_dying.store(true, Ordering::Relaxed);
    for _ in 0..40 {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "good");
    }
}

#[tokio::test]
async fn requests_on_a_worker_that_goes_down_are_answered_by_another() {
    let (alive, hung) = (Stub::named("alive").await, Stub::start(|_| Act::Hang).await);
    let balancer = Arc::new(Running::before(&[&alive, &hung]).await);
    balancer.verb("/fleet/worker1/drain").await;
    let waiting = Arc::clone(&balancer);
    let request = tokio::spawn(async move { waiting.post("/predict", "", "x").await });
    balancer.until(|fleet| fleet["endpoints"][1]["in_flight"] == 1).await;
    balancer.verb("/fleet/worker1/undrain").await;
    hung.set_ready(Act::Hang);
    assert_eq!(request.await.expect("no panic").body, "alive");
}

#[tokio::test]
async fn a_worker_that_is_not_ready_any_more_finishes_what_it_has() {
    let told = Gate::closed();
    let late = Act::After(told.clone(), Box::new(Act::ok("late")));
    let stub = Stub::start(move |_| late.clone()).await;
    let balancer = Arc::new(Running::before(&[&stub]).await);
    let waiting = Arc::clone(&balancer);
    let request = tokio::spawn(async move { waiting.post("/predict", "", "x").await });
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 1).await;
    stub.set_ready(Act::Answer(503, "", "{}".to_owned()));
    balancer.until(|fleet| fleet["endpoints"][0]["state"] == "down").await;
    more_probes_fail(&balancer).await;
    told.let_one_pass();
    let answer = request.await.expect("no panic");
    assert_eq!((answer.status, answer.body.as_str()), (200, "late"));
}

#[tokio::test]
async fn requests_on_a_worker_that_falls_silent_while_it_leaves_are_answered_by_another() {
    for is_drained in [false, true] {
        let (alive, leaving) = (Stub::named("alive").await, Stub::start(|_| Act::Hang).await);
        let balancer = Arc::new(Running::before(&[&alive, &leaving]).await);
        balancer.verb("/fleet/worker1/drain").await;
        let waiting = Arc::clone(&balancer);
        let request = tokio::spawn(async move { waiting.post("/predict", "", "x").await });
        balancer.until(|fleet| fleet["endpoints"][1]["in_flight"] == 1).await;
        if is_drained {
            balancer.verb("/fleet/worker2/drain").await;
        } else {
            leaving.set_ready(Act::Answer(503, "", "{}".to_owned()));
            balancer.until(|fleet| fleet["endpoints"][1]["state"] == "down").await;
        }
        balancer.verb("/fleet/worker1/undrain").await;
        leaving.set_ready(Act::Hang);
        assert_eq!(request.await.expect("no panic").body, "alive", "{is_drained}");
    }
}

#[tokio::test]
async fn a_worker_that_leaves_and_misses_one_probe_finishes_what_it_has() {
    let told = Gate::closed();
    let late = Act::After(told.clone(), Box::new(Act::ok("late")));
    let (other, leaving) = (Stub::named("other").await, Stub::start(move |_| late.clone()).await);
    let balancer = Arc::new(Running::before(&[&other, &leaving]).await);
    balancer.verb("/fleet/worker1/drain").await;
    let waiting = Arc::clone(&balancer);
    let request = tokio::spawn(async move { waiting.post("/predict", "", "x").await });
    balancer.until(|fleet| fleet["endpoints"][1]["in_flight"] == 1).await;
    let not_ready = Act::Answer(503, "", "{}".to_owned());
    leaving.set_ready(not_ready.clone());
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "down").await;
    balancer.verb("/fleet/worker1/undrain").await;
    let fault = |fleet: &serde_json::Value| fleet["endpoints"][1]["probe"]["fault"].to_string();
    leaving.set_ready(Act::Hang);
    balancer.until(|fleet| fault(fleet).contains("no answer in time")).await;
    leaving.set_ready(not_ready);
    // The fleet changes meanwhile, so that requests check their workers again.
    balancer.verb("/fleet/worker1/weight?value=2").await;
    balancer.until(|fleet| fault(fleet).contains("not ready")).await;
    told.let_one_pass();
    assert_eq!(request.await.expect("no panic").body, "late");
    assert!(other.seen().is_empty(), "it is sent once");
}

#[tokio::test]
async fn requests_that_a_killed_worker_had_are_all_answered_by_another_without_a_budget() {
    let (alive, doomed) = (Stub::named("alive").await, Stub::start(|_| Act::Hang).await);
    let mut strict = settings(&[alive.address, doomed.address]);
    strict.retry_percent = Some(0);
    let balancer = Running::start(strict).await;
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
    balancer.verb("/fleet/worker1/drain").await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let address = balancer.address;
        let request =
            "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
        clients.spawn(async move { common::exchange(address, request).await.body });
    }
    balancer.until(|fleet| fleet["endpoints"][1]["in_flight"] == 40).await;
    balancer.verb("/fleet/worker1/undrain").await;
    drop(doomed);
    while let Some(body) = clients.join_next().await {
        assert_eq!(body.expect("no panic"), "alive");
    }
}

#[tokio::test]
async fn the_time_limit_of_a_client_holds_while_the_worker_is_connected_to() {
    // A listener with a full queue neither accepts connections nor refuses them.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("bound");
    let full = socket.listen(1).expect("listening");
    let address = full.local_addr().expect("bound");
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        waiting.spawn(TcpStream::connect(address));
    }
    for _ in 0..2 {
        waiting.join_next().await.expect("some").expect("no panic").expect("the queue takes them");
    }
    let mut unprobed = settings(&[address]);
    unprobed.probe_path = Some(String::new());
    unprobed.connect_timeout = Some(Duration::from_secs(15));
    let balancer = Running::start(unprobed).await;
    let answer = balancer.post("/predict", "x-imagefleet-timeout-ms: 200\r\n", "x").await;
    assert_eq!(answer.status, 504);
    assert_eq!(balancer.fleet().await["endpoints"][0]["failed"], 0, "the client was in a hurry");
}

#[tokio::test]
async fn a_worker_that_refuses_connections_is_named_so() {
    let mut unprobed = settings(&[free_address()]);
    unprobed.probe_path = Some(String::new());
    let balancer = Running::start(unprobed).await;
    let answer = balancer.post("/predict", "", "x").await;
    assert_eq!(answer.status, 502);
    assert!(answer.error().contains("connection refused"), "{}", answer.body);
}

#[tokio::test]
async fn no_worker_at_all_is_a_503_that_says_so() {
    let balancer = Running::start_unready(&settings(&[free_address()]));
    let answer = balancer.post("/submit", "", "x").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(balancer.get("/v2/health/ready").await.status, 503);
    assert_eq!(balancer.get("/v2/health/live").await.status, 200);
    assert!(balancer.get("/").await.body.contains("No worker is ready"));
}

#[tokio::test]
async fn a_worker_that_cannot_be_reached_costs_the_others_no_request_twice() {
    let (alive, dead) = (Stub::named("alive").await, Stub::named("dead").await);
    let mut slow_probes = settings(&[alive.address, dead.address]);
    slow_probes.probe_interval = Some(Duration::from_mins(1));
    slow_probes.retry_percent = Some(0);
    let balancer = Running::start(slow_probes).await;
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
    drop(dead);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let address = balancer.address;
        clients.spawn(async move {
            let request = "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
            common::exchange(address, request).await.body
        });
    }
    while let Some(body) = clients.join_next().await {
        assert_eq!(body.expect("no panic"), "alive");
    }
    assert_eq!(alive.seen().len(), 200, "each request is worked on once");
}

#[tokio::test]
async fn without_any_worker_that_can_be_reached_a_request_is_tried_twice_and_no_more() {
    let (a, b) = (Stub::named("a").await, Stub::named("b").await);
    let mut slow_probes = settings(&[a.address, b.address]);
    slow_probes.probe_interval = Some(Duration::from_mins(1));
    let balancer = Running::start(slow_probes).await;
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
    drop((a, b));
    for _ in 0..50 {
        let status = balancer.post("/predict", "", "x").await.status;
        assert!(status == 502 || status == 503, "{status}");
    }
    let fleet = balancer.fleet().await;
    let failed: u64 = (0..2).filter_map(|n| fleet["endpoints"][n]["failed"].as_u64()).sum();
    assert!(failed <= 100, "{failed} attempts at 50 requests");
}

#[tokio::test]
async fn a_crashed_worker_that_is_back_is_used_again_at_once() {
    let (alive, crashing) = (Stub::named("alive").await, Stub::named("back").await);
    let mut usual = settings(&[alive.address, crashing.address]);
    usual.probe_interval = Some(Duration::from_secs(2));
    let balancer = Running::start(usual).await;
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
    let address = crashing.address;
    drop(crashing);
    let socket = claim(address).await;
    let is_out = async {
        while balancer.fleet().await["endpoints"][1]["state"] == "available" {
            assert_eq!(balancer.post("/predict", "", "x").await.body, "alive");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_out).await.expect("it is found out");
    let _back = Stub::on(socket.listen(1024).expect("listening"), |_| Act::ok("back"));
    // Far shorter than an ejection.
    let used = async { while balancer.post("/predict", "", "x").await.body != "back" {} };
    tokio::time::timeout(Duration::from_secs(15), used).await.expect("it is used again");
}

#[tokio::test]
async fn a_worker_that_takes_no_new_connections_finishes_what_it_has() {
    let go = Gate::closed();
    let waiting = go.clone();
    let answer = move |_: &Seen| Act::After(waiting.clone(), Box::new(Act::ok("what it had")));
    let leaver = Stub::start(answer).await;
    let balancer = Running::before(&[&leaver]).await;
    let asking = join_all((0..5).map(|_| balancer.post("/predict", "", "x")));
    let leaving = async {
        // Only requests it has read count: one is in flight while its connection opens, too.
        leaver.has_seen(5).await;
        leaver.stop_listening();
        balancer.until(|fleet| fleet["endpoints"][0]["state"] == "down").await;
        more_probes_fail(&balancer).await;
        go.open();
    };
    let (answers, ()) = tokio::join!(asking, leaving);
    for answer in answers {
        assert_eq!((answer.status, answer.body.as_str()), (200, "what it had"));
    }
}

#[tokio::test]
async fn a_worker_that_was_ejected_for_its_answers_and_restarted_is_used_again_at_once() {
    let alive = Stub::named("alive").await;
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello";
    for act in [Act::Cut(cut), Act::Answer(500, "", "broken".to_owned())] {
        let failing = Stub::start(move |_| act.clone()).await;
        let mut usual = settings(&[alive.address, failing.address]);
        usual.probe_interval = Some(Duration::from_secs(2));
        let balancer = Running::start(usual).await;
        balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
        while balancer.fleet().await["endpoints"][1]["state"] != "ejected" {
            balancer.post("/predict", "", "x").await;
        }
        let address = failing.address;
        drop(failing);
        // It takes a moment until another process listens there, and no other may get the port.
        let socket = claim(address).await;
        let failed = "balancer_probes_failed_total{endpoint=\"worker2\"} 0";
        let is_seen = async { while balancer.metrics().await.contains(failed) {} };
        tokio::time::timeout(Duration::from_secs(20), is_seen).await.expect("it is looked at");
        let _back = Stub::on(socket.listen(1024).expect("listening"), |_| Act::ok("back"));
        // Far shorter than an ejection.
        let used = async { while balancer.post("/predict", "", "x").await.body != "back" {} };
        tokio::time::timeout(Duration::from_secs(15), used).await.expect("it is used again");
    }
}

/// Binds an address that was listened on until just now, without listening.
async fn claim(address: SocketAddr) -> TcpSocket {
    loop {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("set");
        if socket.bind(address).is_ok() {
            return socket;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_at_once_does_not_attract_requests() {
    for policy in [Kind::PeakEwma, Kind::Inference] {
        let busy = Stub::start(|_| Act::Answer(503, "", "{}".to_owned())).await;
        let good = Stub::named("good").await;
        let mut chosen = settings(&[busy.address, good.address]);
        chosen.policy = Some(policy);
        let balancer = Running::start(chosen).await;
        balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
        balancer.until(|fleet| fleet["endpoints"][0]["state"] == "available").await;
        for _ in 0..40 {
            assert_eq!(balancer.post("/predict", "", "x").await.body, "good");
        }
        assert!(busy.seen().len() <= 2, "{policy:?}: {}", busy.seen().len());
    }
}
