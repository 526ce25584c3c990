//! Workers that answer, but with errors, with something other than HTTP, or incompletely.

use common::{Act, Running, Seen, Stub, settings};

use crate::common;

#[tokio::test]
async fn a_worker_that_always_answers_500_is_ejected_and_nobody_notices() {
    let (good, bad) =
        (Stub::named("good").await, Stub::start(|_| Act::Answer(500, "", "{}".to_owned())).await);
    let balancer = Running::before(&[&good, &bad]).await;
    for _ in 0..40 {
        assert_eq!(balancer.post("/predict", "", "x").await.status, 200);
    }
    assert_eq!(bad.seen().len(), 5);
    assert_eq!(balancer.fleet().await["endpoints"][1]["state"], "ejected");
}

#[tokio::test]
async fn the_last_endpoint_is_never_ejected_and_its_errors_pass_through() {
    let bad =
        Stub::start(|_| Act::Answer(500, "", "{\"error\":\"model panicked\"}".to_owned())).await;
    let balancer = Running::before(&[&bad]).await;
    for _ in 0..12 {
        let answer = balancer.post("/predict", "", "x").await;
        assert_eq!((answer.status, answer.error().as_str()), (500, "model panicked"));
    }
    assert_eq!(balancer.fleet().await["endpoints"][0]["state"], "available");
}

#[tokio::test]
async fn busy_is_not_broken() {
    let (free, busy) =
        (Stub::named("free").await, Stub::start(|_| Act::Answer(429, "", "{}".to_owned())).await);
    let balancer = Running::before(&[&free, &busy]).await;
    for _ in 0..40 {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "free");
    }
    let fleet = balancer.fleet().await;
    assert_eq!(fleet["endpoints"][1]["state"], "available");
    assert_eq!(fleet["endpoints"][1]["failed"], 0);
}

#[tokio::test]
async fn a_request_that_breaks_every_connection_is_sent_twice_in_all() {
    let poison = |seen: &Seen| {
        if seen.body == b"poison" { Act::Close } else { Act::ok("ok") }
    };
    let stubs = [
        Stub::start(poison).await,
        Stub::start(poison).await,
        Stub::start(poison).await,
        Stub::start(poison).await,
    ];
    let balancer = Running::before(&stubs.each_ref()).await;
    // Every worker has an idle connection, so that a fresh one may be tried after it.
    for _ in 0..40 {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "ok");
    }
    assert!(stubs.iter().all(|stub| stub.connections() > 0));
    for round in 1..=5 {
        let answer = balancer.post("/predict", "", "poison").await;
        assert_eq!(answer.status, 502);
        assert!(answer.error().contains("closed without an answer"), "{}", answer.body);
        let sent = stubs.iter().flat_map(Stub::seen).filter(|seen| seen.body == b"poison").count();
        assert!(sent <= round * 2, "{sent} times for {round} requests");
    }
}

#[tokio::test]
async fn an_answer_whose_first_chunk_is_broken_is_a_502_and_counts_against_its_worker() {
    let broken = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n";
    let bad = Stub::start(move |_| Act::Cut(broken)).await;
    let balancer = Running::before(&[&bad]).await;
    let answer = balancer.post("/predict", "", "x").await;
    assert_eq!(answer.status, 502);
    assert!(answer.error().contains("not framed"), "{}", answer.body);
    let endpoint = &balancer.fleet().await["endpoints"][0];
    assert_eq!((&endpoint["failed"], &endpoint["succeeded"]), (&1.into(), &0.into()));
}

#[tokio::test]
async fn a_worker_whose_answers_break_off_is_ejected_and_nobody_notices() {
    for cut in [
        "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    ] {
        let (good, bad) = (Stub::named("good").await, Stub::start(move |_| Act::Cut(cut)).await);
        let balancer = Running::before(&[&good, &bad]).await;
        for _ in 0..40 {
            let answer = balancer.post("/predict", "", "x").await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "good"), "{cut}");
        }
        assert_eq!(balancer.fleet().await["endpoints"][1]["state"], "ejected", "{cut}");
    }
}

#[tokio::test]
async fn a_long_answer_that_breaks_off_counts_against_its_worker() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\nhello";
    let stub = Stub::start(move |_| Act::Cut(cut)).await;
    let balancer = Running::before(&[&stub]).await;
    let answer = balancer.post("/predict", "", "x").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"), "it had begun");
    let endpoint = &balancer.fleet().await["endpoints"][0];
    assert_eq!((&endpoint["failed"], &endpoint["succeeded"]), (&1.into(), &0.into()));
    let metrics = balancer.metrics().await;
    assert!(
        metrics.contains("balancer_requests_total{outcome=\"upstream_failed\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn an_answer_that_says_when_to_come_back_is_better_than_none() {
    let busy = |_: &Seen| Act::Answer(503, "retry-after: 7\r\n", "{}".to_owned());
    let (busy, dead) = (Stub::start(busy).await, Stub::start(|_| Act::Close).await);
    let mut patient = settings(&[busy.address, dead.address]);
    patient.retry_percent = Some(100);
    let balancer = Running::start(patient).await;
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
    for _ in 0..20 {
        let answer = balancer.post("/predict", "", "x").await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")));
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_a_502() {
    let stub = Stub::start(|_| Act::Raw(b"garbage\r\n\r\n".to_vec())).await;
    let balancer = Running::before(&[&stub]).await;
    let answer = balancer.post("/predict", "", "x").await;
    assert_eq!(answer.status, 502);
    assert!(answer.error().contains("not HTTP"), "{}", answer.body);
}
