//! Which endpoints get requests: drained, weighted, probed, or chosen by a key; and shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use balancer::config::Settings;
use common::{Act, Running, Stub, settings};
use fleet::policy::Kind;
use tokio::net::TcpStream;

use crate::common;

#[tokio::test]
async fn a_balancer_among_its_own_workers_is_found_out() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut circular = settings(&[]);
    circular.workers_file = Some(file.path().to_owned());
    circular.probe_path = Some("/v2/health/live".to_owned());
    let balancer = Running::start_unready(&circular);
    std::fs::write(file.path(), balancer.address.to_string()).expect("written");
    balancer.reload.notify_one();
    balancer.until(|fleet| fleet["endpoints"][0]["state"] == "available").await;
    let answer = balancer.post("/predict", "", "x").await;
    assert_eq!(answer.status, 508);
    assert!(answer.error().contains("own address"), "{}", answer.body);
    let metrics = balancer.metrics().await;
    assert!(metrics.contains("balancer_requests_total{outcome=\"refused\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_worker_is_taken_out_by_its_probes_and_brought_back() {
    let (a, b) = (Stub::named("a").await, Stub::named("b").await);
    let balancer = Running::before(&[&a, &b]).await;
    b.set_ready(Act::Answer(503, "", "{}".to_owned()));
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "down").await;
    for _ in 0..10 {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "a");
    }
    b.set_ready(Act::ok("{}"));
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
}

#[tokio::test]
async fn a_worker_that_answers_503_is_asked_at_once_whether_it_is_ready() {
    let a = Stub::named("a").await;
    let b = Stub::start(|_| Act::Answer(503, "", "{}".to_owned())).await;
    let rarely_probed = Settings {
        probe_interval: Some(Duration::from_hours(1)),
        ..settings(&[a.address, b.address])
    };
    let balancer = Running::start(rarely_probed).await;
    let is_up = |fleet: &serde_json::Value| fleet["endpoints"][1]["state"] == "available";
    balancer.until(is_up).await;
    b.set_ready(Act::Answer(503, "", "{}".to_owned()));
    while !b.seen().iter().any(|seen| seen.line().contains("/predict")) {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "a");
    }
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "down").await;
    b.set_ready(Act::ok("{}"));
    balancer.until(is_up).await;
}

#[tokio::test]
async fn a_503_to_a_probe_of_another_path_counts_as_one_failed_probe() {
    let full = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&full);
    let stub = Stub::start(move |seen| {
        let one_less = |left: usize| left.checked_sub(1);
        let is_probe = seen.line().contains("/busy");
        if is_probe && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Act::Answer(503, "", "{}".to_owned());
        }
        Act::ok("a")
    })
    .await;
    let mut foreign = settings(&[stub.address]);
    foreign.probe_path = Some("/busy".to_owned());
    let balancer = Running::start(foreign).await;
    full.store(2, Ordering::SeqCst);
    let has_room_again = |fleet: &serde_json::Value| {
        assert_eq!(fleet["endpoints"][0]["state"], "available", "it is only full");
        full.load(Ordering::SeqCst) == 0 && fleet["endpoints"][0]["probe"]["fault"].is_null()
    };
    balancer.until(has_room_again).await;
    full.store(usize::MAX, Ordering::SeqCst);
    balancer.until(|fleet| fleet["endpoints"][0]["state"] == "down").await;
}

#[tokio::test]
async fn drained_endpoints_get_nothing_until_they_are_undrained() {
    let (a, b) = (Stub::named("a").await, Stub::named("b").await);
    let balancer = Running::before(&[&a, &b]).await;
    assert_eq!(balancer.verb("/fleet/worker1/drain").await.status, 200);
    for _ in 0..10 {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "b");
    }
    balancer.verb("/fleet/worker1/undrain").await;
    balancer.verb("/fleet/worker2/drain").await;
    assert_eq!(balancer.post("/predict", "", "x").await.body, "a");
    assert_eq!(balancer.verb("/fleet/worker9/drain").await.status, 404);
    assert_eq!(balancer.verb("/fleet/worker1/dance").await.status, 404);
    assert_eq!(balancer.verb("/fleet/policy?name=nonsense").await.status, 400);
    assert_eq!(balancer.verb("/fleet/policy?name=p2c").await.status, 200);
    assert_eq!(balancer.fleet().await["policy"], "p2c");
}

#[tokio::test]
async fn stopping_finishes_what_was_begun_and_takes_nothing_new() {
    let released = Arc::new(AtomicUsize::new(0));
    let waiting = Arc::clone(&released);
    let stub = Stub::start(move |_| {
        waiting.fetch_add(1, Ordering::SeqCst);
        Act::ok(&"x".repeat(500_000))
    })
    .await;
    let mut balancer = Running::before(&[&stub]).await;
    let address: SocketAddr = balancer.address;
    let answers = tokio::spawn(async move {
        let request = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
        common::exchange(address, request).await
    });
    while released.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    balancer.tell_to_stop();
    assert_eq!(answers.await.expect("no panic").body.len(), 500_000);
    balancer.stopped().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_is_no_worker_is_never_up() {
    let (worker, other) = (Stub::named("worker").await, Stub::named("other program").await);
    other.set_models_to("<!doctype html>");
    let balancer = Running::start(settings(&[worker.address, other.address])).await;
    balancer.until(|fleet| fleet["endpoints"][0]["state"] == "available").await;
    let failed = "balancer_probes_failed_total{endpoint=\"worker2\"} 3";
    while !balancer.metrics().await.contains(failed) {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "worker");
    }
    assert_eq!(balancer.fleet().await["endpoints"][1]["state"], "new");
    // Another program has taken the worker's port.
    worker.set_models_to("{}");
    balancer.until(|fleet| fleet["endpoints"][0]["state"] == "down").await;
}

#[tokio::test]
async fn a_worker_of_very_many_models_is_up_and_one_of_too_many_is_not_and_the_reason_is_told() {
    let entry = |version| format!(r#"{{"name":"m","version":"{version}","state":"READY"}}"#);
    let list = |count| format!("[{}]", (1..=count).map(entry).collect::<Vec<_>>().join(","));
    let stub = Stub::named("a").await;
    let told = |fleet: &serde_json::Value| {
        let fault = fleet["endpoints"][0]["probe"]["fault"].as_str();
        fault.is_some_and(|fault| fault.contains("too many models: at most 10000 versions"))
    };
    for too_many in [list(10_001), " ".repeat(2 * 1024 * 1024 + 1)] {
        stub.set_models_to(&too_many);
        let balancer = Running::start_unready(&settings(&[stub.address]));
        let fleet = balancer.until(told).await;
        assert_eq!(fleet["endpoints"][0]["state"], "new");
    }
    stub.set_models_to(&list(10_000));
    let balancer = Running::before(&[&stub]).await;
    assert_eq!(balancer.post("/predict?model=m&version=10000", "", "x").await.body, "a");
}

#[tokio::test]
async fn a_worker_may_leave_out_of_its_index_what_the_protocol_lets_it() {
    let worker = Stub::named("worker").await;
    worker.set_models_to(r#"[{"name": "m", "version": "1", "state": "READY"}, {"name": "idle"}]"#);
    let balancer = Running::start(settings(&[worker.address])).await;
    balancer.until(|fleet| fleet["endpoints"][0]["state"] == "available").await;
    assert_eq!(balancer.post("/v2/models/m/infer", "", "{}").await.status, 200);
}

#[tokio::test]
async fn a_weight_of_0_means_no_retries_and_no_overflow() {
    let busy = Stub::start(|_| Act::Answer(503, "", "{}".to_owned())).await;
    let spare = Stub::named("spare").await;
    let balancer = Running::before(&[&busy, &spare]).await;
    assert_eq!(balancer.verb("/fleet/worker2/weight?value=0").await.status, 200);
    for _ in 0..10 {
        assert_eq!(balancer.post("/predict", "", "x").await.status, 503);
    }
    assert!(spare.seen().is_empty());
    balancer.verb("/fleet/worker2/weight?value=1").await;
    assert_eq!(balancer.post("/predict", "", "x").await.body, "spare");
}

#[tokio::test]
async fn requests_without_a_key_are_spread_by_the_hash_policy() {
    let stubs = [Stub::named("a").await, Stub::named("b").await, Stub::named("c").await];
    let addresses: Vec<SocketAddr> = stubs.iter().map(|stub| stub.address).collect();
    let mut hashed = settings(&addresses);
    hashed.policy = Some(Kind::Hash);
    hashed.hash_header = Some("x-user".to_owned());
    let balancer = Running::start(hashed).await;
    for number in 0..3 {
        balancer.until(|fleet| fleet["endpoints"][number]["state"] == "available").await;
    }
    for _ in 0..60 {
        balancer.post("/predict", "", "x").await;
    }
    for stub in &stubs {
        assert!((5..=40).contains(&stub.seen().len()), "{}", stub.seen().len());
    }
}
