//! One request from dispatch to its sample.
//!
//! A kept-alive connection that the service closed while it was idle is replaced without a trace,
//! provided that no byte of the request was sent. Nothing else is ever sent twice.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::arrivals::Arrival;
use super::connection::{self, Acquired, AnswerHead, Connection, Opened};
use super::http1::Unanswered;
use super::sender::SenderState;
use crate::sample::{Failure, Outcome, Sample};
use crate::workload::{Reading, iris, same_label, seeds};

/// No answer with a label is longer. Answers that are not read may have any length.
const MAX_READ: usize = 1 << 20;
/// How many connections are tried if each is closed before a byte is sent.
const ATTEMPTS: usize = 3;

/// A request that was dispatched and has not ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) arrival: Arrival,
    pub(crate) dispatched: Duration,
    /// When a connection, or a permit for one, became available, if it did.
    pub(crate) ready: Option<Duration>,
    /// When it was handed to a connection, if it was.
    pub(crate) sent: Option<Duration>,
}

/// Sends the request with this key, records its outcome, and returns the connection.
pub(crate) async fn run(state: Rc<SenderState>, acquired: Acquired, key: usize) {
    let in_flight = state.in_flight(key);
    let begun = in_flight.ready.unwrap_or(in_flight.dispatched);
    let mut sample = unanswered(&state, in_flight, begun, Failure::Timeout);
    let deadline = state.deadline(sample.scheduled);
    let connection = match tokio::time::timeout_at(
        deadline,
        attempt(&state, acquired, key, &mut sample),
    )
    .await
    {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(failure)) => {
            sample.outcome = Outcome::Failed(failure);
            sample.done = state.now();
            None
        }
        Err(_elapsed) => {
            sample.done = state.now();
            None
        }
    };
    state.finish(key, sample);
    state.give_back(connection);
}

/// The sample of a request that ends `now` without an answer.
pub(crate) fn unanswered(
    state: &SenderState,
    in_flight: InFlight,
    now: Duration,
    failure: Failure,
) -> Sample {
    let InFlight { arrival, dispatched, ready, sent } = in_flight;
    let trial = &state.assignment.trial;
    let items = state.assignment.workload.items().len() as u64;
    Sample {
        index: arrival.index,
        item: usize::try_from(arrival.index % items).unwrap_or(0),
        warm_up: arrival.index < trial.warm_up_requests || arrival.scheduled < trial.warm_up,
        scheduled: arrival.scheduled,
        dispatched,
        ready,
        sent,
        first_byte: now,
        done: now,
        outcome: Outcome::Failed(failure),
        bytes: 0,
        endpoint: None,
        timings: None,
        labels: Vec::new(),
        correct: None,
    }
}

async fn attempt(
    state: &Rc<SenderState>,
    acquired: Acquired,
    key: usize,
    sample: &mut Sample,
) -> Result<Connection, Failure> {
    let mut acquired = Some(acquired);
    for _ in 0..ATTEMPTS {
        let mut connection = usable(state, acquired.take()).await?;
        sample.sent = Some(state.sent(key));
        let head = match connection.send(state, sample.item).await {
            Ok(head) => head,
            // Try the next connection.
            Err(Unanswered::NothingSent) => continue,
            Err(Unanswered::Failed(failure)) => return Err(failure),
        };
        sample.first_byte = state.now();
        let body = read(&mut connection, state.assignment.workload.reading()).await?;
        sample.done = state.now();
        judge(state, &head, &body, sample)?;
        return Ok(connection);
    }
    Err(Failure::Closed)
}

/// A connection that can take a request: dead ones are skipped, a missing one is opened.
async fn usable(
    state: &Rc<SenderState>,
    mut acquired: Option<Acquired>,
) -> Result<Connection, Failure> {
    loop {
        let next =
            acquired.take().or_else(|| state.pool.borrow_mut().acquire()).ok_or(Failure::Closed)?;
        match next {
            Acquired::Connection(mut connection) => {
                if connection.is_ready().await {
                    return Ok(connection);
                }
            }
            Acquired::Permit(permit) => {
                let protocol = state.assignment.trial.protocol;
                // Boxed: rare and large, and an exchange is copied whole when it begins and ends.
                let opening = Box::pin(connection::open(permit, protocol));
                let Opened { connection, shared } = opening.await?;
                if let Some(shared) = shared {
                    state.pool.borrow_mut().share(shared);
                    state.start_waiting();
                }
                return Ok(connection);
            }
        }
    }
}

/// The body of an answer, as far as it is used.
struct Body {
    bytes: usize,
    /// Its content; `None` if it is not used, or too long to contain a label.
    text: Option<Bytes>,
}

/// Receives the whole body of an answer, and keeps as much of it as is used.
async fn read(connection: &mut Connection, reading: Reading) -> Result<Body, Failure> {
    let (mut bytes, mut whole, mut more) = (0, Bytes::new(), BytesMut::new());
    let most = if reading == Reading::Ignore { 0 } else { MAX_READ };
    while let Some(data) = connection.part().await? {
        bytes += data.len();
        if bytes > most {
            continue;
        }
        // Nearly every answer is a single frame, which needs no copy.
        if whole.is_empty() && more.is_empty() {
            whole = data;
        } else {
            more.extend_from_slice(&std::mem::take(&mut whole));
            more.extend_from_slice(&data);
        }
    }
    let text = if more.is_empty() { whole } else { more.freeze() };
    Ok(Body { bytes, text: (bytes <= most).then_some(text) })
}

/// Fills in the sample from the answer.
fn judge(
    state: &SenderState,
    head: &AnswerHead,
    body: &Body,
    sample: &mut Sample,
) -> Result<(), Failure> {
    let AnswerHead { status, headers } = head;
    sample.bytes = body.bytes;
    sample.outcome = state.assignment.workload.outcome(*status);
    sample.endpoint = headers
        .get(wire::header::ENDPOINT)
        .and_then(|name| name.to_str().ok())
        .and_then(|name| state.name(name));
    sample.timings = headers
        .get(wire::header::SERVER_TIMING)
        .and_then(|value| value.to_str().ok())
        .map(server_timing);
    let workload = &state.assignment.workload;
    if !status.is_success() || workload.reading() == Reading::Ignore {
        return Ok(());
    }
    let found = body.text.as_deref().and_then(|text| labels(workload.reading(), text));
    sample.labels = match found {
        Some(labels) => labels,
        None if workload.reading() == Reading::Whatever => return Ok(()),
        None => return Err(Failure::NoLabel),
    };
    sample.correct = workload.items()[sample.item]
        .expected
        .as_ref()
        .map(|expected| sample.labels.first().is_some_and(|label| same_label(label, expected)));
    Ok(())
}

/// The labels of an answer, best first; `None` if it is not what was asked for.
fn labels(reading: Reading, body: &[u8]) -> Option<Vec<String>> {
    match reading {
        Reading::Ignore => Some(Vec::new()),
        Reading::Label | Reading::Whatever => Some(vec![serde_json::from_slice(body).ok()?]),
        Reading::Message => Some(vec![seeds::digit_of_message(body)?]),
        Reading::Page => Some(vec![seeds::digit_of_page(body)?]),
        Reading::Prediction => {
            let prediction: wire::Prediction = serde_json::from_slice(body).ok()?;
            Some(prediction.top_k.into_iter().map(|candidate| candidate.label).collect())
        }
        Reading::TfSpecies => Some(vec![iris::tf_species(body)?]),
        Reading::OpenInferenceSpecies => Some(vec![iris::open_inference_species(body)?]),
    }
}

/// The worker's stages in a `Server-Timing` header; unknown ones are ignored.
fn server_timing(header: &str) -> wire::Timings {
    let mut timings = wire::Timings::default();
    for metric in header.split(',') {
        let mut parts = metric.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let duration = parts
            .filter_map(|part| part.strip_prefix("dur="))
            .find_map(|text| text.trim_matches('"').parse::<f64>().ok());
        let Some(duration) = duration.filter(|value| value.is_finite() && *value >= 0.0) else {
            continue;
        };
        match name {
            "decode" => timings.decode = duration,
            "preprocess" => timings.preprocess = duration,
            "queue" => timings.queue = duration,
            "compute" => timings.compute = duration,
            "total" => timings.total = duration,
            _ => {}
        }
    }
    timings
}

#[cfg(test)]
mod tests {
    use super::{labels, server_timing};
    use crate::workload::Reading;

    #[test]
    fn server_timing_is_read_whatever_else_stands_in_it() {
        let timings = server_timing("cache;desc=\"a\", queue;dur=1.5, compute; dur=2, x;dur=z");
        let expected = wire::Timings { queue: 1.5, compute: 2.0, ..wire::Timings::default() };
        assert_eq!(timings, expected);
        assert_eq!(server_timing(""), wire::Timings::default());
        assert_eq!(server_timing("queue;dur=NaN"), wire::Timings::default());
    }

    #[test]
    fn a_bare_label_and_nothing_else_is_a_label() {
        assert_eq!(labels(Reading::Label, b"\"cat\"\n"), Some(vec!["cat".to_owned()]));
        assert_eq!(labels(Reading::Label, b"{\"label\":\"cat\"}"), None);
        assert_eq!(labels(Reading::Label, b"<html>"), None);
        assert_eq!(labels(Reading::Ignore, b"<html>"), Some(Vec::new()));
    }
}
