//! What happened to the endpoints of a pool, for the operators' log.
//!
//! The pool itself logs nothing. Every method that changes it returns the changes worth a log line,
//! in the order in which they happened.

use std::net::SocketAddr;
use std::time::Duration;

/// Changes of a pool; usually empty.
#[must_use = "operators are to be told"]
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes(Vec<Change>);

/// One change of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The name of the endpoint; empty if the change concerns the whole pool.
    pub endpoint: Box<str>,
    /// What the pool or the operator changed about it.
    pub what: What,
}

/// What happened to an endpoint, or to the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It joined the pool.
    Added(SocketAddr),
    /// It left the pool.
    Removed,
    /// It joined again, with the settings that an operator had made.
    Restored {
        /// Whether it is drained.
        is_draining: bool,
        /// The weight that the operator had set.
        weight: u32,
    },
    /// A worker was left out of the pool: which one, and why.
    LeftOut(Box<str>),
    /// Its probes fail, for this reason.
    Down(Box<str>),
    /// Its answers failed.
    Ejected {
        /// What the failed answers had in common, in words for the log.
        reason: Box<str>,
        /// How long it gets no requests.
        time: Duration,
    },
    /// It gets requests again after an ejection.
    Readmitted,
    /// It takes requests.
    Up,
    /// It is neither available nor down, but in this state.
    Other(&'static str),
    /// So few endpoints are available that ejections are ignored.
    PanicMode {
        /// Number of endpoints that are picked from.
        available: usize,
        /// Number of endpoints in the pool.
        all: usize,
    },
}

impl Changes {
    pub(crate) fn push(&mut self, endpoint: &str, what: What) {
        self.0.push(Change { endpoint: endpoint.into(), what });
    }

    pub(crate) fn append(&mut self, mut later: Self) {
        self.0.append(&mut later.0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The changes, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.0.iter()
    }

    /// Discards them, for a caller that logs nothing.
    pub fn ignore(self) {}
}
