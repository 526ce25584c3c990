//! The prober of one endpoint.
//!
//! Every interval (with 20 % jitter, so that many balancers do not probe in step) it asks whether
//! the worker is ready, over a new connection as a client would. After a failure it asks again at
//! once: an endpoint that hangs is found out in three time limits, not in three intervals. A worker
//! that is ready also tells its models.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use wire::ModelIndexEntry;

use crate::shared::Shared;
use crate::upstream::{Endpoint, Event, state::Probe};

/// Longest answer to a probe.
const MAX_ANSWER: usize = 256 * 1024;
/// Pause after a failed probe of an endpoint that still counts as up.
const SOON: Duration = Duration::from_millis(100);

/// Probes `endpoint` until it is dropped.
pub(super) async fn run(shared: Arc<Shared>, endpoint: Arc<Endpoint>, hurry: Arc<Notify>) {
    loop {
        let passed = probe(&shared, &endpoint).await;
        if passed {
            learn_models(&shared, &endpoint).await;
            shared.pool.apply(&endpoint, Event::ProbePassed);
        } else {
            endpoint.counters().probes_failed.fetch_add(1, Relaxed);
            shared.pool.apply(&endpoint, Event::ProbeFailed);
        }
        let pause = pause(shared.config.probing.interval, passed, endpoint.state().probe);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = hurry.notified() => {}
        }
    }
}

/// How long to wait before the next probe.
fn pause(interval: Duration, passed: bool, state: Probe) -> Duration {
    let jittered = interval.mul_f64(rand::rng().random_range(0.8..1.2));
    match state {
        Probe::Up { .. } if passed => jittered,
        Probe::Up { .. } => SOON,
        // A worker that is starting, or coming back, should not wait for its first request.
        Probe::New | Probe::Down { .. } => jittered.min(Duration::from_millis(500)),
    }
}

async fn probe(shared: &Shared, endpoint: &Endpoint) -> bool {
    let path = shared.config.probing.path.as_str();
    let answer = ask(shared, endpoint, Method::GET, path).await;
    answer.is_some_and(|(status, _)| status.is_success())
}

/// Asks for the models. Without a proper answer nothing is known, and nothing is forgotten.
async fn learn_models(shared: &Shared, endpoint: &Endpoint) {
    if shared.config.probing.path != wire::path::READY {
        return;
    }
    let answer = ask(shared, endpoint, Method::POST, wire::path::REPOSITORY_INDEX).await;
    let models = answer
        .filter(|(status, _)| status.is_success())
        .and_then(|(_, body)| serde_json::from_slice::<Vec<ModelIndexEntry>>(&body).ok());
    if let Some(models) = models
        && endpoint.learn_models(models)
    {
        tracing::info!(endpoint = endpoint.name(), models = ?endpoint.models(), "models");
        shared.pool.refresh();
    }
}

async fn ask(
    shared: &Shared,
    endpoint: &Endpoint,
    method: Method,
    path: &str,
) -> Option<(StatusCode, Bytes)> {
    tokio::time::timeout(shared.config.probing.timeout, exchange(endpoint, method, path))
        .await
        .ok()?
}

async fn exchange(endpoint: &Endpoint, method: Method, path: &str) -> Option<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(endpoint.address()).await.ok()?;
    let (mut sender, driver) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    // The driver ends with this function, whatever happens.
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, endpoint.address().to_string())
        .header(http::header::USER_AGENT, "imagefleet-balancer")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.ok()?;
    Some((status, body.to_bytes()))
}
