//! Requests that take long are sent to a second worker; the first answer counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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
    let balancer = Running::start(hedged).await;
    balancer.until(|fleet| fleet["endpoints"][1]["state"] == "available").await;
    for _ in 0..WARM_UP {
        assert_eq!(balancer.post("/predict", "", "x").await.body, "ok");
    }
    let mut rescued = 0;
    for _ in 0..TRAPS {
        trap.store(true, Relaxed);
        // Without a hedge left to send, this one is lost, as it would be without hedging.
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
}
