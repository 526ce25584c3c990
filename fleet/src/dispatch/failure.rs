//! Why an attempt yielded no usable answer, and what can be done about it.

use http::StatusCode;

use crate::endpoint::Permit;
use crate::fault::Fault;
use crate::verdict::Verdict;
use crate::wanted::Refusal;

/// The answer of an endpoint, as far as decisions depend on it.
pub trait Reply {
    /// The HTTP status of the answer.
    fn status(&self) -> StatusCode;
    /// Whether it has `Retry-After`.
    fn has_retry_after(&self) -> bool;
    /// Whether it has arrived completely, so that it no longer occupies its endpoint.
    fn is_complete(&self) -> bool;
}

/// Why an attempt yielded no usable answer.
#[derive(Debug)]
pub enum Failure<A> {
    /// No connection: nothing was sent.
    Unreached(Fault),
    /// A reused connection broke before any answer: the endpoint may have closed it because it was
    /// idle, or its process is gone. The request may be sent again.
    Stale {
        /// How the connection broke.
        fault: Fault,
        /// The place that the request still holds there, for sending it again.
        place: Option<Permit>,
    },
    /// The connection broke, or carried something that is not an answer.
    Broken {
        /// How the connection broke, or what it carried instead of an answer.
        fault: Fault,
        /// Whether the endpoint also refuses new connections: its process is gone.
        is_gone: bool,
    },
    /// Time ran out.
    Deadline,
    /// This machine cannot open another connection.
    Exhausted,
    /// There is no other endpoint to try.
    NoRoom(Refusal),
    /// A parallel attempt has already used up the sends that are allowed.
    Spent,
    /// There is an answer, but another endpoint may have a better one.
    Status(A),
}

/// Why a request was not answered by any endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// No endpoint took it.
    Refused(Refusal),
    /// Communication with an endpoint failed.
    Upstream(Fault),
    /// This machine cannot open another connection.
    Exhausted,
    /// Time ran out.
    Deadline,
}

impl<A> Failure<A> {
    /// A failure to connect, for this reason.
    pub fn unreached(fault: Fault) -> Self {
        if fault == Fault::Exhausted { Self::Exhausted } else { Self::Unreached(fault) }
    }

    /// Whether no endpoint is working on the request. Trying again then needs no budget, because it
    /// cannot multiply the load: a refused connection brought no work to any endpoint, and a
    /// process that broke its connections and refuses new ones has lost at most what it had in
    /// flight, once for each time that it goes down. The number of sends is bounded in any case.
    pub fn left_no_work(&self) -> bool {
        match self {
            Self::Unreached(_) | Self::Stale { .. } => true,
            Self::Broken { is_gone, .. } => *is_gone,
            Self::Deadline | Self::Exhausted | Self::NoRoom(_) | Self::Spent | Self::Status(_) => {
                false
            }
        }
    }

    /// Whether there was no connection to the endpoint, so that nothing was sent.
    pub fn was_unreached(&self) -> bool {
        matches!(self, Self::Unreached(_))
    }

    /// Whether another endpoint may do better.
    pub fn may_be_tried_again(&self) -> bool {
        match self {
            Self::Unreached(_) | Self::Stale { .. } | Self::Broken { .. } | Self::Status(_) => true,
            Self::Deadline | Self::Exhausted | Self::NoRoom(_) | Self::Spent => false,
        }
    }
}

impl<A: Reply> Failure<A> {
    /// Whether the endpoint answered that it is not ready, if it is one whose 503 means that: it has
    /// begun no work.
    pub(super) fn is_not_ready(&self) -> bool {
        matches!(self, Self::Status(reply) if reply.status() == StatusCode::SERVICE_UNAVAILABLE)
    }

    /// Of two failed attempts, keeps the one that is more useful to the client: an answer beats
    /// none, and one with `Retry-After` beats one without.
    #[must_use]
    pub fn or(self, later: Self) -> Self {
        if self.worth() > later.worth() { self } else { later }
    }

    fn worth(&self) -> u8 {
        match self {
            Self::NoRoom(_) | Self::Spent => 0,
            Self::Exhausted | Self::Unreached(_) => 1,
            Self::Stale { .. } | Self::Broken { .. } | Self::Deadline => 2,
            Self::Status(reply) => match Verdict::of(reply.status()) {
                Verdict::Busy if reply.has_retry_after() => 5,
                Verdict::Busy => 4,
                Verdict::Good | Verdict::Fault => 3,
            },
        }
    }

    /// What is worth keeping during another attempt: everything but an answer that is still
    /// arriving, which would keep occupying its endpoint.
    pub fn kept(self) -> Option<Self> {
        let is_on_its_way = matches!(&self, Self::Status(reply) if !reply.is_complete());
        (!is_on_its_way).then(|| self.without_place())
    }

    /// The same without the place that the request still holds.
    pub(super) fn without_place(mut self) -> Self {
        if let Self::Stale { place, .. } = &mut self {
            drop(place.take());
        }
        self
    }

    /// What the client gets in the end.
    pub fn give_up(self) -> Result<A, Lost> {
        Err(match self {
            Self::Status(reply) => return Ok(reply),
            Self::Unreached(fault) | Self::Stale { fault, .. } | Self::Broken { fault, .. } => {
                Lost::Upstream(fault)
            }
            Self::Exhausted => Lost::Exhausted,
            Self::NoRoom(refusal) => Lost::Refused(refusal),
            Self::Spent => Lost::Upstream(Fault::Closed),
            Self::Deadline => Lost::Deadline,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Any = Failure<()>;

    #[test]
    fn only_what_left_no_work_behind_is_tried_again_without_a_budget() {
        let broken = |is_gone| Any::Broken { fault: Fault::Reset, is_gone };
        assert!(Any::Unreached(Fault::Refused).left_no_work());
        assert!(broken(true).left_no_work());
        assert!(!broken(false).left_no_work(), "it may be at work on it");
        assert!(!Any::Deadline.left_no_work());
        assert!(!Any::Exhausted.may_be_tried_again(), "another endpoint needs one too");
    }

    #[test]
    fn what_this_machine_lacks_is_no_endpoints_failure() {
        assert!(matches!(Any::unreached(Fault::Exhausted), Failure::Exhausted));
        assert!(matches!(Any::unreached(Fault::Refused), Failure::Unreached(_)));
    }
}
