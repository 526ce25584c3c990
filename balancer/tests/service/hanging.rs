//! Workers that are slow or never answer, and clients that give up on them.

use std::time::Duration;

use common::{Act, Answer, Running, Stub, settings};
use fleet::policy::Kind;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common;

#[tokio::test]
async fn a_worker_that_hangs_is_given_up_at_the_deadline_of_the_client() {
    let stub = Stub::start(|_| Act::Hang).await;
    let balancer = Running::before(&[&stub]).await;
    let answer = balancer.post("/predict", "x-imagefleet-timeout-ms: 200\r\n", "x").await;
    assert_eq!(answer.status, 504);
    let left =
        stub.seen()[0].header("x-imagefleet-timeout-ms").and_then(|ms| ms.parse::<u64>().ok());
    assert!(left.is_some_and(|ms| ms <= 200), "{left:?}");
}

#[tokio::test]
async fn clients_without_patience_get_no_worker_ejected() {
    let (a, b) = (Stub::start(|_| Act::Hang).await, Stub::start(|_| Act::Hang).await);
    let balancer = Running::before(&[&a, &b]).await;
    // Enough for one of the two to reach the number that would eject it, and no more: on a busy
    // machine each wait takes longer than intended, which could add up.
    for _ in 0..10 {
        let answer = balancer.post("/predict", "x-imagefleet-timeout-ms: 20\r\n", "x").await;
        assert_eq!(answer.status, 504);
    }
    let fleet = balancer.fleet().await;
    for endpoint in fleet["endpoints"].as_array().expect("a list") {
        assert_eq!((&endpoint["state"], &endpoint["failed"]), (&"available".into(), &0.into()));
    }
}

#[tokio::test]
async fn a_limit_of_the_balancer_that_passes_again_and_again_ejects() {
    let (good, hung) = (Stub::named("good").await, Stub::start(|_| Act::Hang).await);
    let mut hasty = settings(&[good.address, hung.address]);
    hasty.request_timeout = Some(Duration::from_millis(60));
    let balancer = Running::start(hasty).await;
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
    let ejected = async {
        while balancer.fleet().await["endpoints"][1]["state"] != "ejected" {
            balancer.post("/predict", "", "x").await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ejected).await.expect("it is ejected");
}

#[tokio::test]
async fn clients_that_upload_for_almost_all_of_the_time_get_no_worker_ejected() {
    let (a, b) = (Stub::start(|_| Act::Hang).await, Stub::start(|_| Act::Hang).await);
    let mut hasty = settings(&[a.address, b.address]);
    hasty.request_timeout = Some(Duration::from_secs(1));
    let balancer = Running::start(hasty).await;
    for number in 0..2 {
        balancer.until(|fleet| fleet["endpoints"][number]["state"] == "available").await;
    }
    let upload = async || {
        let mut stream = TcpStream::connect(balancer.address).await.expect("connected");
        let head =
            "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\n";
        stream.write_all(format!("{head}x").as_bytes()).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(850)).await;
        stream.write_all(b"x").await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        Answer::parse(&answer).status
    };
    assert_eq!(join_all((0..14).map(|_| upload())).await, [504; 14]);
    assert!(!a.seen().is_empty() && !b.seen().is_empty());
    let fleet = balancer.fleet().await;
    for endpoint in fleet["endpoints"].as_array().expect("a list") {
        assert_eq!((&endpoint["state"], &endpoint["failed"]), (&"available".into(), &0.into()));
    }
}

#[tokio::test]
async fn a_worker_that_is_too_busy_for_its_probes_stays_as_long_as_it_answers_requests() {
    let stub = Stub::named("slow").await;
    let mut quick = settings(&[stub.address]);
    quick.probe_timeout = Some(Duration::from_millis(400));
    let balancer = Running::start(quick).await;
    stub.set_ready(Act::Hang);
    loop {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "slow");
        let metrics = balancer.metrics().await;
        let failed = metrics.lines().find(|line| line.starts_with("balancer_probes_failed_total{"));
        let failed = failed.and_then(|line| line.rsplit_once(' ')).map_or("0", |(_, n)| n);
        if failed.parse::<u32>().expect("a number") >= 5 {
            break;
        }
    }
    assert_eq!(balancer.fleet().await["endpoints"][0]["state"], "available");
    // Now it does not answer requests either: it cannot be distinguished from a dead one.
    balancer.until(|fleet| fleet["endpoints"][0]["state"] == "down").await;
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_worker() {
    let stub = Stub::start(|_| Act::Hang).await;
    let balancer = Running::before(&[&stub]).await;
    let request = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    let impatient = tokio::time::timeout(
        Duration::from_millis(300),
        common::exchange(balancer.address, request),
    );
    assert!(impatient.await.is_err());
    balancer.until(|fleet| fleet["endpoints"][0]["in_flight"] == 0).await;
    assert!(balancer.metrics().await.contains("balancer_requests_total{outcome=\"cancelled\"} 1"));
}

#[tokio::test]
async fn a_worker_that_hangs_is_left_alone_although_its_clients_give_up_first() {
    for policy in Kind::ALL {
        let (hung, good) = (Stub::start(|_| Act::Hang).await, Stub::named("good").await);
        let mut chosen = settings(&[hung.address, good.address]);
        chosen.policy = Some(policy);
        let balancer = Running::start(chosen).await;
        let all_up = |fleet: &serde_json::Value| {
            fleet["endpoints"]
                .as_array()
                .is_some_and(|all| all.iter().all(|one| one["state"] == "available"))
        };
        balancer.until(all_up).await;
        for number in 0..60 {
            let body = format!("picture {number}");
            balancer.post("/predict", "x-imagefleet-timeout-ms: 150\r\n", &body).await;
        }
        // Until it is known to hang it may have had its turns; after that it gets nothing.
        let sent = hung.seen().len();
        for number in 0..20 {
            let body = format!("another picture {number}");
            let answer = balancer.post("/predict", "", &body).await;
            assert_eq!(answer.body, "good", "{policy:?}");
        }
        assert!(sent <= 15, "{policy:?}: {sent} requests to a worker that hangs");
        assert!(hung.seen().len() <= sent + 1, "{policy:?}");
    }
}

/// Waits for an answer, or until the hanging worker has had the request for a while: one that
/// answers is never given up, however busy the machine is.
async fn until_it_hangs<T>(hung: &Stub, asking: impl Future<Output = T>) -> Option<T> {
    let before = hung.seen().len();
    let hangs = async {
        while hung.seen().len() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    };
    tokio::select! {
        answer = asking => Some(answer),
        () = hangs => None,
    }
}

#[tokio::test]
async fn a_worker_that_hangs_is_left_alone_although_its_clients_hang_up() {
    for policy in Kind::ALL {
        let (hung, good) = (Stub::start(|_| Act::Hang).await, Stub::named("good").await);
        let mut chosen = settings(&[hung.address, good.address]);
        (chosen.policy, chosen.h2c) = (Some(policy), Some(true));
        let balancer = Running::start(chosen).await;
        balancer.until(|fleet| fleet["endpoints"][0]["state"] == "available").await;
        balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
        let mut streams = common::http2(&balancer, 65_535).await;
        for number in 0..40 {
            let body = format!("picture {number}");
            if number % 2 == 0 {
                // The connection ends with the request.
                until_it_hangs(&hung, balancer.post("/predict", "", &body)).await;
            } else {
                let request = http::Request::post("http://fleet/predict").body(body.into());
                until_it_hangs(&hung, streams.send_request(request.expect("valid"))).await;
            }
        }
        let sent = hung.seen().len();
        for number in 0..20 {
            let body = format!("another picture {number}");
            let answer = until_it_hangs(&hung, balancer.post("/predict", "", &body)).await;
            assert!(answer.is_none_or(|answer| answer.body == "good"), "{policy:?}");
        }
        assert!(sent <= 15, "{policy:?}: {sent} requests to a worker that hangs");
        assert!(hung.seen().len() <= sent + 1, "{policy:?}");
    }
}
