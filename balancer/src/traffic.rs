//! Outcomes of requests and connections, counted for the whole balancer.
//!
//! The request path only adds to atomics, which need no lookup. Each outcome is recorded in exactly
//! one place, when the last byte of the answer is handed over or the client is gone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// An endpoint answered.
    Answered,
    /// The balancer answered by itself: a page, a health check.
    Local,
    /// The request was rejected as invalid.
    Refused,
    /// There was too much load.
    Shed,
    /// No endpoint could take it.
    Unavailable,
    /// The endpoint failed before it answered.
    UpstreamFailed,
    /// The time limit was exceeded.
    Deadline,
    /// The client went away first.
    Cancelled,
}

impl Flag {
    /// Every outcome, in the order of the counters.
    pub const ALL: [Self; 8] = [
        Self::Answered,
        Self::Local,
        Self::Refused,
        Self::Shed,
        Self::Unavailable,
        Self::UpstreamFailed,
        Self::Deadline,
        Self::Cancelled,
    ];

    /// The name used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Local => "local",
            Self::Refused => "refused",
            Self::Shed => "shed",
            Self::Unavailable => "unavailable",
            Self::UpstreamFailed => "upstream_failed",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Counters of the whole balancer.
#[derive(Debug, Default)]
pub struct Traffic {
    outcomes: [AtomicU64; Flag::ALL.len()],
    /// Client connections that were accepted.
    pub connections: AtomicU64,
    /// Client connections that were turned away.
    pub connections_refused: AtomicU64,
    /// TLS handshakes that failed.
    pub handshakes_failed: AtomicU64,
    /// Connections of proxies that did not begin with a PROXY protocol header.
    pub introductions_failed: AtomicU64,
    /// Idle client connections that were closed to make room for new ones.
    pub connections_evicted: AtomicU64,
    /// Requests that were sent to a second endpoint because the first was slow.
    pub hedges: AtomicU64,
    /// Hedged requests that the second endpoint answered first.
    pub hedges_won: AtomicU64,
    /// Requests that were tried again on another endpoint.
    pub retries: AtomicU64,
    /// Retries that the budget did not allow.
    pub retries_denied: AtomicU64,
    /// Requests that were sent again because an idle connection had died.
    pub reconnects: AtomicU64,
    /// Answers that were given up because their clients did not read them.
    pub answers_given_up: AtomicU64,
    /// Connections opened to endpoints.
    pub upstream_connections: AtomicU64,
    /// Requests that are being answered.
    pub active: AtomicU64,
}

impl Traffic {
    /// Counts a finished request.
    pub fn record(&self, flag: Flag) {
        self.outcomes[flag as usize].fetch_add(1, Relaxed);
    }

    /// Number of requests with this outcome.
    pub fn count(&self, flag: Flag) -> u64 {
        self.outcomes[flag as usize].load(Relaxed)
    }
}
