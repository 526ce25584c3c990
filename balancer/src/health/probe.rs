//! The prober of one endpoint.
//!
//! Every interval (with 20 % jitter, so that many balancers do not probe in step) it asks whether
//! the worker is ready, over a new connection as a client would. After a failure it asks again at
//! once: an endpoint that hangs is found out in three time limits, not in three intervals. One that
//! is too busy for the probe but answers requests meanwhile is slow and not broken, and stays. A
//! worker that answers at all also tells its models: those that are only loading are worth waiting
//! for.

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
use tokio::time::error::Elapsed;
use wire::ModelIndexEntry;

use crate::headers;
use crate::shared::Shared;
use crate::upstream::{Endpoint, Event, Load, state::Probe};

/// Longest answer to a probe.
const MAX_ANSWER: usize = 256 * 1024;
/// Pause after a failed probe of an endpoint that still counts as up.
const SOON: Duration = Duration::from_millis(100);

/// A worker that handles one job at a time still gets this many requests at a time.
const MIN_LIMIT: u32 = 4;

/// What a worker answered.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    load: Load,
    body: Bytes,
}

/// What a probe brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Ready,
    /// A worker that is loading, or leaving.
    NotReady,
    /// Nothing that a worker would say.
    Nothing,
    /// Nothing at all in time.
    Silence,
}

/// Probes `endpoint` until it is dropped.
pub(super) async fn run(shared: Arc<Shared>, endpoint: Arc<Endpoint>, hurry: Arc<Notify>) {
    // Requests that it had answered when it last gave no sign of life, or when the probe began.
    let mut answered = 0;
    loop {
        if !matches!(endpoint.state().probe, Probe::Up { failures: 1.. }) {
            answered = endpoint.counters().succeeded.load(Relaxed);
        }
        let heard = probe(&shared, &endpoint).await;
        if matches!(heard, Heard::Ready | Heard::NotReady) {
            learn_models(&shared, &endpoint).await;
        }
        if heard != Heard::Ready {
            endpoint.counters().probes_failed.fetch_add(1, Relaxed);
        }
        let before = std::mem::replace(&mut answered, endpoint.counters().succeeded.load(Relaxed));
        let passed = match (heard, endpoint.state().probe) {
            (Heard::Ready, _) => true,
            (Heard::Silence, Probe::Up { .. }) => answered != before,
            (Heard::Silence | Heard::Nothing | Heard::NotReady, _) => false,
        };
        endpoint.set_mute(heard == Heard::Silence);
        let event = if passed { Event::ProbePassed } else { Event::ProbeFailed };
        shared.pool.apply(&endpoint, event);
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

async fn probe(shared: &Shared, endpoint: &Endpoint) -> Heard {
    if endpoint.is_absent() {
        return Heard::Nothing;
    }
    let path = shared.config.probing.path.as_str();
    match ask(shared, endpoint, Method::GET, path).await {
        Ok(Some(answer)) if answer.status.is_success() => {
            learn_limit(shared, endpoint, answer.load);
            Heard::Ready
        }
        Ok(Some(answer)) if answer.status == StatusCode::SERVICE_UNAVAILABLE => Heard::NotReady,
        Ok(Some(_) | None) => Heard::Nothing,
        Err(_) => Heard::Silence,
    }
}

/// An endpoint takes twice as many requests as the worker handles at a time, unless configured: one
/// batch in work and the next one ready.
fn learn_limit(shared: &Shared, endpoint: &Endpoint, load: Load) {
    if let Some(queue) = load.queue {
        endpoint.report_queue(queue);
    }
    match (shared.config.bounds.in_flight, load.concurrency) {
        (0, Some(concurrency)) => endpoint.set_limit(concurrency.saturating_mul(2).max(MIN_LIMIT)),
        (0, None) => {}
        (limit, _) => endpoint.set_limit(limit),
    }
}

/// Asks for the models. Without a proper answer nothing is known, and nothing is forgotten.
pub(crate) async fn learn_models(shared: &Shared, endpoint: &Endpoint) {
    if shared.config.probing.path != wire::path::READY {
        return;
    }
    let answer = ask(shared, endpoint, Method::POST, wire::path::REPOSITORY_INDEX).await;
    let models = answer
        .ok()
        .flatten()
        .filter(|answer| answer.status.is_success())
        .and_then(|answer| serde_json::from_slice::<Vec<ModelIndexEntry>>(&answer.body).ok());
    if let Some(models) = models
        && endpoint.learn_models(models)
    {
        let models = models_in_words(endpoint);
        tracing::info!(endpoint = endpoint.name(), models, "models changed");
        shared.pool.refresh();
    }
}

/// `mnist/1 READY, mnist/2 LOADING`
fn models_in_words(endpoint: &Endpoint) -> String {
    let models = endpoint.models();
    let entries = models.iter().flat_map(|models| models.iter());
    let words = entries.map(|entry| format!("{}/{} {}", entry.name, entry.version, entry.state));
    words.collect::<Vec<_>>().join(", ")
}

async fn ask(
    shared: &Shared,
    endpoint: &Endpoint,
    method: Method,
    path: &str,
) -> Result<Option<Answer>, Elapsed> {
    tokio::time::timeout(shared.config.probing.timeout, exchange(endpoint, method, path)).await
}

async fn exchange(endpoint: &Endpoint, method: Method, path: &str) -> Option<Answer> {
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
        .header(headers::LOAD_FORMAT, "json")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status();
    let report = response.headers().get(headers::LOAD).and_then(|report| report.to_str().ok());
    let load = report.map_or_else(Load::default, Load::parse);
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.ok()?;
    Some(Answer { status, load, body: body.to_bytes() })
}
