//! One attempt to get a request answered: a connection, the request over it, and its answer.
//!
//! The [`Dispatch`] decides where it goes and whether there is another; see [`super::drive`].

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use answer::Head;
use bytes::Bytes;
use fleet::{
    Attempt, Dispatch, Endpoint, EndpointId, Failure, Fault, MAX_TRIES, Permit, Refusal, Scope,
    Step, Verdict, Waiter, Wanted,
};
use http::header::RETRY_AFTER;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::outgoing::Outgoing;
use super::stream::Stream;
use crate::error::ProxyError;
use crate::log::changes::tell;
use crate::shard::Shard;
use crate::upstream::{Connection, Payload};

/// Pause before checking again whether this process has a descriptor left.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(20);

/// A request that is ready to be sent.
#[derive(Debug)]
pub(super) struct PreparedRequest<'a> {
    pub(super) shard: &'a Rc<Shard>,
    pub(super) outgoing: Outgoing<'a>,
    pub(super) payload: &'a Payload,
    pub(super) wanted: Wanted<'a>,
    pub(super) deadline: Instant,
    /// How much of an attempt with the full time limit counts for its endpoint.
    pub(super) scope: Scope,
}

/// The head of a response and where its body comes from.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) head: http::response::Parts,
    pub(super) stream: Stream,
    /// When the head had arrived.
    pub(super) at: Instant,
}

impl fleet::Reply for Box<Reply> {
    fn status(&self) -> StatusCode {
        self.head.status
    }

    fn has_retry_after(&self) -> bool {
        self.head.headers.contains_key(RETRY_AFTER)
    }

    fn is_complete(&self) -> bool {
        self.stream.is_complete()
    }
}

/// Outcome of an attempt.
pub(super) type Attempted = Result<Box<Reply>, Failure<Box<Reply>>>;

/// The first part of a response's body, or what is wrong with the response.
type First = Result<Bytes, Fault>;

/// The first part of a response's body, and where the rest comes from.
type Begun = (Bytes, Box<Connection>);

impl PreparedRequest<'_> {
    /// Reports that an attempt is over; returns what comes next.
    #[inline]
    pub(super) fn ended(
        &self,
        dispatch: &Dispatch<Box<Reply>>,
        endpoint: EndpointId,
        attempted: Attempted,
    ) -> Step<Box<Reply>> {
        let active = match &attempted {
            Ok(_) => 0,
            Err(_) => self.shard.shared.traffic.active.load(Relaxed),
        };
        let now = self.shard.write_queue.now();
        dispatch.ended(&self.shard.view, &self.wanted, Some(endpoint), attempted, active, now)
    }

    /// Makes an attempt on a given endpoint, however busy it is.
    pub(super) async fn send_to(&self, endpoint: &Arc<Endpoint>) -> Result<Box<Reply>, ProxyError> {
        let dispatch = Dispatch::new(self.deadline, MAX_TRIES);
        let attempt = async || {
            let now = self.shard.write_queue.now();
            self.attempt(endpoint.begin(now), now, &dispatch).await
        };
        let mut attempted = attempt().await;
        if let Err(Failure::Stale { .. }) = attempted {
            self.shard.shared.traffic.reconnects.fetch_add(1, Relaxed);
            attempted = attempt().await;
        }
        let lost = |lost| ProxyError::lost(lost, self.wanted.model);
        attempted.or_else(|failure| failure.give_up().map_err(lost))
    }

    /// Waits in the queue until an endpoint has room, but not beyond `until`.
    pub(super) async fn wait_for_room(
        &self,
        waiter: Waiter,
        until: Instant,
    ) -> Result<Permit, Refusal> {
        let mut wait = self.shard.waits.until(until);
        poll_fn(|context| match waiter.take_turn(context.waker()) {
            Some(turn) => Poll::Ready(turn),
            None if wait.is_over(context) => {
                Poll::Ready(Err(self.shard.view.why_in_vain(&self.wanted)))
            }
            None => Poll::Pending,
        })
        .await
    }

    /// Makes one attempt on one endpoint and notes what it says about the endpoint.
    pub(super) async fn attempt(
        &self,
        permit: Permit,
        start: Instant,
        dispatch: &Dispatch<Box<Reply>>,
    ) -> Attempted {
        let (shard, view) = (self.shard, &self.shard.view);
        let left = self.deadline.saturating_duration_since(start);
        let scope = self.scope.within(left, shard.shared.config.timeouts.request);
        let mut attempt = Attempt::new(permit, scope, start, view.clock().clone());
        let mut head = None;
        let begun = self.exchange(attempt.endpoint(), start, dispatch, &mut head).await;
        let now = shard.write_queue.now();
        let (head, first, connection) = match (begun, head) {
            (Ok((first, connection)), Some(head)) => (head, first, connection),
            (Ok(_), None) => unreachable!("no body begins before its head"),
            (Err(failure), _) => {
                shard.note_failed(&mut attempt, &failure, now);
                if let Failure::Stale { fault, .. } = failure {
                    return Err(Failure::Stale { fault, place: attempt.into_place() });
                }
                return Err(failure);
            }
        };
        let status = head.parts.status;
        let (verdict, changes) = attempt.answered(&view.fleet().pool, status, now);
        if verdict == Verdict::Fault && self.scope != Scope::OnlyConnections {
            let reason = format!("status {}", status.as_u16());
            shard.failed_attempts.warn(attempt.endpoint(), &reason, shard.waits.now());
            tell(&changes);
        }
        if let Some(report) = &head.report {
            attempt.endpoint().record_load_report(report, now);
        }
        let stream = Stream::new(shard, connection, attempt, first, self.deadline);
        let reply = Box::new(Reply { head: head.parts, stream, at: now });
        if verdict == Verdict::Good || self.scope == Scope::OnlyConnections {
            return Ok(reply);
        }
        Err(Failure::Status(reply))
    }

    /// Sends the request over an idle connection, or over a new one if there is none. The head of
    /// the response is stored in `head`, so that it is not moved from caller to caller.
    async fn exchange(
        &self,
        endpoint: &Endpoint,
        mut now: Instant,
        dispatch: &Dispatch<Box<Reply>>,
        head: &mut Option<Head>,
    ) -> Result<Begun, Failure<Box<Reply>>> {
        let idle = if dispatch.may_use_idle() { self.shard.idle.take(endpoint.id()) } else { None };
        let was_idle = idle.is_some();
        let mut connection = if let Some(connection) = idle {
            connection
        } else {
            dispatch.connects(endpoint, now);
            // Boxed, like everything rare, so that the future of a request stays small.
            let opened = Box::pin(self.open_in_turn(endpoint, dispatch)).await;
            dispatch.has_connected();
            let opened = opened?;
            let began = std::mem::replace(&mut now, self.shard.write_queue.now());
            endpoint.observe_connect(now.saturating_duration_since(began));
            opened
        };
        if let Err(failure) = dispatch.take_send(now) {
            self.shard.idle.put(endpoint.id(), connection, self.shard.waits.now());
            return Err(failure);
        }
        let fault = match self.send(endpoint, &mut connection, now, head).await? {
            Ok(first) => return Ok((first, connection)),
            Err(fault) => fault,
        };
        drop(connection);
        if dispatch.broke(fault, was_idle) {
            return Err(Failure::Stale { fault, place: None });
        }
        let is_gone = Box::pin(self.is_gone(endpoint, fault)).await;
        Err(Failure::Broken { fault, is_gone })
    }

    /// After a connection broke: whether the endpoint refuses new ones, so its process is gone.
    async fn is_gone(&self, endpoint: &Endpoint, fault: Fault) -> bool {
        if matches!(fault, Fault::NotHttp | Fault::Misframed) {
            return false;
        }
        matches!(self.open(endpoint).await, Err(Failure::Unreached(_)))
    }

    /// Connects to an endpoint. If this process has no descriptor left, idle clients give theirs
    /// up and finished requests return theirs. The request waits for one, as it would for a place
    /// in the queue.
    async fn open_in_turn(
        &self,
        endpoint: &Endpoint,
        dispatch: &Dispatch<Box<Reply>>,
    ) -> Result<Box<Connection>, Failure<Box<Reply>>> {
        let patience = self.shard.shared.config.timeouts.queue;
        let until = self.deadline.min(self.shard.write_queue.now() + patience);
        loop {
            let opened = self.open(endpoint).await;
            if !matches!(opened, Err(Failure::Exhausted)) || Instant::now() >= until {
                return opened;
            }
            // Connecting to another endpoint would fail too.
            dispatch.has_connected();
            self.shard.clients.make_room_for_worker(Instant::now());
            tokio::time::sleep(DESCRIPTOR_PAUSE).await;
            if let Some(idle) = self.shard.idle.take(endpoint.id()) {
                return Ok(idle);
            }
            // Idle connections to other endpoints are open files too.
            self.shard.idle.clear();
        }
    }

    /// Connects to an endpoint, within the time that the request has left.
    async fn open(&self, endpoint: &Endpoint) -> Result<Box<Connection>, Failure<Box<Reply>>> {
        let left = self.deadline.saturating_duration_since(self.shard.write_queue.now());
        let limit = self.shard.shared.config.timeouts.connect;
        let opened = Connection::open(endpoint, limit.min(left), Rc::clone(&self.shard.room)).await;
        if opened.is_ok() {
            self.shard.shared.traffic.upstream_connections.fetch_add(1, Relaxed);
        }
        opened.map_err(|fault| {
            if fault == Fault::ConnectTimedOut && left <= limit {
                Failure::Deadline
            } else {
                Failure::unreached(fault)
            }
        })
    }

    /// Sends the request and waits for an answer that can be passed on, or for the deadline.
    fn send(
        &self,
        endpoint: &Endpoint,
        connection: &mut Connection,
        now: Instant,
        head: &mut Option<Head>,
    ) -> impl Future<Output = Result<First, Failure<Box<Reply>>>> {
        let left = self.deadline.saturating_duration_since(now);
        // The time since the client's limit was read should not take a millisecond off it.
        let left = left.as_secs() * 1000 + u64::from(left.subsec_micros().div_ceil(1000));
        let length = self.payload.as_slice().len();
        connection.prepare(self.payload, |out| self.outgoing.write(endpoint, left, length, out));
        let is_head_request = self.outgoing.head.method == Method::HEAD;
        let shard = self.shard;
        let mut wait = shard.waits.until(self.deadline);
        let mut is_begun = false;
        poll_fn(move |context| {
            if !is_begun {
                connection.begin(&shard.write_queue, context.waker());
                is_begun = true;
            }
            let spare = || shard.spare_fields();
            let polled = connection.poll_beginning(context, head, is_head_request, spare);
            if let Poll::Ready(sent) = polled {
                return Poll::Ready(Ok(sent));
            }
            if wait.is_over(context) { Poll::Ready(Err(Failure::Deadline)) } else { Poll::Pending }
        })
    }
}
