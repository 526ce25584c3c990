//! One request and what became of it: the only thing that the driver emits.
//!
//! All times are offsets from the start of the trial. Latency counts from the instant at which the
//! schedule wanted the request, so that a stalled service cannot hide the requests it held up;
//! service time counts from the instant at which the request was really sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One request.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its number in the trial, counted from 0 over all threads.
    pub index: u64,
    /// Which request of the workload.
    pub item: usize,
    /// Too early to count: caches, connections and code were still cold.
    pub warm_up: bool,
    /// When the schedule wanted it sent.
    pub scheduled: Duration,
    /// When the driver got to it; the difference is the driver's own fault.
    pub dispatched: Duration,
    /// When it was handed to a connection; later than `dispatched` when all were busy.
    pub sent: Duration,
    /// When the head of the answer was there.
    pub first_byte: Duration,
    /// When the last byte of the answer was there, or when it failed.
    pub done: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// Length of the answer's body.
    pub bytes: usize,
    /// Who answered, as the balancer names it.
    pub endpoint: Option<Arc<str>>,
    /// Where the worker spent its time, if it said so.
    pub timings: Option<wire::Timings>,
    /// The labels of the answer, best first, if the workload wanted them read.
    pub labels: Vec<String>,
    /// Whether the best label was the expected one; `None` when none was expected or read.
    pub correct: Option<bool>,
}

impl Sample {
    /// From the scheduled instant to the last byte.
    pub fn latency(&self) -> Duration {
        self.done.saturating_sub(self.scheduled)
    }

    /// From handing it to a connection to the last byte.
    pub fn service_time(&self) -> Duration {
        self.done.saturating_sub(self.sent)
    }

    /// How far behind its schedule the driver was.
    pub fn scheduling_error(&self) -> Duration {
        self.dispatched.saturating_sub(self.scheduled)
    }

    /// Counts towards the results.
    pub fn is_measured(&self) -> bool {
        !self.warm_up
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// An answer with this status was read to its end.
    Answered(u16),
    /// No complete answer.
    Failed(Failure),
}

impl Outcome {
    /// A 2xx answer.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Answered(200..=299))
    }
}

/// Why there was no complete answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// No connection.
    Connect,
    /// Not in time.
    Timeout,
    /// The connection ended before the answer did.
    Closed,
    /// The answer is not HTTP, or larger than any answer of the service.
    Malformed,
    /// Never sent: every connection was busy and the queue in front of them full.
    Unsent,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status) => write!(f, "{status}"),
            Self::Failed(Failure::Connect) => f.write_str("connect"),
            Self::Failed(Failure::Timeout) => f.write_str("timeout"),
            Self::Failed(Failure::Closed) => f.write_str("closed"),
            Self::Failed(Failure::Malformed) => f.write_str("malformed"),
            Self::Failed(Failure::Unsent) => f.write_str("unsent"),
        }
    }
}
