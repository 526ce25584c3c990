//! A second attempt beside one that takes long; the first good answer counts.
//!
//! There are two reasons for one. A hedge is sent when an answer takes longer than nearly all others
//! do, only to an endpoint with room, and only as often as [`crate::hedging`] allows. A rescue is
//! sent when the endpoint falls silent: it may be frozen, or its host may be gone. That needs no
//! budget, since what an endpoint leaves unanswered when it goes down is at most what it had in
//! flight. In both cases the first attempt goes on, for it may still be answered. The loser is
//! dropped: its connection closes, and the worker, which sees that the request is not waited for any
//! more, need not finish.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

use super::attempt::{Job, Reply, Sends};
use super::failure::Failure;
use super::trace::Trace;
use crate::hedging::Hedging;
use crate::upstream::{Endpoint, EndpointId, InFlight};

/// What an attempt brought.
type Attempted = Result<Box<Reply>, Failure>;

/// Why, and where, there is a second attempt.
enum Second {
    /// The first takes long, and here is room for another.
    Hedge(InFlight),
    /// The first endpoint is silent.
    Rescue,
}

/// Attempts to get an answer, from two endpoints if the first takes long or falls silent.
pub(super) async fn attempt(
    job: &Job<'_>,
    in_flight: InFlight,
    now: Instant,
    sends: &Sends,
    trace: &mut Trace,
) -> Attempted {
    let hedging = job.lane.shared.hedging.as_ref();
    let endpoint = Arc::clone(in_flight.endpoint());
    let mut due = Due {
        was_silent: endpoint.is_silent(),
        later: hedging
            .and_then(Hedging::begin)
            .map(|delay| Box::pin(tokio::time::sleep_until(now + delay))),
    };
    let mut first = pin!(job.attempt(in_flight, now, sends));
    let alone = poll_fn(|context| match first.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Ok(answer)),
        Poll::Pending => due.poll(context, job, &endpoint, sends).map(Err),
    });
    let answer = match alone.await {
        Ok(answer) => answer,
        Err(second) => Box::pin(race(job, first, second, sends, trace)).await,
    };
    if let Some(hedging) = hedging
        && answer.is_ok()
    {
        hedging.observe(Instant::now().duration_since(now));
    }
    answer
}

/// When a second attempt is due.
struct Due {
    was_silent: bool,
    later: Option<Pin<Box<Sleep>>>,
}

impl Due {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        job: &Job<'_>,
        endpoint: &Endpoint,
        sends: &Sends,
    ) -> Poll<Second> {
        if !self.was_silent && endpoint.is_silent() && sends.are_left() {
            return Poll::Ready(Second::Rescue);
        }
        let Some(later) = &mut self.later else { return Poll::Pending };
        std::task::ready!(later.as_mut().poll(context));
        self.later = None;
        let hedge = if sends.are_left() { hedge(job, endpoint.id()) } else { None };
        hedge.map_or(Poll::Pending, |in_flight| Poll::Ready(Second::Hedge(in_flight)))
    }
}

/// Finds an endpoint for a hedge, if one may be sent.
fn hedge(job: &Job<'_>, avoided: EndpointId) -> Option<InFlight> {
    let hedging = job.lane.shared.hedging.as_ref()?;
    let second = job.lane.pick(&job.besides(&[avoided]), Instant::now()).ok()?;
    if !hedging.take() {
        drop(second);
        job.lane.serve_waiting();
        return None;
    }
    job.lane.shared.traffic.hedges.fetch_add(1, Relaxed);
    Some(second)
}

/// Goes on with the first attempt and makes a second one; the first good answer counts.
async fn race(
    job: &Job<'_>,
    mut first: Pin<&mut impl Future<Output = Attempted>>,
    second: Second,
    sends: &Sends,
    trace: &mut Trace,
) -> Attempted {
    let is_hedge = matches!(second, Second::Hedge(_));
    let taken_by: RefCell<Option<Arc<Endpoint>>> = RefCell::default();
    let mut second = pin!(async {
        let (in_flight, now) = match second {
            Second::Hedge(in_flight) => (in_flight, Instant::now()),
            Second::Rescue => {
                let admitted = job.admit(job.lane.outbox.now()).await.map_err(Failure::NoRoom)?;
                job.lane.shared.traffic.retries.fetch_add(1, Relaxed);
                admitted
            }
        };
        taken_by.replace(Some(Arc::clone(in_flight.endpoint())));
        job.attempt(in_flight, now, sends).await
    });
    let mut failed: Option<(Failure, bool)> = None;
    let (answer, is_second) = poll_fn(|context| {
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
                Poll::Ready(Err(failure)) => match failed.take() {
                    None => failed = Some((failure, is_second)),
                    Some((before, _)) => return Poll::Ready((Err(before.or(failure)), is_second)),
                },
                Poll::Ready(answer) => return Poll::Ready((answer, is_second)),
            }
        }
        Poll::Pending
    })
    .await;
    if is_second && answer.is_ok() {
        if is_hedge {
            job.lane.shared.traffic.hedges_won.fetch_add(1, Relaxed);
        }
        if let Some(entry) = &mut trace.entry {
            entry.endpoint = taken_by.take();
        }
    }
    answer
}
