//! Takes in the body of a request: bounded in size, in time, and by the common budget.
//!
//! A body that arrived in one piece is not copied. Bytes are taken from the budget as they arrive,
//! never ahead, so that announcing a large body reserves nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use crate::error::{Part, ProxyError};
use crate::lane::{Lane, Wait};
use crate::upstream::Payload;

use super::answer::Trace;

/// A refused body is read to its end up to this size, so that the client gets to see the answer.
const MAX_DRAINED: usize = 64_000_000;
/// ... and for this long.
const MAX_DRAIN_TIME: Duration = Duration::from_secs(10);
/// The average rate is judged after this time.
const RATE_GRACE: Duration = Duration::from_secs(5);

/// A collected body, which holds its share of the budget.
#[derive(Debug)]
pub(super) struct Collected {
    lane: Rc<Lane>,
    taken: usize,
    payload: Payload,
}

impl Collected {
    /// The body itself.
    pub(super) fn payload(&self) -> &Payload {
        &self.payload
    }

    fn empty(lane: &Rc<Lane>) -> Self {
        Self { lane: Rc::clone(lane), taken: 0, payload: Payload::default() }
    }

    fn take(&mut self, amount: usize) -> Result<(), ProxyError> {
        let shared = &self.lane.shared;
        if self.taken + amount > shared.config.bounds.body {
            return Err(ProxyError::TooLarge(Part::Body(shared.config.bounds.body)));
        }
        if !shared.bodies.take(amount) {
            return Err(ProxyError::Overloaded);
        }
        self.taken += amount;
        Ok(())
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.lane.shared.bodies.give_back(self.taken);
    }
}

/// Collects `body`.
pub(super) async fn collect(
    trace: &Trace,
    fields: &HeaderMap,
    mut body: Incoming,
) -> Result<Collected, ProxyError> {
    let lane = trace.lane();
    if body.is_end_stream() {
        return Ok(Collected::empty(lane));
    }
    let limit = lane.shared.config.bounds.body;
    let announced = fields
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    let result = if announced > limit {
        Err(ProxyError::TooLarge(Part::Body(limit)))
    } else {
        pieces(lane, announced, &mut body).await
    };
    if let Err(error) = &result
        && !expects_to_be_asked(fields)
    {
        let is_late = *error == ProxyError::RequestTimeout;
        let limit = if is_late { Duration::ZERO } else { MAX_DRAIN_TIME };
        let (lane, client) = (Rc::clone(lane), Rc::clone(trace.client()));
        tokio::task::spawn_local(async move {
            drain(&lane, body, limit).await;
            // Only now can hyper close the connection, which it does not notice by itself.
            client.wake();
        });
    }
    result
}

/// A client that waits for `100 Continue` sends nothing that would have to be read.
fn expects_to_be_asked(fields: &HeaderMap) -> bool {
    fields.contains_key(http::header::EXPECT)
}

async fn pieces(
    lane: &Rc<Lane>,
    announced: usize,
    body: &mut Incoming,
) -> Result<Collected, ProxyError> {
    let mut collected = Collected::empty(lane);
    let start = lane.waits.now();
    let pause = lane.shared.config.timeouts.body;
    let mut wait = lane.waits.until(start + pause);
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(piece) = next_piece(body, &mut wait).await? {
        collected.take(piece.len())?;
        match (&first, rest.is_empty()) {
            (None, true) => first = Some(piece),
            (Some(_), true) => {
                let before = first.take().unwrap_or_default();
                rest.reserve(announced.min(256 * 1024).max(before.len() + piece.len()));
                rest.extend_from_slice(&before);
                rest.extend_from_slice(&piece);
            }
            _ => rest.extend_from_slice(&piece),
        }
        let now = lane.waits.now();
        let rate = lane.shared.config.bounds.body_rate;
        if is_too_slow(collected.taken, now.duration_since(start), rate) {
            return Err(ProxyError::RequestTimeout);
        }
        wait.reset(now + pause);
    }
    collected.payload = Payload::new(first.unwrap_or_else(|| rest.freeze()));
    Ok(collected)
}

/// Whether a body that brought `taken` bytes in this time stays behind `rate` bytes per second.
fn is_too_slow(taken: usize, age: Duration, rate: usize) -> bool {
    age > RATE_GRACE && (taken as f64) < age.as_secs_f64() * rate as f64
}

async fn next_piece(body: &mut Incoming, wait: &mut Wait<'_>) -> Result<Option<Bytes>, ProxyError> {
    poll_fn(|context| {
        loop {
            match Pin::new(&mut *body).poll_frame(context) {
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                // Trailers say nothing that an endpoint needs.
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Ok(Some(data)));
                    }
                }
                Poll::Ready(Some(Err(_))) => {
                    let text = "the request body is not framed properly or was cut off";
                    return Poll::Ready(Err(ProxyError::BadRequest(text.into())));
                }
                Poll::Pending if wait.is_over(context) => {
                    return Poll::Ready(Err(ProxyError::RequestTimeout));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Reads what the client still sends after its request was refused. Closing at once would reset the
/// connection, and the client would never see why.
async fn drain(lane: &Lane, mut body: Incoming, limit: Duration) {
    let mut wait = lane.waits.until(Instant::now() + limit);
    let mut drained = 0;
    while let Ok(Some(piece)) = next_piece(&mut body, &mut wait).await {
        drained += piece.len();
        if drained > MAX_DRAINED {
            return;
        }
    }
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
