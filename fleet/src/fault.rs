//! Faults of a connection to an endpoint, and how logs and answers describe them.

use std::fmt;

/// Why an exchange with an endpoint failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing listens there.
    Refused,
    /// Connecting took longer than allowed.
    ConnectTimedOut,
    /// There is no route to the host.
    Unreachable,
    /// This machine has no descriptor, port or memory for another connection, which says nothing
    /// about the endpoint.
    Exhausted,
    /// Connecting failed for another reason.
    NotConnected,
    /// The endpoint closed the connection before it answered.
    Closed,
    /// The connection was reset before it carried an answer.
    Reset,
    /// The connection ended within the answer.
    Cut,
    /// What the endpoint sent is not HTTP, or it is beyond the limits.
    NotHttp,
    /// The body is not framed as its head announces.
    Misframed,
}

impl Fault {
    /// Its description in logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::ConnectTimedOut => "connecting timed out",
            Self::Unreachable => "host unreachable",
            Self::Exhausted => "the balancer has no descriptor or port left for a connection",
            Self::NotConnected => "connecting failed",
            Self::Closed => "connection closed without an answer",
            Self::Reset => "connection reset without an answer",
            Self::Cut => "connection closed within the answer",
            Self::NotHttp => "malformed answer: it is not HTTP",
            Self::Misframed => "malformed answer: its body is not framed properly",
        }
    }

    /// Whether the endpoint may never have read the request: an idle connection that it closes at
    /// that moment fails in the same way.
    pub fn is_unanswered(self) -> bool {
        matches!(self, Self::Closed | Self::Reset)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Fault {}
