//! Slow requests are also sent to a second worker; the first answer counts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use common::{Act, Running, Stub, settings};

use crate::common;

const WARM_UP: usize = 150;
const TRAPS: usize = 10;

#[tokio::test]
async fn a_stalled_request_is_answered_by_another_worker_and_then_cancelled() {
    let trap = Arc::new(AtomicBool::new(false));
    let script = |trap: &Arc<AtomicBool>| {
        let trap = Arc::clone(trap);
        move |_: &common::Seen| if trap.swap(false, Relaxed) { Act::Hang } else { Act::ok("ok") }
    };
    let (one, two) = (Stub::start(script(&trap)).await, Stub::start(script(&trap)).await);
    let mut hedged = settings(&[one.address, two.address]);
    hedged.hedge = Some(true);
    let log = tempfile::NamedTempFile::new().expect("a file");
    hedged.access_log = Some(log.path().to_owned());
    let balancer = Running::start(hedged).await;
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
    for _ in 0..WARM_UP {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "ok");
    }
    let mut rescued = 0;
    for _ in 0..TRAPS {
        trap.store(true, Relaxed);
        // If no hedge is left, this request is lost, as it would be without hedging.
        let answer = balancer.post("/predict", "x-imagefleet-timeout-ms: 500\r\n", "x").await;
        rescued += usize::from(answer.status == 200);
        for _ in 0..40 {
            assert_eq!(balancer.post("/predict", "", "x").await.body, "ok");
        }
    }
    assert!(rescued >= TRAPS / 2, "{rescued}");
    let idle = |fleet: &serde_json::Value| {
        fleet["endpoints"].as_array().is_some_and(|all| all.iter().all(|one| one["in_flight"] == 0))
    };
    balancer.until(idle).await;
    let metrics = balancer.metrics().await;
    let count = |name: &str| -> usize {
        let line = metrics.lines().find(|line| line.starts_with(name)).expect("a counter");
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    };
    let (sent, won) = (count("balancer_hedges_total"), count("balancer_hedges_won_total"));
    assert!(won >= rescued && sent >= won, "{sent} {won}");
    assert!(sent <= (WARM_UP + TRAPS * 41) / 20 + 1, "{sent} hedges are more than 5 %");
    assert_eq!(logged_tries(log.path(), WARM_UP + TRAPS * 41).await, [sent, 0]);
}

/// Once `requests` are logged: how many were tried twice, and how many neither once nor twice.
async fn logged_tries(log: &Path, requests: usize) -> [usize; 2] {
    let read = async {
        loop {
            let text = std::fs::read_to_string(log).expect("text");
            if text.lines().count() == requests {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(20), read).await.expect("logged");
    let tries = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["tries"].as_u64().expect("a number")
    };
    let count = |is_it: fn(u64) -> bool| text.lines().filter(|line| is_it(tries(line))).count();
    [count(|tries| tries == 2), count(|tries| tries == 0 || tries > 2)]
}
