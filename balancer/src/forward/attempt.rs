//! Attempts to get a request answered: pick, send, judge, and perhaps once more.
//!
//! A second attempt goes to another endpoint, is made only before the client saw a byte, only within
//! the retry budget (a share of the active requests, so that retries cannot multiply an overload)
//! and never after the deadline. An endpoint that could not be reached, or whose process is gone, has
//! nothing to do with the request any more: then the budget is spared, see
//! [`Failure::left_no_work`]. Apart from that, a request that met a dead idle connection is sent
//! again over a fresh one: to another endpoint where one has room, since a process that was killed
//! breaks its connections a moment before it stops to take new ones. Whatever happens, a request is
//! sent [`MAX_SENDS`] times at most. It takes more than two endpoints only while they refuse the
//! connection, which is known at once and costs no work: when most of a fleet is stopped,
//! the first two may well both be gone.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use super::failure::{Failure, Verdict};
use super::hedge;
use super::outgoing::Outgoing;
use super::stream::Stream;
use super::trace::Trace;
use super::trial::{Scope, Trial};
use crate::error::ProxyError;
use crate::lane::{Lane, Refusal, Wanted};
use crate::shared::Retry;
use crate::upstream::{
    Beginning, Connection, Endpoint, EndpointId, Fault, Head, InFlight, Payload,
};

/// Endpoints that are tried for one request, besides those that refuse the connection.
const MAX_TRIES: usize = 2;
/// Endpoints that may refuse the connection for one request without being counted as tried.
const MAX_REFUSALS: usize = 6;
/// Times that one request is sent, whatever became of it.
const MAX_SENDS: u32 = 2;

/// A request that is ready to be sent.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) lane: &'a Rc<Lane>,
    pub(super) outgoing: Outgoing<'a>,
    pub(super) payload: &'a Payload,
    pub(super) wanted: Wanted<'a>,
    pub(super) deadline: Instant,
    /// What of an attempt counts for its endpoint.
    pub(super) scope: Scope,
}

/// The head of a response and where its body comes from.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) head: http::response::Parts,
    pub(super) stream: Stream,
    /// When the head was here.
    pub(super) at: Instant,
}

/// How often a request has been sent.
#[derive(Debug, Default)]
pub(super) struct Sends {
    count: Cell<u32>,
    /// Whether a connection broke. Then the last attempt is not risked on one that has been idle.
    has_broken: Cell<bool>,
}

impl Sends {
    /// Whether it may be sent once more.
    pub(super) fn are_left(&self) -> bool {
        self.count.get() < MAX_SENDS
    }

    fn take(&self) -> bool {
        let is_left = self.are_left();
        self.count.set(self.count.get() + u32::from(is_left));
        is_left
    }
}

/// An endpoint to try next, when that was decided, and the permission where one is needed.
type Next = (InFlight, Instant, Option<Retry>);

/// What comes back over a connection, or what is wrong with that.
type Answered = Result<Beginning, Fault>;

/// The head of a response, the first part of its body, and where the rest comes from.
type Begun = (Head, Bytes, Connection);

impl Job<'_> {
    /// Gets an answer.
    pub(super) async fn run(
        &self,
        now: Instant,
        trace: &mut Trace,
    ) -> Result<Box<Reply>, ProxyError> {
        let (mut in_flight, mut now) = self.admit(now).await?;
        let sends = Sends::default();
        let mut tries = 1;
        let mut asked = Vec::new();
        let mut refusals = 0;
        let mut best: Option<Failure> = None;
        // Held for as long as the second attempt lasts.
        let mut _retry = None;
        loop {
            let endpoint = Arc::clone(in_flight.endpoint());
            if let Some(entry) = &mut trace.entry {
                entry.tries = tries;
                entry.endpoint = Some(Arc::clone(&endpoint));
            }
            let attempted = hedge::attempt(self, in_flight, now, &sends, trace).await;
            if let Err(Failure::Stale(_)) = attempted
                && sends.are_left()
            {
                (in_flight, now) = self.again(&endpoint);
                self.lane.serve_waiting();
                continue;
            }
            // It may stay for a second attempt, but whoever lost or failed has left its endpoint.
            self.lane.serve_waiting();
            let failure = match attempted {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            asked.push(endpoint.id());
            refusals += usize::from(failure.was_refused());
            let is_left = asked.len() - refusals.min(MAX_REFUSALS) < MAX_TRIES;
            let next = if is_left && sends.are_left() {
                Box::pin(self.next(&failure, &asked)).await
            } else {
                None
            };
            let Some((other, at, permit)) = next else {
                return best.into_iter().fold(failure, |later, first| first.or(later)).give_up();
            };
            best = failure.kept();
            (in_flight, now, _retry) = (other, at, permit);
            self.lane.serve_waiting();
            tries += 1;
            self.lane.shared.traffic.retries.fetch_add(1, Relaxed);
        }
    }

    /// One attempt on a certain endpoint, however busy it is.
    pub(super) async fn send_to(&self, endpoint: &Arc<Endpoint>) -> Result<Box<Reply>, ProxyError> {
        let sends = Sends::default();
        let attempt = async || {
            let now = self.lane.outbox.now();
            self.attempt(endpoint.begin(now), now, &sends).await
        };
        let mut attempted = attempt().await;
        if let Err(Failure::Stale(_)) = attempted {
            self.lane.shared.traffic.reconnects.fetch_add(1, Relaxed);
            attempted = attempt().await;
        }
        attempted.or_else(Failure::give_up)
    }

    /// Where a request goes that met a dead idle connection of this endpoint: to another one with
    /// room, or back into the place that it has just left.
    fn again(&self, endpoint: &Arc<Endpoint>) -> (InFlight, Instant) {
        self.lane.shared.traffic.reconnects.fetch_add(1, Relaxed);
        let now = self.lane.outbox.now();
        let other = self.lane.pick(&self.besides(&[endpoint.id()]), now);
        (other.unwrap_or_else(|_| endpoint.begin(now)), now)
    }

    /// Finds room on an endpoint, in turn with the other requests that look for it; tells when.
    pub(super) async fn admit(&self, now: Instant) -> Result<(InFlight, Instant), ProxyError> {
        let is_awaited = self.lane.shared.gate.waiting() > 0;
        if !is_awaited || !self.lane.can_wait(&self.wanted) {
            match self.lane.pick(&self.wanted, now) {
                Ok(in_flight) => return Ok((in_flight, now)),
                Err(Refusal::Final(error)) => return Err(error),
                Err(Refusal::Busy) => {}
            }
        }
        Box::pin(self.wait_for_room(&self.wanted, now)).await
    }

    /// Waits in line until an endpoint has room.
    async fn wait_for_room(
        &self,
        wanted: &Wanted<'_>,
        now: Instant,
    ) -> Result<(InFlight, Instant), ProxyError> {
        let place = self.lane.queue(wanted)?;
        let left = self.deadline.saturating_duration_since(now);
        let limit = now + patience(self.lane.shared.config.timeouts.queue, left);
        let mut wait = self.lane.waits.until(limit);
        let in_flight = poll_fn(|context| match place.take_turn(context.waker()) {
            Some(turn) => Poll::Ready(turn),
            None if wait.is_over(context) => Poll::Ready(Err(ProxyError::Overloaded)),
            None => Poll::Pending,
        })
        .await?;
        Ok((in_flight, self.lane.outbox.now()))
    }

    /// What it needs of an endpoint besides these.
    pub(super) fn besides<'w>(&'w self, avoided: &'w [EndpointId]) -> Wanted<'w> {
        Wanted { avoided, ..self.wanted }
    }

    /// Where to try again, if anywhere.
    async fn next(&self, failure: &Failure, avoided: &[EndpointId]) -> Option<Next> {
        let now = self.lane.outbox.now();
        if !failure.may_be_tried_again() || now >= self.deadline {
            return None;
        }
        let untried = self.besides(avoided);
        if failure.left_no_work() {
            return match self.lane.pick(&untried, now) {
                Ok(other) => Some((other, now, None)),
                Err(_) if self.lane.has_untried(&untried) => self
                    .wait_for_room(&untried, now)
                    .await
                    .ok()
                    .map(|(other, at)| (other, at, None)),
                // The same once more.
                Err(_) if avoided.len() < MAX_TRIES => {
                    self.admit(now).await.ok().map(|(other, at)| (other, at, None))
                }
                Err(_) => None,
            };
        }
        let next = self.lane.pick(&untried, now).ok()?;
        let permit = Retry::begin(&self.lane.shared);
        if permit.is_none() {
            self.lane.shared.traffic.retries_denied.fetch_add(1, Relaxed);
        }
        permit.map(|permit| (next, now, Some(permit)))
    }

    /// One attempt on one endpoint; notes what it says about the endpoint.
    pub(super) async fn attempt(
        &self,
        in_flight: InFlight,
        start: Instant,
        sends: &Sends,
    ) -> Result<Box<Reply>, Failure> {
        let mut trial = Trial::new(in_flight, self.scope, start);
        let begun = self.exchange(trial.endpoint(), start, sends).await;
        let now = self.lane.outbox.now();
        let (head, first, connection) = match begun {
            Ok(begun) => begun,
            Err(failure) => {
                trial.failed(self.lane, &failure, now);
                return Err(failure);
            }
        };
        let verdict = trial.answered(self.lane, head.parts.status, now);
        if let Some(report) = &head.report {
            trial.endpoint().hear(report, now);
        }
        let stream = Stream::new(self.lane, connection, trial, first, self.deadline);
        let reply = Box::new(Reply { head: head.parts, stream, at: now });
        if verdict == Verdict::Good || self.scope == Scope::OnlyConnections {
            return Ok(reply);
        }
        Err(Failure::Status(reply))
    }

    /// Sends the request over an idle connection, or over a new one if there is none.
    async fn exchange(
        &self,
        endpoint: &Endpoint,
        mut now: Instant,
        sends: &Sends,
    ) -> Result<Begun, Failure> {
        let idle = if sends.has_broken.get() { None } else { self.lane.idle.take(endpoint.id()) };
        let was_idle = idle.is_some();
        let mut connection = if let Some(connection) = idle {
            connection
        } else {
            // In a box, like all that is rare, so that the future of a request stays small.
            let opened = Box::pin(self.open(endpoint)).await?;
            now = self.lane.outbox.now();
            opened
        };
        if !sends.take() {
            self.lane.idle.put(endpoint.id(), connection, self.lane.waits.now());
            return Err(Failure::Spent);
        }
        let fault = match self.send(endpoint, &mut connection, now).await? {
            Ok((head, first)) => return Ok((head, first, connection)),
            Err(fault) => fault,
        };
        sends.has_broken.set(true);
        drop(connection);
        if was_idle && fault.is_unanswered() && sends.are_left() {
            return Err(Failure::Stale(fault));
        }
        let is_gone = Box::pin(self.is_gone(endpoint, fault)).await;
        Err(Failure::Broken { fault, is_gone })
    }

    /// After a connection broke: whether the process of its endpoint is gone, which shows in that it
    /// takes no connections any more.
    async fn is_gone(&self, endpoint: &Endpoint, fault: Fault) -> bool {
        if matches!(fault, Fault::NotHttp | Fault::Misframed) {
            return false;
        }
        matches!(self.open(endpoint).await, Err(Failure::Unreached(_)))
    }

    /// Connects to an endpoint, for no longer than the request has time.
    async fn open(&self, endpoint: &Endpoint) -> Result<Connection, Failure> {
        let left = self.deadline.saturating_duration_since(self.lane.outbox.now());
        let limit = self.lane.shared.config.timeouts.connect;
        let opened = Connection::open(endpoint, limit.min(left), Rc::clone(&self.lane.room)).await;
        if opened.is_ok() {
            self.lane.shared.traffic.upstream_connections.fetch_add(1, Relaxed);
        }
        opened.map_err(|fault| {
            if fault == Fault::ConnectTimedOut && left <= limit {
                Failure::Deadline
            } else {
                Failure::unreached(fault)
            }
        })
    }

    /// Sends and waits: for what the client needs not to be told wrong, or for the deadline.
    fn send(
        &self,
        endpoint: &Endpoint,
        connection: &mut Connection,
        now: Instant,
    ) -> impl Future<Output = Result<Answered, Failure>> {
        let left = self.deadline.saturating_duration_since(now);
        // What has passed since the client's limit was read should not take a millisecond off it.
        let left = left.as_secs() * 1000 + u64::from(left.subsec_micros().div_ceil(1000));
        let length = self.payload.as_slice().len();
        connection.prepare(self.payload, |out| self.outgoing.write(endpoint, left, length, out));
        let is_head_request = self.outgoing.head.method == Method::HEAD;
        let lane = self.lane;
        let mut wait = lane.waits.until(self.deadline);
        let mut is_begun = false;
        let mut begun = None;
        poll_fn(move |context| {
            if !is_begun {
                connection.begin(&lane.outbox, context.waker());
                is_begun = true;
            }
            let spare = || lane.spare_fields();
            let polled = connection.poll_beginning(context, &mut begun, is_head_request, spare);
            if let Poll::Ready(sent) = polled {
                return Poll::Ready(Ok(sent));
            }
            if wait.is_over(context) { Poll::Ready(Err(Failure::Deadline)) } else { Poll::Pending }
        })
    }
}

/// How long a request may wait for room when it has this much time left. The other half is for the
/// answer: in an overload everybody waits as long as allowed, and endpoints whose every request had
/// no time left would work for nobody.
fn patience(limit: Duration, left: Duration) -> Duration {
    limit.min(left / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_time_is_kept_for_the_answer() {
        let seconds = Duration::from_secs;
        assert_eq!(patience(seconds(2), seconds(30)), seconds(2));
        assert_eq!(patience(seconds(2), seconds(1)), Duration::from_millis(500));
        assert_eq!(patience(seconds(2), Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_request_is_sent_twice_and_no_more() {
        let sends = Sends::default();
        assert_eq!([sends.take(), sends.take(), sends.take()], [true, true, false]);
        assert!(!sends.are_left());
    }
}
