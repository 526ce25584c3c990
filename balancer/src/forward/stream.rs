//! The response of an endpoint while it arrives.
//!
//! It holds the connection and the endpoint's place, and releases both with the last byte: what the
//! client does with the answer does not concern the endpoint.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use fleet::{Attempt, Failure, Fault};
use tokio::time::Instant;

use crate::log::changes::tell;
use crate::shard::Shard;
use crate::shared::Shared;
use crate::upstream::Connection;
use crate::write_queue::RoundClock;

/// A part of an endpoint's response body, or why there is no more.
pub(super) type Piece = Result<Bytes, BrokenOff>;

/// An answer could not be handed over completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenOff {
    /// The endpoint broke the connection, or its framing.
    #[error("{0}")]
    Upstream(Fault),
    /// The time limit passed before the answer was complete.
    #[error("the answer was not complete within the time limit")]
    Overdue,
}

/// The connection that a response comes from, and the attempt that it completes.
type Source = (Box<Connection>, Attempt<RoundClock>);

/// The response of an endpoint, while it arrives.
#[derive(Debug)]
pub(super) struct Stream {
    /// `None` once the body is complete and the connection has gone back to the idle ones.
    source: Option<Source>,
    /// A piece that was read ahead.
    ahead: Bytes,
    shard: Rc<Shard>,
    deadline: Instant,
    watch: Option<Pin<Box<tokio::time::Sleep>>>,
    /// The part of the request that is still being sent.
    _unsent: Option<Unsent>,
}

impl Stream {
    /// The response after its head; `first` is the first part of its body.
    pub(super) fn new(
        shard: &Rc<Shard>,
        connection: Box<Connection>,
        attempt: Attempt<RoundClock>,
        first: Bytes,
        deadline: Instant,
    ) -> Self {
        let unsent = Unsent::of(shard, &connection);
        let mut stream = Self {
            source: Some((connection, attempt)),
            ahead: first,
            shard: Rc::clone(shard),
            deadline,
            watch: None,
            _unsent: unsent,
        };
        stream.finish_at_end();
        stream
    }

    /// Whether all of it has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.source.is_none()
    }

    /// The whole body, if it has arrived in one piece.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        self.is_complete().then(|| std::mem::take(&mut self.ahead))
    }

    /// Number of bytes still to come, including a piece that was read ahead, if known.
    pub(super) fn remaining(&self) -> Option<u64> {
        let rest = self.source.as_ref().map_or(Some(0), |(connection, _)| connection.remaining());
        rest.map(|rest| rest + self.ahead.len() as u64)
    }

    /// The next piece; `None` after the last.
    pub(super) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.ahead))));
        }
        let Some((connection, _)) = &mut self.source else { return Poll::Ready(None) };
        let Poll::Ready(piece) = connection.poll_data(context) else {
            std::task::ready!(self.poll_deadline(context));
            self.fail(&Failure::Deadline);
            return Poll::Ready(Some(Err(BrokenOff::Overdue)));
        };
        match piece {
            Some(Err(fault)) => {
                self.fail(&Failure::Broken { fault, is_gone: false });
                Poll::Ready(Some(Err(BrokenOff::Upstream(fault))))
            }
            Some(Ok(data)) => {
                self.finish_at_end();
                Poll::Ready(Some(Ok(data)))
            }
            None => {
                self.finish_at_end();
                Poll::Ready(None)
            }
        }
    }

    /// Whether the time limit is over; if not, the task will be woken when it is.
    pub(super) fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let watch = self.watch.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        watch.as_mut().poll(context)
    }

    /// Releases the endpoint although it has more to send, which is not its fault.
    pub(super) fn spare_endpoint(&mut self) {
        if let Some((_, mut attempt)) = self.source.take() {
            self.completed(&mut attempt);
        }
    }

    fn fail(&mut self, failure: &Failure<()>) {
        if let Some((_, mut attempt)) = self.source.take() {
            self.shard.note_failed(&mut attempt, failure, self.shard.write_queue.now());
        }
    }

    fn finish_at_end(&mut self) {
        let is_at_end = self.source.as_ref().is_some_and(|(connection, _)| connection.is_at_end());
        // The client may take its time with the answer; the endpoint is free now.
        if is_at_end && let Some((connection, mut attempt)) = self.source.take() {
            self.completed(&mut attempt);
            self.shard.idle.put(attempt.endpoint().id(), connection, self.shard.waits.now());
        }
    }

    #[inline]
    fn completed(&self, attempt: &mut Attempt<RoundClock>) {
        tell(&attempt.completed(&self.shard.shared.fleet.pool, self.shard.write_queue.now()));
    }
}

/// The part of a request's body that is still to be sent although its answer has begun. Meanwhile
/// it counts towards the budget of all bodies.
#[derive(Debug)]
struct Unsent {
    shared: Arc<Shared>,
    taken: usize,
}

impl Unsent {
    fn of(shard: &Shard, connection: &Connection) -> Option<Self> {
        let taken = connection.unsent_body();
        (taken > 0).then(|| {
            // The request, which ends now, still holds this much and gives it back.
            shard.shared.bodies.take_over(taken);
            Self { shared: Arc::clone(&shard.shared), taken }
        })
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.shared.bodies.give_back(self.taken);
    }
}
