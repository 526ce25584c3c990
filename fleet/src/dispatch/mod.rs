//! The path of one request: admit, attempt, classify, retry or hedge, outcome.
//!
//! A [`Dispatch`] decides and does no work. It returns the next [`Step`]; the caller carries it
//! out, over a connection or in virtual time, and reports what happened. So the balancer and a
//! simulation run the same rules.
//!
//! **Retries.** A second attempt goes to another endpoint, only before the client has seen a byte,
//! only within the retry budget (a share of the active requests, so that retries cannot multiply an
//! overload) and never after the deadline. It needs no budget if the first endpoint could not be
//! reached or its process is gone ([`Failure::left_no_work`]), or if it is a worker that answered
//! that it is not ready, as after a restart until a probe has found that out. A request that met a
//! dead idle connection is sent again over a fresh one, to another endpoint if one has room: a
//! process that was killed breaks its connections a moment before it refuses new ones. The number
//! of sends is bounded in any case. More endpoints are tried only while they cannot be connected
//! to, which costs them no work: when most of a fleet is stopped, the first picks may all be gone.
//!
//! **Parallel attempts.** The first good answer wins. A *hedge* is sent when an answer takes longer
//! than nearly all others, only to an endpoint with room, and only as often as [`crate::Hedging`]
//! allows. A *rescue* is sent when the endpoint falls silent, because it may be frozen or its host
//! gone. It needs no budget: what an endpoint leaves unanswered when it goes down is at most what
//! it had in flight. A *detour* connects to another endpoint when connecting takes long, because a
//! host that has vanished does not even refuse. It needs no budget either: only one of the two
//! sends the request.

mod attempt;
mod failure;

use std::cell::{Cell, RefCell};

pub use attempt::{Attempt, Notice, Scope};
pub use failure::{Failure, Lost, Reply};
use rand::Rng;
use tokio::time::Instant;

use crate::admission::Waiter;
use crate::endpoint::{Endpoint, EndpointId, Permit};
use crate::fault::Fault;
use crate::retry::Retry;
use crate::view::{Clock, View, patience};
use crate::wanted::{Refusal, Wanted};

/// Most endpoints tried for one request, not counting those that cannot be connected to; also the
/// most times that it is sent.
pub const MAX_TRIES: u32 = 2;
/// Most unreachable endpoints per request that do not count as tried.
const MAX_UNREACHED: usize = 6;

/// What comes next for a request.
#[derive(Debug)]
#[must_use = "the request goes no further by itself"]
pub enum Step<A> {
    /// An attempt on this endpoint; its outcome goes to [`Dispatch::ended`].
    Send(Permit, Why),
    /// A wait for room, at most until this time; its outcome goes to [`Dispatch::admitted`].
    Wait(Waiter, Instant),
    /// Waiting for the parallel attempt.
    Pending,
    /// Nothing more: this is the outcome.
    End(Result<A, Lost>),
}

/// Why an attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is the first.
    First,
    /// The previous one failed.
    Retry,
    /// The previous one met a dead idle connection.
    Reconnect,
    /// The parallel one is slow.
    Hedge,
    /// The parallel one is on an endpoint that has fallen silent.
    Rescue,
    /// The parallel one has no connection yet.
    Detour,
}

/// Room on an endpoint, or a place in the queue and the time until which waiting makes sense.
#[derive(Debug)]
enum Found {
    Room(Permit),
    Place(Waiter, Instant),
}

/// The state of one request.
///
/// Several attempts may run concurrently, as futures of one task; they share this state.
#[derive(Debug)]
pub struct Dispatch<A> {
    deadline: Instant,
    max_tries: u32,
    /// Endpoints on which an attempt failed.
    tried: RefCell<Vec<EndpointId>>,
    unreached: Cell<usize>,
    /// How many times it was sent.
    sends: Cell<u32>,
    /// Whether a connection broke. If so, no further attempt uses an idle connection.
    has_broken: Cell<bool>,
    /// When the attempt that is connecting starts to count as slow.
    connect_due: Cell<Option<Instant>>,
    /// Whether there are two attempts of which only one may send.
    has_detour: Cell<bool>,
    /// Attempts that are running, or wait for room.
    under_way: Cell<u32>,
    /// Why the request waits for room.
    waits: Cell<Why>,
    /// How the parallel attempt ended.
    beside: RefCell<Option<Failure<A>>>,
    /// The most informative failure so far.
    best: RefCell<Option<Failure<A>>>,
    /// Its share of the retry budget, held until the second attempt ends.
    retry: RefCell<Option<Retry>>,
    is_denied: Cell<bool>,
}

impl<A: Reply> Dispatch<A> {
    /// A request whose answer has no value after `deadline`, and which may be tried `max_tries`
    /// times.
    #[inline]
    pub fn new(deadline: Instant, max_tries: u32) -> Self {
        Self {
            deadline,
            max_tries,
            tried: RefCell::default(),
            unreached: Cell::new(0),
            sends: Cell::new(0),
            has_broken: Cell::new(false),
            connect_due: Cell::new(None),
            has_detour: Cell::new(false),
            under_way: Cell::new(0),
            waits: Cell::new(Why::First),
            beside: RefCell::default(),
            best: RefCell::default(),
            retry: RefCell::default(),
            is_denied: Cell::new(false),
        }
    }

    /// Whether it may be sent once more.
    #[inline]
    pub fn may_send(&self) -> bool {
        self.sends.get() < self.max_tries
    }

    /// Counts a send over an open connection before it happens; the error says why it is not
    /// allowed.
    #[inline]
    pub fn take_send(&self, now: Instant) -> Result<(), Failure<A>> {
        if now >= self.deadline {
            return Err(Failure::Deadline);
        }
        let is_sent = self.has_detour.get() && self.sends.get() > 0;
        if is_sent || !self.may_send() {
            return Err(Failure::Spent);
        }
        self.sends.set(self.sends.get() + 1);
        Ok(())
    }

    /// Records that an attempt begins to connect to `endpoint`.
    pub fn connects(&self, endpoint: &Endpoint, now: Instant) {
        self.connect_due.set(Some(now + endpoint.connect_patience()));
    }

    /// Records that the attempt that was connecting is connected, or has failed to connect.
    pub fn has_connected(&self) {
        self.connect_due.set(None);
    }

    /// When the attempt that is connecting starts to count as slow, if there is one.
    #[inline]
    pub fn connect_due(&self) -> Option<Instant> {
        self.connect_due.get()
    }

    /// Records that the connection over which it was sent broke. Returns whether that proves
    /// nothing: one that `was_idle` may have been closed before the request arrived, so the request
    /// may be sent again.
    pub fn broke(&self, fault: Fault, was_idle: bool) -> bool {
        self.has_broken.set(true);
        was_idle && fault.is_unanswered() && self.may_send()
    }

    /// Whether it may use an idle connection.
    #[inline]
    pub fn may_use_idle(&self) -> bool {
        !self.has_broken.get()
    }

    /// Whether only the retry budget prevented another attempt.
    #[inline]
    pub fn was_denied(&self) -> bool {
        self.is_denied.get()
    }

    /// The first step: finds room on an endpoint, or joins the queue.
    #[inline]
    pub fn admit<R: Rng, C: Clock>(
        &self,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        now: Instant,
    ) -> Step<A> {
        if now >= self.deadline {
            return Step::End(Err(Lost::Deadline));
        }
        match self.seek(view, wanted, now) {
            Ok(found) => self.go(found, Why::First),
            Err(refusal) => Step::End(Err(Lost::Refused(refusal))),
        }
    }

    /// Continues after a wait for room that ended with this result.
    pub fn admitted<R: Rng, C: Clock>(
        &self,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        turn: Result<Permit, Refusal>,
        now: Instant,
    ) -> Step<A> {
        let failure = match turn {
            // The turn may have come long ago, for example if the whole machine was paused.
            Ok(_) if now >= self.deadline => Failure::Deadline,
            Ok(permit) => return Step::Send(permit, self.waits.get()),
            Err(refusal) => Failure::NoRoom(refusal),
        };
        match self.waits.get() {
            Why::Rescue => self.ended(view, wanted, None, Err(failure), 0, now),
            Why::First | Why::Retry | Why::Reconnect | Why::Hedge | Why::Detour => {
                self.under_way.set(self.under_way.get() - 1);
                self.keep(failure, false);
                self.give_up()
            }
        }
    }

    /// Continues after an attempt on `endpoint` ended, while this many requests are `active`.
    #[inline]
    pub fn ended<R: Rng, C: Clock>(
        &self,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        endpoint: Option<EndpointId>,
        result: Result<A, Failure<A>>,
        active: u64,
        now: Instant,
    ) -> Step<A> {
        self.under_way.set(self.under_way.get() - 1);
        match result {
            Ok(answer) => Step::End(Ok(answer)),
            Err(failure) => self.failed(view, wanted, endpoint, failure, active, now),
        }
    }

    #[cold]
    fn failed<R: Rng, C: Clock>(
        &self,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        endpoint: Option<EndpointId>,
        failure: Failure<A>,
        active: u64,
        now: Instant,
    ) -> Step<A> {
        drop(self.retry.take());
        self.unreached.set(self.unreached.get() + usize::from(failure.was_unreached()));
        // An endpoint that was sent nothing, because the other was, may still be worth a try.
        let endpoint = endpoint.filter(|_| !matches!(failure, Failure::Spent));
        let failure = match self.beside.take() {
            Some(before) => before.or(failure),
            None => failure,
        };
        if self.under_way.get() > 0 {
            self.tried.borrow_mut().extend(endpoint);
            self.beside.replace(Some(failure.without_place()));
            return Step::Pending;
        }
        // Neither of the two is under way any more.
        self.has_detour.set(false);
        if now < self.deadline
            && let Failure::Stale { place: Some(place), .. } = failure
        {
            return self.send_again(view, wanted, place, now);
        }
        let failure = failure.without_place();
        self.tried.borrow_mut().extend(endpoint);
        let next = self.next(view, wanted, &failure, active, now);
        self.keep(failure, next.is_some());
        match next {
            Some(found) => self.go(found, Why::Retry),
            None => self.give_up(),
        }
    }

    /// The next step of a request that met a dead idle connection: to another endpoint with room,
    /// or to the same place again.
    fn send_again<R: Rng, C: Clock>(
        &self,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        place: Permit,
        now: Instant,
    ) -> Step<A> {
        let other = self.pick_beside(place.endpoint().id(), view, wanted, now);
        self.go(Found::Room(other.unwrap_or(place)), Why::Reconnect)
    }

    /// Where to try again, if anywhere.
    fn next<R: Rng, C: Clock>(
        &self,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        failure: &Failure<A>,
        active: u64,
        now: Instant,
    ) -> Option<Found> {
        let tried = self.tried.borrow();
        let counted = tried.len() - self.unreached.get().min(MAX_UNREACHED);
        let is_left = counted < self.max_tries as usize && self.may_send();
        if !is_left || !failure.may_be_tried_again() || now >= self.deadline {
            return None;
        }
        let untried = Wanted { avoided: &tried, ..*wanted };
        let is_not_ready = failure.is_not_ready() && view.fleet().pool.settings().asks_readiness;
        if failure.left_no_work() || is_not_ready {
            return match view.pick(&untried, now) {
                Ok(permit) => Some(Found::Room(permit)),
                Err(_) if view.has_untried(&untried) => self.line_up(view, &untried, now).ok(),
                // Endpoints that were tried, once more.
                Err(_) if !is_not_ready && tried.len() < self.max_tries as usize => {
                    self.seek(view, wanted, now).ok()
                }
                Err(_) => None,
            };
        }
        let permit = view.pick(&untried, now).ok()?;
        let retry = view.fleet().retries.begin(active);
        self.is_denied.set(retry.is_none());
        retry.map(|retry| {
            self.retry.replace(Some(retry));
            Found::Room(permit)
        })
    }

    /// Keeps the outcome that the client gets if nothing better comes.
    fn keep(&self, failure: Failure<A>, goes_on: bool) {
        let failure = if goes_on { failure.kept() } else { Some(failure) };
        let best = match (self.best.take(), failure) {
            (Some(first), Some(later)) => Some(first.or(later)),
            (first, later) => first.or(later),
        };
        self.best.replace(best);
    }

    /// Ends a request for which nothing is left to try.
    fn give_up(&self) -> Step<A> {
        Step::End(self.best.take().unwrap_or(Failure::Spent).give_up())
    }

    /// A second attempt in parallel with the slow one on `first`, if one is allowed.
    pub fn hedge<R: Rng, C: Clock>(
        &self,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        first: EndpointId,
        now: Instant,
    ) -> Option<Permit> {
        let may = self.may_send() && now < self.deadline;
        let hedging = view.fleet().hedging.as_ref().filter(|_| may)?;
        let permit = self.pick_beside(first, view, wanted, now)?;
        hedging.take().then(|| {
            self.under_way.set(self.under_way.get() + 1);
            permit
        })
    }

    /// A second attempt in parallel with the one on `first`, which has no connection yet, if one is
    /// allowed.
    pub fn detour<R: Rng, C: Clock>(
        &self,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        first: EndpointId,
        now: Instant,
    ) -> Option<Permit> {
        let is_connecting = self.connect_due.take().is_some() && self.sends.get() == 0;
        if !is_connecting || self.under_way.get() > 1 || now >= self.deadline {
            return None;
        }
        let permit = self.pick_beside(first, view, wanted, now)?;
        self.has_detour.set(true);
        self.under_way.set(self.under_way.get() + 1);
        Some(permit)
    }

    /// A second attempt in parallel with one whose endpoint has fallen silent, if it may be sent.
    pub fn rescue<R: Rng, C: Clock>(
        &self,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        now: Instant,
    ) -> Option<Step<A>> {
        let may = self.may_send() && now < self.deadline;
        may.then(|| match self.seek(view, wanted, now) {
            Ok(found) => self.go(found, Why::Rescue),
            Err(refusal) => {
                self.beside.replace(Some(Failure::NoRoom(refusal)));
                Step::Pending
            }
        })
    }

    /// Room for an attempt beside the one on `first`, on an endpoint where none has failed.
    fn pick_beside<R: Rng, C: Clock>(
        &self,
        first: EndpointId,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        now: Instant,
    ) -> Option<Permit> {
        let mut avoided = self.tried.borrow().clone();
        avoided.push(first);
        view.pick(&Wanted { avoided: &avoided, ..*wanted }, now).ok()
    }

    /// Begins an attempt, or a wait for room for one.
    #[inline]
    fn go(&self, found: Found, why: Why) -> Step<A> {
        self.under_way.set(self.under_way.get() + 1);
        match found {
            Found::Room(permit) => Step::Send(permit, why),
            Found::Place(waiter, until) => {
                self.waits.set(why);
                Step::Wait(waiter, until)
            }
        }
    }

    /// Finds room on an endpoint, or a place in the queue.
    #[inline]
    fn seek<R: Rng, C: Clock>(
        &self,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        now: Instant,
    ) -> Result<Found, Refusal> {
        let is_awaited = view.fleet().pool.queue().waiting() > 0;
        if !is_awaited || !view.can_wait(wanted) {
            match view.pick(wanted, now) {
                Ok(permit) => return Ok(Found::Room(permit)),
                Err(Refusal::Busy) => {}
                Err(refusal) if refusal.ends_with_a_start() => {}
                Err(refusal) => return Err(refusal),
            }
        }
        self.line_up(view, wanted, now)
    }

    /// Joins the queue.
    #[cold]
    fn line_up<R: Rng, C: Clock>(
        &self,
        view: &View<R, C>,
        wanted: &Wanted<'_>,
        now: Instant,
    ) -> Result<Found, Refusal> {
        let waiter = view.queue(wanted, now)?;
        let left = self.deadline.saturating_duration_since(now);
        let limit = view.fleet().pool.settings().queue_time;
        Ok(Found::Place(waiter, now + patience(limit, left)))
    }
}

#[cfg(test)]
mod tests;
