//! Why an attempt brought no usable answer, and what may be done about it.

use http::StatusCode;

use crate::admission::Refusal;
use crate::endpoint::Permit;
use crate::fault::Fault;
use crate::verdict::Verdict;

/// The answer of an endpoint, as far as decisions depend on it.
pub trait Reply {
    /// The HTTP status that the endpoint answered with.
    fn status(&self) -> StatusCode;
    /// Whether it says when to come back.
    fn has_retry_after(&self) -> bool;
    /// Whether all of it is here, so that it takes up no room on its endpoint any more.
    fn is_complete(&self) -> bool;
}

/// Why an attempt brought no usable answer.
#[derive(Debug)]
pub enum Failure<A> {
    /// No connection: the request has not left.
    Unreached(Fault),
    /// A connection that had been kept from an earlier request broke before any answer: the endpoint
    /// may have closed it because it was idle, or its process is gone. The request may be sent again.
    Stale {
        /// How the connection broke.
        fault: Fault,
        /// The place that the request has there, which it may go back to.
        place: Option<Permit>,
    },
    /// The connection broke, or carried something that is no answer.
    Broken {
        /// How the connection broke, or what it carried instead of an answer.
        fault: Fault,
        /// Whether the endpoint has stopped to take connections, too: its process is gone.
        is_gone: bool,
    },
    /// Time ran out.
    Deadline,
    /// This machine cannot open one more connection.
    Exhausted,
    /// There is no endpoint to try it on.
    NoRoom(Refusal),
    /// The request has been sent as often as it may be, by an attempt beside this one.
    Spent,
    /// There is an answer, but another endpoint may have a better one.
    Status(A),
}

/// Why a request was not answered by any endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// No endpoint took it.
    Refused(Refusal),
    /// An endpoint could not be talked to.
    Upstream(Fault),
    /// This machine cannot open one more connection.
    Exhausted,
    /// Time ran out.
    Deadline,
}

impl<A> Failure<A> {
    /// There was no connection, for this reason.
    pub fn unreached(fault: Fault) -> Self {
        if fault == Fault::Exhausted { Self::Exhausted } else { Self::Unreached(fault) }
    }

    /// Whether no endpoint is at work on the request any more, or ever was. Trying again then needs
    /// no budget, because it cannot multiply the load: a refused connection brought no work to any
    /// endpoint, and a process that broke its connections and takes no new ones has lost at most
    /// what it had in flight, once for each time that it goes down. Whatever happens, the times that a
    /// request is sent are bounded.
    pub fn left_no_work(&self) -> bool {
        match self {
            Self::Unreached(_) | Self::Stale { .. } => true,
            Self::Broken { is_gone, .. } => *is_gone,
            Self::Deadline | Self::Exhausted | Self::NoRoom(_) | Self::Spent | Self::Status(_) => {
                false
            }
        }
    }

    /// Whether there was no connection to the endpoint: nothing of the request has left.
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
    /// Of two attempts at one request, what tells the client more: an answer is more than none, and
    /// one that says when to come back is more than one that only says no.
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

    /// What is worth keeping while another attempt is made: all but an answer that is still on its
    /// way, because that would go on to take up room on its endpoint.
    pub fn kept(self) -> Option<Self> {
        let is_on_its_way = matches!(&self, Self::Status(reply) if !reply.is_complete());
        (!is_on_its_way).then(|| self.without_place())
    }

    /// The same, without taking up a place to be sent again in.
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
