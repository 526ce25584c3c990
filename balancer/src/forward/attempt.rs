//! Attempts to get a request answered: pick, send, judge, and perhaps once more.
//!
//! A second attempt goes to another endpoint, is made only before the client saw a byte, only within
//! the retry budget (a share of the active requests, so that retries cannot multiply an overload)
//! and never after the deadline. An endpoint that could not be reached, or went down, has nothing to
//! do with the request any more: then the budget is spared, see [`Failure::left_no_work`]. Apart from that, an idle connection that turns out to be dead is
//! replaced by a fresh one: nobody had looked at the request yet.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::answer::{Stream, Trace};
use super::hedge;
use super::outgoing::Outgoing;
use crate::error::ProxyError;
use crate::lane::{Lane, Refusal, Wanted};
use crate::shared::Retry;
use crate::upstream::{
    Connection, Endpoint, EndpointId, Event, Head, InFlight, Payload, SendError,
};

/// Attempts at one request.
const MAX_TRIES: u32 = 2;

/// A request that is ready to be sent.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) lane: &'a Rc<Lane>,
    pub(super) outgoing: Outgoing<'a>,
    pub(super) payload: &'a Payload,
    pub(super) wanted: Wanted<'a>,
    pub(super) deadline: Instant,
    /// Whether the deadline is the balancer's own limit, and not one that the client chose.
    pub(super) is_patient: bool,
}

/// The head of a response and where its body comes from.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) head: http::response::Parts,
    pub(super) stream: Stream,
    /// When the head was here.
    pub(super) at: Instant,
}

/// Why an attempt brought no usable answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection: the request has not left.
    Unreached,
    /// The connection did not live long enough.
    Broken(&'static str),
    /// The endpoint went down while it was waited for.
    Gone,
    /// Time ran out.
    Deadline,
    /// There is an answer, but another endpoint may have a better one.
    Status(Box<Reply>),
}

impl Job<'_> {
    /// Gets an answer.
    pub(super) async fn run(
        &self,
        mut now: Instant,
        trace: &mut Trace,
    ) -> Result<Box<Reply>, ProxyError> {
        let mut in_flight;
        (in_flight, now) = self.admit(now).await?;
        let mut tries = 1;
        // Held for as long as the second attempt lasts.
        let mut _retry = None;
        loop {
            let id = in_flight.endpoint().id();
            if let Some(entry) = &mut trace.entry {
                entry.tries = tries;
                entry.endpoint = Some(std::sync::Arc::clone(in_flight.endpoint()));
            }
            let attempted = match &self.lane.shared.hedging {
                None => self.attempt(in_flight, now).await,
                Some(hedging) => {
                    let hedged = hedge::attempt(self, in_flight, now, hedging, trace);
                    let hedged = Box::pin(hedged).await;
                    // The loser has left its endpoint.
                    self.lane.serve_waiting();
                    hedged
                }
            };
            let failure = match attempted {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            // It may stay for a second attempt, but its first endpoint has room again.
            self.lane.serve_waiting();
            now = self.lane.outbox.now();
            if tries >= MAX_TRIES || matches!(failure, Failure::Deadline) || now >= self.deadline {
                return give_up(failure);
            }
            if failure.left_no_work() {
                let other = self.lane.pick(&self.wanted, Some(id), now).ok();
                (in_flight, now) = match other {
                    Some(other) => (other, now),
                    None => match self.admit(now).await {
                        Ok(next) => next,
                        Err(_) => return give_up(failure),
                    },
                };
            } else {
                match self.next_endpoint(id, now) {
                    Some((next, permit)) => (in_flight, _retry) = (next, Some(permit)),
                    None => return give_up(failure),
                }
            }
            // An answer that is not used still holds its endpoint.
            drop(failure);
            self.lane.serve_waiting();
            tries += 1;
            self.lane.shared.traffic.retries.fetch_add(1, Relaxed);
            tracing::debug!(attempt = tries, endpoint = in_flight.endpoint().name(), "retry");
        }
    }

    /// One attempt on a certain endpoint, however busy it is.
    pub(super) async fn send_to(
        &self,
        endpoint: &std::sync::Arc<Endpoint>,
    ) -> Result<Box<Reply>, ProxyError> {
        self.attempt(endpoint.begin(), self.lane.outbox.now()).await.or_else(give_up)
    }

    /// Finds room on an endpoint, in turn with the other requests that look for it; tells when.
    async fn admit(&self, now: Instant) -> Result<(InFlight, Instant), ProxyError> {
        let is_awaited = self.lane.shared.gate.waiting() > 0;
        if !is_awaited || !self.lane.can_wait(&self.wanted) {
            match self.lane.pick(&self.wanted, None, now) {
                Ok(in_flight) => return Ok((in_flight, now)),
                Err(Refusal::Final(error)) => return Err(error),
                Err(Refusal::Busy) => {}
            }
        }
        Box::pin(self.wait_for_room(now)).await
    }

    /// Waits in line until an endpoint has room.
    async fn wait_for_room(&self, now: Instant) -> Result<(InFlight, Instant), ProxyError> {
        let place = self.lane.queue(&self.wanted)?;
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

    /// Where to try again, if the budget allows it.
    fn next_endpoint(&self, avoided: EndpointId, now: Instant) -> Option<(InFlight, Retry)> {
        let shared = &self.lane.shared;
        let next = self.lane.pick(&self.wanted, Some(avoided), now).ok()?;
        let permit = Retry::begin(shared);
        if permit.is_none() {
            shared.traffic.retries_denied.fetch_add(1, Relaxed);
        }
        permit.map(|permit| (next, permit))
    }

    /// One attempt on one endpoint; notes what it says about the endpoint.
    pub(super) async fn attempt(
        &self,
        in_flight: InFlight,
        start: Instant,
    ) -> Result<Box<Reply>, Failure> {
        let endpoint = std::sync::Arc::clone(in_flight.endpoint());
        let sent = self.exchange(&endpoint, start).await;
        let now = self.lane.outbox.now();
        let elapsed = now.duration_since(start);
        let pool = &self.lane.shared.pool;
        let (head, connection) = match sent {
            Ok(sent) => sent,
            // A client that does not wait long must not get endpoints ejected.
            Err(Failure::Deadline) if !self.is_patient => return Err(Failure::Deadline),
            Err(failure) => {
                endpoint.counters().failed.fetch_add(1, Relaxed);
                endpoint.observe_failure(elapsed, now);
                pool.apply_failure(&endpoint);
                return Err(failure);
            }
        };
        let verdict = Verdict::of(head.parts.status);
        if verdict == Verdict::Fault {
            endpoint.counters().failed.fetch_add(1, Relaxed);
            endpoint.observe_failure(elapsed, now);
            pool.apply_failure(&endpoint);
        } else {
            endpoint.counters().succeeded.fetch_add(1, Relaxed);
            endpoint.observe(elapsed, now);
            if endpoint.is_troubled() {
                pool.apply(&endpoint, Event::Succeeded);
            }
        }
        if let Some(report) = &head.report {
            endpoint.hear(report);
        }
        let lane = Rc::clone(self.lane);
        let stream = Stream::new(connection, in_flight, lane, self.deadline);
        let reply = Box::new(Reply { head: head.parts, stream, at: now });
        if verdict == Verdict::Good { Ok(reply) } else { Err(Failure::Status(reply)) }
    }

    /// Sends the request over an idle connection, or a new one if there is none or it is dead.
    async fn exchange(
        &self,
        endpoint: &Endpoint,
        now: Instant,
    ) -> Result<(Head, Connection), Failure> {
        if let Some(mut connection) = self.lane.idle.take(endpoint.id()) {
            match self.send(endpoint, &mut connection, now).await? {
                Ok(head) => return Ok((head, connection)),
                Err(SendError::Malformed) => return Err(Failure::Broken("its answer is not HTTP")),
                Err(SendError::Closed) => {}
            }
            self.lane.shared.traffic.reconnects.fetch_add(1, Relaxed);
        }
        let limit = self.lane.shared.config.timeouts.connect;
        // In a box, like all that is rare, so that the future of a request stays small.
        let opened = Box::pin(Connection::open(endpoint, limit, Rc::clone(&self.lane.room))).await;
        let mut connection = opened.map_err(|_| Failure::Unreached)?;
        self.lane.shared.traffic.upstream_connections.fetch_add(1, Relaxed);
        match self.send(endpoint, &mut connection, now).await? {
            Ok(head) => Ok((head, connection)),
            Err(SendError::Malformed) => Err(Failure::Broken("its answer is not HTTP")),
            Err(SendError::Closed) => Err(Failure::Broken("it closed the connection")),
        }
    }

    /// Sends and waits: for the response, for the deadline, or for the endpoint to go down.
    fn send(
        &self,
        endpoint: &Endpoint,
        connection: &mut Connection,
        now: Instant,
    ) -> impl Future<Output = Result<Result<Head, SendError>, Failure>> {
        let left = self.deadline.saturating_duration_since(now);
        // What has passed since the client's limit was read should not take a millisecond off it.
        let left = left.as_secs() * 1000 + u64::from(left.subsec_micros().div_ceil(1000));
        let length = self.payload.as_slice().len();
        connection.prepare(self.payload, |out| self.outgoing.write(endpoint, left, length, out));
        let was_gone = endpoint.is_gone();
        let is_head_request = self.outgoing.head.method == Method::HEAD;
        let lane = self.lane;
        let mut wait = lane.waits.until(self.deadline);
        let mut is_begun = false;
        poll_fn(move |context| {
            if !is_begun {
                connection.begin(&lane.outbox, context.waker());
                is_begun = true;
            }
            let spare = || lane.spare_fields();
            if let Poll::Ready(sent) = connection.poll_response(context, is_head_request, spare) {
                return Poll::Ready(Ok(sent));
            }
            if wait.is_over(context) {
                return Poll::Ready(Err(Failure::Deadline));
            }
            if endpoint.is_gone() && !was_gone {
                return Poll::Ready(Err(Failure::Gone));
            }
            Poll::Pending
        })
    }
}

/// How long a request may wait for room when it has this much time left. The other half is for the
/// answer: in an overload everybody waits as long as allowed, and endpoints whose every request had
/// no time left would work for nobody.
fn patience(limit: Duration, left: Duration) -> Duration {
    limit.min(left / 2)
}

fn give_up(failure: Failure) -> Result<Box<Reply>, ProxyError> {
    match failure {
        Failure::Status(reply) => Ok(reply),
        Failure::Unreached => Err(ProxyError::Upstream("it does not take connections")),
        Failure::Broken(what) => Err(ProxyError::Upstream(what)),
        Failure::Gone => Err(ProxyError::Upstream("it went down")),
        Failure::Deadline => Err(ProxyError::Deadline),
    }
}

impl Failure {
    /// Whether nobody is at work on the request any more, or ever was. Trying again then needs no
    /// budget, because it cannot multiply the load: a refused connection brought no work to
    /// anybody, and what an endpoint loses by going down is at most what it had in flight, once
    /// for each time that it goes down (its probes must pass twice before the next). Whatever
    /// happens, a request is sent twice at most.
    fn left_no_work(&self) -> bool {
        match self {
            Self::Unreached | Self::Gone => true,
            Self::Broken(_) | Self::Deadline | Self::Status(_) => false,
        }
    }
}

/// What a status says about the endpoint that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// An answer for the client.
    Good,
    /// Not broken, but another endpoint may have time.
    Busy,
    /// The endpoint is at fault.
    Fault,
}

impl Verdict {
    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            429 | 503 => Self::Busy,
            // What the endpoint does not implement is not its fault, and being late not its alone.
            501 | 504 | 505 => Self::Good,
            500.. => Self::Fault,
            _ => Self::Good,
        }
    }
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
    fn busy_and_late_are_not_broken() {
        let verdict = |code| Verdict::of(StatusCode::from_u16(code).expect("a status"));
        for (code, expected) in [
            (200, Verdict::Good),
            (404, Verdict::Good),
            (429, Verdict::Busy),
            (500, Verdict::Fault),
            (501, Verdict::Good),
            (502, Verdict::Fault),
            (503, Verdict::Busy),
            (504, Verdict::Good),
        ] {
            assert_eq!(verdict(code), expected, "{code}");
        }
    }
}
