//! What one attempt says about its endpoint, recorded exactly once.
//!
//! The head of an answer shows how long the endpoint took; whether the attempt succeeded is known
//! only with the last byte. An answer that breaks off is a failure like any other, and an attempt
//! that is abandoned before anything arrived counts with the time that it has waited.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::failure::Failure;
use crate::change::Changes;
use crate::endpoint::{Endpoint, Permit};
use crate::fault::Fault;
use crate::pool::Pool;
use crate::state::{Cause, Event};
use crate::verdict::Verdict;
use crate::view::Clock;

/// How much of an attempt counts for the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything, including a missed deadline: it is the balancer's own limit, and the endpoint
    /// had a fair part of it ([`Scope::within`]).
    Everything,
    /// Everything except a missed deadline: an impatient client must not get endpoints ejected.
    NotLateness,
    /// Only whether it could be connected to. How long it takes to load a model, and whether that
    /// succeeds, says nothing about requests.
    OnlyConnections,
}

impl Scope {
    /// The scope of an attempt that begins when this much of the balancer's `limit` is `left`. An
    /// endpoint is held to the limit only if it gets half of it or more: what the client's upload,
    /// the queue or an earlier attempt has used up is not its fault.
    #[inline]
    #[must_use]
    pub fn within(self, left: Duration, limit: Duration) -> Self {
        match self {
            Self::Everything if left < limit / 2 => Self::NotLateness,
            Self::Everything | Self::NotLateness | Self::OnlyConnections => self,
        }
    }
}

/// One attempt on an endpoint, which counts as in flight there while this lives.
#[derive(Debug)]
pub struct Attempt<C: Clock> {
    /// `None` once [`Attempt::into_place`] has taken it.
    permit: Option<Permit>,
    scope: Scope,
    start: Instant,
    /// Whether the endpoint has answered, or the reason why it will not is known.
    is_heard: bool,
    is_judged: bool,
    clock: C,
}

/// A failed attempt, as reported to operators.
#[must_use = "operators are to be told"]
#[derive(Debug)]
pub struct Notice {
    /// Why it failed.
    pub reason: &'static str,
    /// Whether it says anything about the endpoint or this machine; an impatient client does not.
    pub is_news: bool,
    /// What changed about the endpoint.
    pub changes: Changes,
}

impl<C: Clock> Attempt<C> {
    /// An attempt that begins at `start`.
    #[inline]
    pub fn new(permit: Permit, scope: Scope, start: Instant, clock: C) -> Self {
        Self { permit: Some(permit), scope, start, is_heard: false, is_judged: false, clock }
    }

    /// The endpoint that it goes to.
    #[inline]
    #[expect(
        clippy::missing_panics_doc,
        reason = "only the end of an attempt takes its place away"
    )]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.permit.as_ref().expect("an attempt has its place").endpoint()
    }

    /// Ends an attempt that is to be repeated, and returns its place.
    pub fn into_place(mut self) -> Option<Permit> {
        self.permit.take()
    }

    /// Records that the head of an answer has arrived.
    #[inline]
    pub fn answered(
        &mut self,
        pool: &Pool,
        status: StatusCode,
        now: Instant,
    ) -> (Verdict, Changes) {
        let verdict = Verdict::of(status);
        let elapsed = now.saturating_duration_since(self.start);
        self.is_heard = true;
        let mut changes = Changes::default();
        match (self.scope, verdict) {
            (Scope::OnlyConnections, _) => {}
            (_, Verdict::Fault) => changes = self.answered_badly(pool, status, now),
            (_, Verdict::Busy) => {
                self.endpoint().observe_refusal(elapsed, now);
                // 429 means busy; with 503 the endpoint may not be ready at all.
                let asks_readiness = pool.settings().asks_readiness;
                if status == StatusCode::SERVICE_UNAVAILABLE && asks_readiness {
                    self.endpoint().doubt();
                }
            }
            (_, Verdict::Good) if status.is_success() => self.endpoint().observe(elapsed, now),
            (_, Verdict::Good) => self.endpoint().observe_useless(elapsed, now),
        }
        (verdict, changes)
    }

    #[cold]
    fn answered_badly(&mut self, pool: &Pool, status: StatusCode, now: Instant) -> Changes {
        let reason = format!("status {}", status.as_u16());
        self.note_failure(pool, Cause::Request, &reason, now)
    }

    /// Records that the answer is complete.
    #[inline]
    pub fn completed(&mut self, pool: &Pool, now: Instant) -> Changes {
        if std::mem::replace(&mut self.is_judged, true) {
            return Changes::default();
        }
        let endpoint = self.endpoint();
        endpoint.counters().succeeded.fetch_add(1, Relaxed);
        if endpoint.is_troubled() {
            return pool.apply(endpoint, Event::Succeeded, now);
        }
        Changes::default()
    }

    /// Records that there is no answer, or that it broke off.
    pub fn failed<A>(&mut self, pool: &Pool, failure: &Failure<A>, now: Instant) -> Option<Notice> {
        let is_late = matches!(failure, Failure::Deadline);
        // A client that sets a deadline of its own and misses it has given up.
        self.is_heard |= !is_late || self.scope == Scope::Everything;
        let (reason, counts) = match failure {
            Failure::Unreached(fault) | Failure::Broken { fault, .. } => (fault.as_str(), true),
            Failure::Deadline => {
                ("no answer within the time limit", self.scope == Scope::Everything)
            }
            Failure::Exhausted => (Fault::Exhausted.as_str(), false),
            // Closing an idle connection is no fault.
            Failure::Stale { .. } | Failure::NoRoom(_) | Failure::Spent | Failure::Status(_) => {
                return None;
            }
        };
        let is_cut_off = matches!(failure, Failure::Unreached(_))
            || matches!(failure, Failure::Broken { fault, .. } if fault.is_unanswered());
        let cause = if is_cut_off { Cause::Connection } else { Cause::Request };
        let changes =
            if counts { self.note_failure(pool, cause, reason, now) } else { Changes::default() };
        let is_news = counts || matches!(failure, Failure::Exhausted);
        Some(Notice { reason, is_news, changes })
    }

    fn note_failure(&mut self, pool: &Pool, cause: Cause, reason: &str, now: Instant) -> Changes {
        if std::mem::replace(&mut self.is_judged, true) {
            return Changes::default();
        }
        let endpoint = self.endpoint();
        endpoint.counters().failed.fetch_add(1, Relaxed);
        endpoint.observe_failure(now.saturating_duration_since(self.start), now);
        pool.record_failure(endpoint, cause, reason, now)
    }
}

impl<C: Clock> Drop for Attempt<C> {
    #[inline]
    fn drop(&mut self) {
        if let (Some(permit), false) = (&self.permit, self.is_heard)
            && self.scope != Scope::OnlyConnections
        {
            permit.endpoint().observe_abandoned(self.start, self.clock.now());
        }
    }
}
