//! What one attempt says about its endpoint, noted exactly once.
//!
//! The head of an answer tells how long the endpoint took; whether the attempt succeeded is known
//! when the last byte is here. An answer that breaks off on its way is a failure like any other, and
//! an attempt that is given up before it brought anything counts for as long as it waited.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use tokio::time::Instant;

use super::failure::{Failure, Verdict};
use crate::lane::Lane;
use crate::upstream::{Cause, Endpoint, Event, Fault, InFlight};

/// What of an attempt counts for the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything, a missed deadline too: it is the balancer's own limit.
    Everything,
    /// Not a missed deadline: a client that does not wait long must not get endpoints ejected.
    NotLateness,
    /// Only that the endpoint could not be talked to. How long it takes to load a model, and what it
    /// says about that, tells nothing about requests.
    OnlyConnections,
}

/// One attempt on an endpoint, which counts as in flight there while this lives.
#[derive(Debug)]
pub(super) struct Trial {
    in_flight: InFlight,
    scope: Scope,
    start: Instant,
    /// Whether the endpoint has said anything, or it is known why not.
    is_heard: bool,
    is_judged: bool,
}

impl Trial {
    pub(super) fn new(in_flight: InFlight, scope: Scope, start: Instant) -> Self {
        Self { in_flight, scope, start, is_heard: false, is_judged: false }
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        self.in_flight.endpoint()
    }

    /// The head of an answer is here.
    pub(super) fn answered(&mut self, lane: &Lane, status: StatusCode, now: Instant) -> Verdict {
        let verdict = Verdict::of(status);
        let elapsed = now.saturating_duration_since(self.start);
        self.is_heard = true;
        match (self.scope, verdict) {
            (Scope::OnlyConnections, _) => {}
            (_, Verdict::Fault) => {
                lane.failed_attempts.warn(self.endpoint(), status.as_str(), lane.waits.now());
                self.note_failure(
                    lane,
                    Cause::Request,
                    &format!("status {}", status.as_u16()),
                    now,
                );
            }
            (_, Verdict::Busy) => self.endpoint().observe_refusal(elapsed, now),
            (_, Verdict::Good) if status.is_success() => self.endpoint().observe(elapsed, now),
            (_, Verdict::Good) => self.endpoint().observe_useless(elapsed, now),
        }
        verdict
    }

    /// The answer is complete.
    pub(super) fn completed(&mut self, lane: &Lane) {
        if std::mem::replace(&mut self.is_judged, true) {
            return;
        }
        let endpoint = self.endpoint();
        endpoint.counters().succeeded.fetch_add(1, Relaxed);
        if endpoint.is_troubled() {
            lane.shared.pool.apply(endpoint, Event::Succeeded);
        }
    }

    /// There is no answer, or it broke off.
    pub(super) fn failed(&mut self, lane: &Lane, failure: &Failure, now: Instant) {
        let is_late = matches!(failure, Failure::Deadline);
        // Whoever sets a deadline of its own and misses it has given up.
        self.is_heard |= !is_late || self.scope == Scope::Everything;
        let (reason, counts) = match failure {
            Failure::Unreached(fault) | Failure::Broken { fault, .. } => (fault.as_str(), true),
            Failure::Deadline => {
                ("no answer within the time limit", self.scope == Scope::Everything)
            }
            Failure::Exhausted => (Fault::Exhausted.as_str(), false),
            // Closing what is idle is no fault.
            Failure::Stale(_) | Failure::NoRoom(_) | Failure::Spent | Failure::Status(_) => return,
        };
        let is_cut_off = matches!(failure, Failure::Unreached(_))
            || matches!(failure, Failure::Broken { fault, .. } if fault.is_unanswered());
        let cause = if is_cut_off { Cause::Connection } else { Cause::Request };
        if counts || matches!(failure, Failure::Exhausted) {
            lane.failed_attempts.warn(self.endpoint(), reason, lane.waits.now());
        } else {
            // A client that gives no time is no news.
            tracing::debug!(endpoint = self.endpoint().name(), reason, "attempt failed");
        }
        if counts {
            self.note_failure(lane, cause, reason, now);
        }
    }

    fn note_failure(&mut self, lane: &Lane, cause: Cause, reason: &str, now: Instant) {
        if std::mem::replace(&mut self.is_judged, true) {
            return;
        }
        let endpoint = self.endpoint();
        endpoint.counters().failed.fetch_add(1, Relaxed);
        endpoint.observe_failure(now.saturating_duration_since(self.start), now);
        lane.shared.pool.record_failure(endpoint, cause, reason);
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !self.is_heard && self.scope != Scope::OnlyConnections {
            self.endpoint().observe_abandoned(self.start, Instant::now());
        }
    }
}
