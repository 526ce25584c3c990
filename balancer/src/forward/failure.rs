//! Why an attempt brought no usable answer, what may be done about it, and what the client is told.

use http::StatusCode;
use http::header::RETRY_AFTER;

use super::attempt::Reply;
use crate::error::ProxyError;
use crate::upstream::Fault;

/// Why an attempt brought no usable answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection: the request has not left.
    Unreached(Fault),
    /// A connection that had been kept from an earlier request broke before any answer: the endpoint
    /// may have closed it because it was idle, or its process is gone. The request may be sent again.
    Stale(Fault),
    /// The connection broke, or carried something that is no answer.
    Broken {
        /// How.
        fault: Fault,
        /// Whether the endpoint has stopped to take connections, too: its process is gone.
        is_gone: bool,
    },
    /// Time ran out.
    Deadline,
    /// This machine cannot open one more connection.
    Exhausted,
    /// There is no endpoint to try it on.
    NoRoom(ProxyError),
    /// The request has been sent as often as it may be, by an attempt beside this one.
    Spent,
    /// There is an answer, but another endpoint may have a better one.
    Status(Box<Reply>),
}

impl Failure {
    /// Nobody could be connected to.
    pub(super) fn unreached(fault: Fault) -> Self {
        if fault == Fault::Exhausted { Self::Exhausted } else { Self::Unreached(fault) }
    }

    /// Whether nobody is at work on the request any more, or ever was. Trying again then needs no
    /// budget, because it cannot multiply the load: a refused connection brought no work to
    /// anybody, and a process that broke its connections and takes no new ones has lost at most
    /// what it had in flight, once for each time that it goes down. Whatever happens, a request is
    /// sent twice at most.
    pub(super) fn left_no_work(&self) -> bool {
        match self {
            Self::Unreached(_) | Self::Stale(_) => true,
            Self::Broken { is_gone, .. } => *is_gone,
            Self::Deadline | Self::Exhausted | Self::NoRoom(_) | Self::Spent | Self::Status(_) => {
                false
            }
        }
    }

    /// Whether the endpoint refused the connection, which took no time.
    pub(super) fn was_refused(&self) -> bool {
        matches!(self, Self::Unreached(Fault::Refused))
    }

    /// Whether another endpoint may do better.
    pub(super) fn may_be_tried_again(&self) -> bool {
        match self {
            Self::Unreached(_) | Self::Stale(_) | Self::Broken { .. } | Self::Status(_) => true,
            Self::Deadline | Self::Exhausted | Self::NoRoom(_) | Self::Spent => false,
        }
    }

    /// Of two attempts at one request, what tells the client more: an answer is more than none, and
    /// one that says when to come back is more than one that only says no.
    pub(super) fn or(self, later: Self) -> Self {
        if self.worth() > later.worth() { self } else { later }
    }

    fn worth(&self) -> u8 {
        match self {
            Self::NoRoom(_) | Self::Spent => 0,
            Self::Exhausted | Self::Unreached(_) => 1,
            Self::Stale(_) | Self::Broken { .. } | Self::Deadline => 2,
            Self::Status(reply) => match Verdict::of(reply.head.status) {
                Verdict::Busy if reply.head.headers.contains_key(RETRY_AFTER) => 5,
                Verdict::Busy => 4,
                Verdict::Good | Verdict::Fault => 3,
            },
        }
    }

    /// What is worth keeping while another attempt is made: all but an answer that is still on its
    /// way, because that would go on to take up room on its endpoint.
    pub(super) fn kept(self) -> Option<Self> {
        let is_on_its_way = matches!(&self, Self::Status(reply) if !reply.stream.is_complete());
        (!is_on_its_way).then_some(self)
    }

    /// What the client gets in the end.
    pub(super) fn give_up(self) -> Result<Box<Reply>, ProxyError> {
        match self {
            Self::Status(reply) => Ok(reply),
            Self::Unreached(fault) | Self::Stale(fault) | Self::Broken { fault, .. } => {
                Err(ProxyError::Upstream(fault.as_str()))
            }
            Self::Exhausted => Err(ProxyError::Unavailable(Fault::Exhausted.as_str())),
            Self::NoRoom(error) => Err(error),
            Self::Spent => Err(ProxyError::Upstream(Fault::Closed.as_str())),
            Self::Deadline => Err(ProxyError::Deadline),
        }
    }
}

/// What a status says about the endpoint that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An answer for the client.
    Good,
    /// Not broken, but another endpoint may have time.
    Busy,
    /// The endpoint is at fault.
    Fault,
}

impl Verdict {
    pub(super) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            429 | 503 => Self::Busy,
            // What the endpoint does not implement is not its fault, being late not its alone, and a
            // request that goes in circles is nobody's answer to give.
            501 | 504 | 505 | 508 => Self::Good,
            500.. => Self::Fault,
            _ => Self::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (508, Verdict::Good),
        ] {
            assert_eq!(verdict(code), expected, "{code}");
        }
    }

    #[test]
    fn only_what_left_no_work_behind_is_tried_again_without_a_budget() {
        let broken = |is_gone| Failure::Broken { fault: Fault::Reset, is_gone };
        assert!(Failure::Unreached(Fault::Refused).left_no_work());
        assert!(broken(true).left_no_work());
        assert!(!broken(false).left_no_work(), "it may be at work on it");
        assert!(!Failure::Deadline.left_no_work());
        assert!(!Failure::Exhausted.may_be_tried_again(), "another endpoint needs one too");
    }

    #[test]
    fn what_this_machine_lacks_is_no_endpoints_failure() {
        assert!(matches!(Failure::unreached(Fault::Exhausted), Failure::Exhausted));
        let answer = Failure::Exhausted.give_up().expect_err("no answer");
        assert_eq!((answer.status().as_u16(), answer.retry_after()), (503, Some(1)));
    }
}
