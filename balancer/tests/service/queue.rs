//! Which request gets a slot that becomes free, and that none waits while there is one.

use std::net::SocketAddr;
use std::time::Duration;

use common::{Act, Answer, Gate, Running, Stub, exchange, form, settings};
use http_body_util::Full;
use tokio::task::JoinHandle;

use crate::common;

/// One request per worker, and a queue that lasts longer than any test.
async fn narrow(stubs: &[&Stub]) -> Running {
    let addresses: Vec<SocketAddr> = stubs.iter().map(|stub| stub.address).collect();
    let mut narrow = settings(&addresses);
    narrow.max_in_flight = Some(1);
    narrow.queue_timeout = Some(Duration::from_mins(1));
    let balancer = Running::start(narrow).await;
    let known = |fleet: &serde_json::Value| {
        let all = fleet["endpoints"].as_array().expect("a list");
        all.iter().all(|one| one["state"] == "available" && one["in_flight_limit"] == 1)
    };
    balancer.until(known).await;
    balancer
}

fn send(balancer: &Running, path: &str, extra: &str, body: &str) -> JoinHandle<Answer> {
    let (address, length) = (balancer.address, body.len());
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n{extra}\r\n{body}"
    );
    tokio::spawn(async move { exchange(address, &request).await })
}

/// A request that only the first worker may take.
fn send_to_first(balancer: &Running) -> JoinHandle<Answer> {
    let (kind, body) = form(&[("number_backend_servers", "1"), ("image", "x")]);
    send(balancer, "/submit", kind, &body)
}

async fn until_waiting(balancer: &Running, count: usize) {
    let line = format!("balancer_queue_depth {count}\n");
    let wait = async {
        while !balancer.metrics().await.contains(&line) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("they wait");
}

#[tokio::test]
async fn the_limit_of_an_endpoint_holds_whether_it_is_probed_or_not() {
    let stub = Stub::named("a").await;
    for probe_path in [None, Some(String::new())] {
        let mut narrow = settings(&[stub.address]);
        (narrow.max_in_flight, narrow.probe_path) = (Some(3), probe_path);
        let fleet = Running::start(narrow).await.fleet().await;
        assert_eq!(fleet["endpoints"][0]["in_flight_limit"], 3);
    }
}

#[tokio::test]
async fn a_request_that_moves_on_leaves_its_room_to_those_who_wait() {
    let told = Gate::closed();
    let failing = told.clone();
    let a = Stub::start(move |seen| {
        if seen.line().contains("/predict?fail") {
            Act::After(failing.clone(), Box::new(Act::Answer(500, "", "{}".to_owned())))
        } else {
            Act::ok("a")
        }
    })
    .await;
    let b = Stub::start(|_| Act::Hang).await;
    let balancer = narrow(&[&a, &b]).await;
    balancer.verb("/fleet/worker2/drain").await;
    let moving = send(&balancer, "/predict?fail", "", "x");
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 1).await;
    let waiting = send_to_first(&balancer);
    until_waiting(&balancer, 1).await;
    balancer.verb("/fleet/worker2/undrain").await;
    told.let_one_pass();
    assert_eq!(waiting.await.expect("no panic").body, "a");
    assert_eq!(balancer.fleet().await["endpoints"][1]["in_flight"], 1, "the other still hangs");
    moving.abort();
}

#[tokio::test]
async fn a_queue_for_one_worker_does_not_hold_up_those_that_another_can_take() {
    let a = Stub::start(|_| Act::Hang).await;
    let b = Stub::named("b").await;
    let balancer = narrow(&[&a, &b]).await;
    let (holding, picky) = (send_to_first(&balancer), send_to_first(&balancer));
    until_waiting(&balancer, 1).await;
    for _ in 0..5 {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "b");
    }
    until_waiting(&balancer, 1).await;
    holding.abort();
    picky.abort();
}

#[tokio::test]
async fn a_worker_that_comes_back_serves_those_who_wait() {
    let a = Stub::start(|_| Act::Hang).await;
    let b = Stub::named("b").await;
    let balancer = narrow(&[&a, &b]).await;
    balancer.verb("/fleet/worker2/drain").await;
    let holding = send(&balancer, "/predict", "", "x");
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 1).await;
    let waiting = send(&balancer, "/predict", "", "x");
    until_waiting(&balancer, 1).await;
    balancer.verb("/fleet/worker2/undrain").await;
    assert_eq!(waiting.await.expect("no panic").body, "b");
    holding.abort();
}

#[tokio::test]
async fn many_clients_of_few_places_all_get_their_turn() {
    let (a, b) = (Stub::named("ok").await, Stub::named("ok").await);
    let balancer = narrow(&[&a, &b]).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let address = balancer.address;
        clients.spawn(async move {
            let request = "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
            for _ in 0..20 {
                assert_eq!(exchange(address, request).await.body, "ok");
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("every answer came");
    }
    let fleet = balancer.fleet().await;
    assert_eq!(fleet["active_requests"], 0);
}

#[tokio::test]
async fn requests_for_what_no_worker_serves_never_wait() {
    let stub = Stub::start(|_| Act::Hang).await;
    stub.set_models(&[("mnist", "READY")]);
    let balancer = narrow(&[&stub]).await;
    let holding = send(&balancer, "/predict", "", "x");
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 1).await;
    let waiting = send(&balancer, "/v1/models/mnist/versions/1:predict", "", "x");
    until_waiting(&balancer, 1).await;
    for path in ["/v1/models/mnist/versions/2:predict", "/v1/models/oracle:predict"] {
        let answer = balancer.post(path, "", "x").await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
    }
    until_waiting(&balancer, 1).await;
    holding.abort();
    waiting.abort();
}

#[tokio::test]
async fn a_thousand_names_in_line_delay_no_other_request() {
    let stub = Stub::start(|_| Act::Hang).await;
    let names: Vec<String> = (0..1000).map(|number| format!("model{number}")).collect();
    let models: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "READY")).collect();
    stub.set_models(&models);
    let mut narrow = settings(&[stub.address]);
    (narrow.max_in_flight, narrow.h2c) = (Some(1), Some(true));
    narrow.queue_timeout = Some(Duration::from_mins(1));
    narrow.max_queue = Some(2000);
    let balancer = Running::start(narrow).await;
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight_limit"] == 1).await;
    let holding = send(&balancer, "/predict", "", "x");
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 1).await;
    let mut waiting = tokio::task::JoinSet::new();
    // Clients that send requests while the others arrive do not wait for seconds either.
    let asking = async {
        loop {
            let asked = balancer.get("/v2/health/live");
            let answer = tokio::time::timeout(Duration::from_secs(3), asked);
            assert_eq!(answer.await.expect("an answer soon").status, 200);
        }
    };
    for some in names.chunks(100) {
        let streams = common::http2(&balancer, 65_535).await;
        for name in some {
            let path = format!("http://fleet/v1/models/{name}:predict");
            let request = http::Request::post(path).body(Full::default()).expect("valid");
            let mut streams = streams.clone();
            waiting.spawn(async move { drop(streams.send_request(request).await) });
        }
    }
    tokio::select! {
        () = until_waiting(&balancer, 1000) => {}
        () = asking => {}
    }
    for number in 0..50 {
        assert_eq!(balancer.get("/v2/health/live").await.status, 200);
        let unknown = format!("/v1/models/unknown{number}:predict");
        assert_eq!(balancer.post(&unknown, "", "x").await.status, 404);
    }
    until_waiting(&balancer, 1000).await;
    drop(waiting);
    until_waiting(&balancer, 0).await;
    holding.abort();
}

#[tokio::test]
async fn a_request_that_met_dead_workers_waits_for_one_that_is_only_full() {
    let told = Gate::closed();
    let holding = told.clone();
    let full = Stub::start(move |_| Act::After(holding.clone(), Box::new(Act::ok("full")))).await;
    let (gone, lost) = (Stub::named("gone").await, Stub::named("lost").await);
    let mut narrow = settings(&[full.address, gone.address, lost.address]);
    narrow.max_in_flight = Some(1);
    narrow.queue_timeout = Some(Duration::from_mins(1));
    narrow.probe_interval = Some(Duration::from_mins(1));
    let balancer = Running::start(narrow).await;
    balancer
        .until(|fleet| (0..3).all(|number| fleet["endpoints"][number]["state"] == "available"))
        .await;
    let first = send_to_first(&balancer);
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 1).await;
    drop((gone, lost));
    let second = send(&balancer, "/predict", "", "x");
    until_waiting(&balancer, 1).await;
    told.let_one_pass();
    assert_eq!(first.await.expect("no panic").body, "full");
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 1).await;
    told.let_one_pass();
    let answer = second.await.expect("no panic");
    assert_eq!((answer.status, answer.body.as_str()), (200, "full"));
}
