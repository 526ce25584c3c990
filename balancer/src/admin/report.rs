//! The fleet as operators see it: `/fleet.json`, and what the page shows.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use fleet::state::Outlier;
use fleet::{Endpoint, Standing};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::history::{PERIOD, rounded};
use crate::page;
use crate::shared::Shared;
use crate::supervisor::Elasticity;
use crate::traffic::Flag;

/// The whole report, optionally with the curves of the last minutes.
pub(super) fn fleet(shared: &Shared, has_history: bool) -> Value {
    let snapshot = shared.fleet.pool.snapshot();
    let now = Instant::now();
    let kind = shared.fleet.policy.load().kind;
    let all = snapshot.all();
    let attempts: Vec<f64> = all.iter().map(|one| shared.history.attempts(one)).collect();
    let whole: f64 = attempts.iter().sum();
    let expectations = page::shares(&snapshot, kind);
    let endpoints: Vec<Value> = all
        .iter()
        .zip(attempts.iter().zip(expectations))
        .map(|(one, (attempts, expected))| {
            let mut value = endpoint(shared, one, now);
            value["expected_share"] = expected.map(rounded).into();
            value["share"] = (whole > 0.0).then(|| rounded(attempts / whole)).into();
            if has_history {
                value["history"] = shared.history.curves(one);
            }
            value
        })
        .collect();
    json!({
        "policy": kind.as_str(),
        "ready": shared.is_ready(),
        "draining": shared.is_draining.load(Relaxed),
        "panic_mode": snapshot.is_panicking(),
        "models": snapshot.models(),
        "lessons": shared.lessons().is_some(),
        "active_requests": shared.traffic.active.load(Relaxed),
        "connections": shared.connections.used(),
        "waiting_requests": shared.fleet.pool.queue().waiting(),
        "retries": shared.traffic.retries.load(Relaxed),
        "retries_denied": shared.traffic.retries_denied.load(Relaxed),
        "hedges": shared.traffic.hedges.load(Relaxed),
        "outcomes": outcomes(shared),
        "elasticity": shared.supervisor.as_ref().and_then(|it| it.elasticity()).map(elasticity),
        "history_period_s": PERIOD.as_secs_f64(),
        "endpoints": endpoints,
    })
}

/// The state of a fleet whose size follows the load.
fn elasticity(told: Elasticity) -> Value {
    let Elasticity { range, seen, utilisation, reason, started, stopped } = told;
    json!({
        "min": range.min,
        "max": range.max,
        "workers": seen.size(),
        "available": seen.available,
        "starting": seen.starting,
        "failing": seen.failing,
        "out": seen.out,
        "stopping": seen.stopping,
        "utilisation": rounded(utilisation),
        "reason": reason.map(|reason| reason.to_string()),
        "started": started,
        "stopped": stopped,
    })
}

/// The address of each endpoint, labelled with its name as in the balancer's own metrics.
pub(super) fn targets(shared: &Shared) -> Value {
    let snapshot = shared.fleet.pool.snapshot();
    let target = |endpoint: &Arc<Endpoint>| {
        let address = endpoint.address().to_string();
        json!({ "targets": [address], "labels": { "endpoint": endpoint.name() } })
    };
    snapshot.all().iter().map(target).collect()
}

/// Requests so far, by outcome.
fn outcomes(shared: &Shared) -> Value {
    let count = |flag: Flag| (flag.as_str().to_owned(), shared.traffic.count(flag).into());
    Value::Object(Flag::ALL.map(count).into_iter().collect())
}

fn endpoint(shared: &Shared, endpoint: &Endpoint, now: Instant) -> Value {
    let counters = endpoint.counters();
    let models: Vec<Value> = endpoint
        .models()
        .iter()
        .flat_map(|models| models.iter())
        .map(|model| json!({"name": model.name, "version": model.version, "state": model.state}))
        .collect();
    let seconds = |since: Instant| rounded(now.saturating_duration_since(since).as_secs_f64());
    let Standing { reason, since, probe } = endpoint.standing();
    let probe = probe
        .map(|probe| json!({"seconds_ago": seconds(probe.at), "fault": probe.fault.as_deref()}));
    let state = endpoint.state();
    let readmitted_in = match state.outlier {
        Outlier::Ejected { until, .. } => Some(until.saturating_duration_since(now).as_secs()),
        Outlier::Admitted { .. } | Outlier::Probation => None,
    };
    let joined = shared.config.joins.as_ref().and_then(|joins| joins.since(endpoint.name()));
    let latest = shared.history.latest(endpoint);
    let latest = latest.unwrap_or_default();
    json!({
        "name": endpoint.name(),
        "address": endpoint.address().to_string(),
        "state": state.availability().as_str(),
        "reason": (!reason.is_empty()).then_some(&*reason),
        "seconds_in_state": seconds(since),
        "readmitted_in_seconds": readmitted_in,
        "joined_seconds_ago": joined.map(seconds),
        "is_drained": state.draining,
        "probe": probe,
        "in_flight": endpoint.in_flight(),
        "in_flight_limit": (endpoint.limit() != u32::MAX).then(|| endpoint.limit()),
        "weight": endpoint.weight(),
        "reported_queue": endpoint.reported_queue(),
        "service_time_ms": endpoint.service_time(now) / 1e6,
        "requests_per_second": rounded(latest.rate),
        "failures_per_second": rounded(latest.failures),
        "p50_ms": latest.p50_ms.map(rounded),
        "p99_ms": latest.p99_ms.map(rounded),
        "succeeded": counters.succeeded.load(Relaxed),
        "failed": counters.failed.load(Relaxed),
        "ejections": counters.ejections.load(Relaxed),
        "probes_failed": counters.probes_failed.load(Relaxed),
        "models": models,
    })
}
