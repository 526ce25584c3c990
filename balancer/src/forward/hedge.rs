//! A second attempt beside one that takes long; the first good answer counts.
//!
//! The loser is dropped: its connection closes, and the worker, which sees that nobody waits any
//! more, need not finish. A hedge is no retry: it is sent only to an endpoint with room, and only
//! as often as [`crate::hedging`] allows.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use tokio::time::Instant;

use super::answer::Trace;
use super::attempt::{Failure, Job, Reply};
use crate::hedging::Hedging;
use crate::upstream::InFlight;

/// Attempts to get an answer, from two endpoints if the first takes long.
pub(super) async fn attempt(
    job: &Job<'_>,
    in_flight: InFlight,
    now: Instant,
    hedging: &Hedging,
    trace: &mut Trace,
) -> Result<Box<Reply>, Failure> {
    let delay = hedging.begin();
    let avoided = in_flight.endpoint().id();
    let mut first = pin!(job.attempt(in_flight, now));
    let hedged = match delay {
        None => None,
        Some(delay) => {
            tokio::select! {
                biased;
                answer = &mut first => return observed(answer, now, hedging),
                () = tokio::time::sleep_until(now + delay) => begin(job, avoided, hedging),
            }
        }
    };
    let Some(second) = hedged else { return observed(first.await, now, hedging) };
    let endpoint = Arc::clone(second.endpoint());
    let mut second = pin!(job.attempt(second, Instant::now()));
    let mut failed = None;
    let (answer, is_second) = std::future::poll_fn(|context| {
        for is_second in [false, true] {
            if failed.as_ref().is_some_and(|(_, which)| *which == is_second) {
                continue;
            }
            let polled = if is_second {
                second.as_mut().poll(context)
            } else {
                first.as_mut().poll(context)
            };
            match polled {
                Poll::Pending => {}
                Poll::Ready(Err(failure)) if failed.is_none() => {
                    failed = Some((failure, is_second));
                }
                Poll::Ready(answer) => return Poll::Ready((answer, is_second)),
            }
        }
        Poll::Pending
    })
    .await;
    if is_second && answer.is_ok() {
        job.lane.shared.traffic.hedges_won.fetch_add(1, Relaxed);
        if let Some(entry) = &mut trace.entry {
            entry.endpoint = Some(endpoint);
        }
    }
    observed(answer, now, hedging)
}

/// Finds an endpoint for a hedge, if one may be sent.
fn begin(
    job: &Job<'_>,
    avoided: crate::upstream::EndpointId,
    hedging: &Hedging,
) -> Option<InFlight> {
    let second = job.lane.pick(&job.wanted, Some(avoided), Instant::now()).ok()?;
    if !hedging.take() {
        drop(second);
        job.lane.serve_waiting();
        return None;
    }
    job.lane.shared.traffic.hedges.fetch_add(1, Relaxed);
    Some(second)
}

fn observed(
    answer: Result<Box<Reply>, Failure>,
    start: Instant,
    hedging: &Hedging,
) -> Result<Box<Reply>, Failure> {
    if answer.is_ok() {
        hedging.observe(Instant::now().duration_since(start));
    }
    answer
}
