//! The prober of one endpoint.
//!
//! Every interval (with 20 % jitter, so that many balancers do not probe in step) it checks whether
//! the worker is ready, over a new connection as a client would. After a failure it probes again
//! after 100 ms, so an endpoint that hangs is detected within three time limits instead of three
//! intervals; and it probes early after a request failed to connect. An endpoint that is too busy
//! for the probe but answers requests meanwhile is slow, not broken, and stays; if one is down and
//! misses several probes without answering any request, its requests are sent to others. A worker
//! that answers also reports its models: models that are still loading are worth waiting for. An
//! endpoint that lists no models is not a worker, whatever else it answers: another program may
//! have the port.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use fleet::state::{Outlier, Probe};
use fleet::{Endpoint, Event, Fault, LoadReport};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use wire::ModelIndexEntry;

use super::reason::{MAX_ANSWER, MAX_VERSIONS, Reason};
use crate::headers;
use crate::log::changes::tell;
use crate::shared::Shared;
use crate::upstream::connecting;

/// Pause after a probe whose result was new, and the minimum pause.
const SOON: Duration = Duration::from_millis(100);
/// Pause between two probes of an endpoint that is down.
const DOWN: Duration = Duration::from_millis(500);

/// Maximum number of models named in a log line.
const MAX_TOLD: usize = 20;

/// The answer of a worker.
#[derive(Debug)]
struct ProbeAnswer {
    status: StatusCode,
    load: LoadReport,
    /// `None` if it exceeds the size limit.
    body: Option<Bytes>,
}

/// What is known about a worker whose probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// It answers requests.
    AtWork,
    /// There has been no sign of it for several probes.
    Mute,
    /// Nothing so far, or nothing but the answer to the probe.
    Unknown,
}

/// A passed probe: `None` if the current models were read too, otherwise why not.
type Passed = Option<Reason>;

/// Probes `endpoint` until it is dropped.
pub(super) async fn run(shared: Arc<Shared>, endpoint: Arc<Endpoint>, hurry: Arc<Notify>) {
    // Consecutive probes without a sign of life, and requests answered before the last one.
    let (mut unheard, mut answered) = (0, 0);
    // The last state reported to operators.
    let (mut told, mut remarked) = (None, None);
    loop {
        let mut hurried = pin!(hurry.notified());
        hurried.as_mut().enable();
        if unheard == 0 {
            answered = endpoint.counters().succeeded.load(Relaxed);
        }
        let probed = probe(&shared, &endpoint).await;
        remark(&endpoint, probed.unwrap_or_default(), &mut remarked);
        let heard = probed.map(drop);
        let before = std::mem::replace(&mut answered, endpoint.counters().succeeded.load(Relaxed));
        let (is_late, is_at_work) = (heard == Err(Reason::TimedOut), answered != before);
        unheard = if is_late && !is_at_work { unheard + 1 } else { 0 };
        let life = match unheard {
            0 if is_late => Life::AtWork,
            // What is down has to miss as many probes as what is up before its requests are given up.
            _ if unheard >= shared.fleet.pool.settings().limits.fall => Life::Mute,
            _ => Life::Unknown,
        };
        let fault = heard.err().map(|reason| reason.to_string());
        endpoint.set_probed(fault.as_deref(), Instant::now());
        note(&shared, &endpoint, heard, life, &mut told);
        let pause = pause(shared.config.probing.interval, endpoint.state().probe);
        let soon = SOON.min(pause);
        tokio::time::sleep(soon).await;
        tokio::select! {
            () = tokio::time::sleep(pause.saturating_sub(soon)) => {}
            () = hurried => {}
            () = endpoint.doubted() => {}
            () = process_ended(&endpoint, shared.config.probing.timeout) => {}
        }
    }
}

/// An ejected endpoint may soon be replaced by another process, so the end of a connection to it
/// triggers a probe.
async fn process_ended(endpoint: &Endpoint, limit: Duration) {
    if matches!(endpoint.state().outlier, Outlier::Ejected { .. })
        && let Ok(Ok(stream)) = timeout(limit, TcpStream::connect(endpoint.address())).await
    {
        // Readable also means closed; and a program that sends data unprompted is not a worker.
        drop(stream.readable().await);
    } else {
        std::future::pending::<()>().await;
    }
}

/// Records the result of a probe and logs any change.
fn note(
    shared: &Shared,
    endpoint: &Endpoint,
    heard: Result<(), Reason>,
    life: Life,
    told: &mut Option<Reason>,
) {
    let name = endpoint.name();
    let news = |reason| *told != Some(reason);
    let Err(reason) = heard else {
        tell(&shared.fleet.pool.apply(endpoint, Event::ProbePassed, Instant::now()));
        *told = None;
        return;
    };
    if reason.is_own() {
        // Reveals nothing about the endpoint, so its state stays.
        if news(reason) {
            tracing::warn!(endpoint = name, %reason, "endpoint cannot be probed");
        }
        *told = Some(reason);
        return;
    }
    endpoint.counters().probes_failed.fetch_add(1, Relaxed);
    let was_up = matches!(endpoint.state().probe, Probe::Up { .. });
    if was_up && life == Life::AtWork {
        tracing::debug!(endpoint = name, %reason, "probe failed, requests are answered");
        tell(&shared.fleet.pool.apply(endpoint, Event::ProbePassed, Instant::now()));
        return;
    }
    let reason_text = reason.to_string();
    let event = match reason {
        Reason::Fault(Fault::Refused) | Reason::NotRunning => Event::ProbeRefused,
        Reason::NotReady if shared.fleet.pool.settings().asks_readiness => Event::ProbeNotReady,
        Reason::Fault(_)
        | Reason::TimedOut
        | Reason::NotReady
        | Reason::Status(_)
        | Reason::NotAWorker
        | Reason::TooManyModels => Event::ProbeFailed,
    };
    let (is_mute, now) = (life == Life::Mute, Instant::now());
    tell(&shared.fleet.pool.record_failed_probe(endpoint, event, is_mute, &reason_text, now));
    let is_up = matches!(endpoint.state().probe, Probe::Up { .. });
    match reason {
        _ if is_up => tracing::debug!(endpoint = name, %reason, "probe failed"),
        // The pool has reported that it is down.
        _ if was_up || !news(reason) => {}
        Reason::NotReady => tracing::info!(endpoint = name, "endpoint is not ready yet"),
        Reason::Fault(_)
        | Reason::TimedOut
        | Reason::Status(_)
        | Reason::NotAWorker
        | Reason::TooManyModels
        | Reason::NotRunning => {
            tracing::warn!(endpoint = name, %reason, "endpoint does not answer");
        }
    }
    if !is_up {
        *told = Some(reason);
    }
}

/// Reports once why the models of a worker that passes its probes are no longer updated.
fn remark(endpoint: &Endpoint, passed: Passed, remarked: &mut Passed) {
    if *remarked != passed
        && let Some(reason @ Reason::TooManyModels) = passed
    {
        tracing::warn!(endpoint = endpoint.name(), %reason, "models not read, the list of before stays");
    }
    *remarked = passed;
}

/// The pause before the next probe.
fn pause(interval: Duration, state: Probe) -> Duration {
    let jittered = interval.mul_f64(rand::rng().random_range(0.8..1.2));
    match state {
        Probe::Up { failures: 0 } => jittered,
        // One more probe may be enough for a change.
        Probe::Up { .. } | Probe::Down { passes: 1.. } => SOON,
        // A worker that is starting, or coming back, should not wait for its first request.
        Probe::New | Probe::Down { .. } => jittered.min(DOWN),
    }
}

/// Checks whether an endpoint is ready, and whether it is a worker.
async fn probe(shared: &Shared, endpoint: &Endpoint) -> Result<Passed, Reason> {
    if endpoint.is_absent() {
        return Err(Reason::NotRunning);
    }
    let path = shared.config.probing.path.as_str();
    let answer = ask(shared, endpoint, Method::GET, path).await?;
    if !answer.status.is_success() && answer.status != StatusCode::SERVICE_UNAVAILABLE {
        return Err(Reason::Status(answer.status));
    }
    // With a path chosen by the operator, its status is all that counts.
    let told = if shared.fleet.pool.settings().asks_readiness {
        learn(shared, endpoint).await
    } else {
        Ok(())
    };
    if !answer.status.is_success() {
        return Err(Reason::NotReady);
    }
    let passed = match told {
        Ok(()) => None,
        // It has reported its models before, and may be too busy to do so again.
        Err(reason) if reason != Reason::NotAWorker && is_known(endpoint) => Some(reason),
        Err(reason) => return Err(reason),
    };
    learn_limit(shared, endpoint, answer.load);
    Ok(passed)
}

/// Whether the process at this endpoint has reported its models.
fn is_known(endpoint: &Endpoint) -> bool {
    endpoint.models().is_some() && matches!(endpoint.state().probe, Probe::Up { .. })
}

/// An endpoint takes as many requests as the configuration says, or else as its report does.
fn learn_limit(shared: &Shared, endpoint: &Endpoint, load: LoadReport) {
    if let Some(queue) = load.queue {
        endpoint.report_queue(queue, Instant::now());
    }
    if shared.config.bounds.in_flight == 0
        && let Some(limit) = load.limit()
    {
        endpoint.set_limit(limit);
    }
}

/// Requests the models. Without a proper answer nothing is learnt, and nothing is forgotten.
pub(crate) async fn learn_models(shared: &Shared, endpoint: &Endpoint) {
    if shared.fleet.pool.settings().asks_readiness
        && let Err(reason) = learn(shared, endpoint).await
    {
        tracing::debug!(endpoint = endpoint.name(), %reason, "the endpoint tells no models");
    }
}

async fn learn(shared: &Shared, endpoint: &Endpoint) -> Result<(), Reason> {
    let answer = ask(shared, endpoint, Method::POST, wire::path::REPOSITORY_INDEX).await?;
    match answer.status {
        status if status.is_success() => {}
        StatusCode::SERVICE_UNAVAILABLE => return Err(Reason::NotReady),
        status @ StatusCode::TOO_MANY_REQUESTS => return Err(Reason::Status(status)),
        _ => return Err(Reason::NotAWorker),
    }
    let body = answer.body.ok_or(Reason::TooManyModels)?;
    let models = serde_json::from_slice::<Vec<ModelIndexEntry>>(&body);
    let models = models.map_err(|_| Reason::NotAWorker)?;
    if models.len() > MAX_VERSIONS {
        return Err(Reason::TooManyModels);
    }
    let words = words(&models);
    if let Some(changes) = shared.fleet.pool.learn_models(endpoint, models) {
        tracing::info!(endpoint = endpoint.name(), models = words, "models changed");
        tell(&changes);
    }
    Ok(())
}

/// The first models, for a log line, and the number of others.
fn words(models: &[ModelIndexEntry]) -> String {
    let told = models.iter().take(MAX_TOLD);
    let told = told.map(|one| format!("{}/{} {}", one.name, one.version, one.state));
    let more = models.len().saturating_sub(MAX_TOLD);
    let more = (more > 0).then(|| format!("and {more} more"));
    told.chain(more).collect::<Vec<_>>().join(", ")
}

async fn ask(
    shared: &Shared,
    endpoint: &Endpoint,
    method: Method,
    path: &str,
) -> Result<ProbeAnswer, Reason> {
    let limit = shared.config.probing.timeout;
    let answer = timeout(limit, exchange(endpoint, method, path)).await;
    answer.unwrap_or(Err(Reason::TimedOut))
}

async fn exchange(endpoint: &Endpoint, method: Method, path: &str) -> Result<ProbeAnswer, Reason> {
    let connecting = TcpStream::connect(endpoint.address()).await;
    let stream = connecting.map_err(|error| Reason::Fault(connecting::fault_of(&error)))?;
    let (mut sender, driver) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(fault)?;
    // The driver is stopped when this function returns, whatever happens.
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
        .map_err(|_| Reason::NotAWorker)?;
    let response = sender.send_request(request).await.map_err(fault)?;
    let status = response.status();
    let report = response.headers().get(answer::LOAD).and_then(|report| report.to_str().ok());
    let load = report.map_or_else(LoadReport::default, LoadReport::parse);
    let body = match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
        Ok(body) => Some(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => None,
        Err(_) => return Err(Reason::Fault(Fault::Cut)),
    };
    Ok(ProbeAnswer { status, load, body })
}

fn fault(error: hyper::Error) -> Reason {
    Reason::Fault(match error {
        error if error.is_parse() => Fault::NotHttp,
        _ => Fault::Closed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_of_many_models_makes_no_endless_line() {
        let entry = |number: usize| ModelIndexEntry {
            name: format!("m{number}"),
            version: "1".to_owned(),
            state: "READY".to_owned(),
            reason: String::new(),
            labels: Vec::new(),
            takes_images: false,
        };
        let of = |count: usize| words(&(1..=count).map(entry).collect::<Vec<_>>());
        assert_eq!(of(2), "m1/1 READY, m2/1 READY");
        assert!(of(MAX_TOLD).ends_with(", m20/1 READY"));
        assert!(of(3000).ends_with(", m20/1 READY, and 2980 more"), "{}", of(3000));
    }
}
