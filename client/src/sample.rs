//! One request and its outcome: the only thing that the driver emits.
//!
//! All instants are offsets from the start of the trial. Latency counts from the instant at which
//! the request was scheduled, so that a stalled service cannot hide the requests that it held up;
//! service time counts from the instant at which the request was actually sent.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The result of one request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// Its number in the trial, counting from 0 over all threads.
    pub index: u64,
    /// Index of the request in the workload.
    pub item: usize,
    /// Whether it was too early to count: caches, connections and code were still cold.
    pub warm_up: bool,
    /// When it was scheduled to be sent.
    pub scheduled: Duration,
    /// When the driver picked it up; any difference from `scheduled` is the driver's fault.
    pub dispatched: Duration,
    /// When it got a connection, or permission to open one: later than `dispatched` if all
    /// connections were busy; `None` if it never did.
    pub ready: Option<Duration>,
    /// When it was handed to a connection; `None` if it never was.
    pub sent: Option<Duration>,
    /// When the head of the answer had arrived.
    pub first_byte: Duration,
    /// When the last byte of the answer arrived, the request failed, or waiting for it ended.
    pub done: Duration,
    /// How the request ended.
    pub outcome: Outcome,
    /// Length of the answer's body.
    pub bytes: usize,
    /// The endpoint that answered, as named by the balancer.
    #[serde(with = "crate::driver::names")]
    pub endpoint: Option<Arc<str>>,
    /// How the worker spent its time, if reported.
    pub timings: Option<wire::Timings>,
    /// The labels of the answer, best first, if the workload reads them.
    pub labels: Vec<String>,
    /// Whether the best label was as expected; `None` if none was expected or read.
    pub correct: Option<bool>,
}

impl Sample {
    /// From the scheduled instant to the last byte.
    pub fn latency(&self) -> Duration {
        self.done.saturating_sub(self.scheduled)
    }

    /// From being handed to a connection to the last byte; `None` if it was never sent.
    pub fn service_time(&self) -> Option<Duration> {
        Some(self.done.saturating_sub(self.sent?))
    }

    /// How far behind its schedule the driver was.
    pub fn scheduling_error(&self) -> Duration {
        self.dispatched.saturating_sub(self.scheduled)
    }

    /// How long it waited for one of the connections that this program may have. The time to open a
    /// connection is not included, since that is up to the service.
    pub fn connection_wait(&self) -> Duration {
        self.ready.unwrap_or(self.done).saturating_sub(self.dispatched)
    }

    /// Whether it counts towards the results.
    pub fn is_measured(&self) -> bool {
        !self.warm_up
    }
}

#[cfg(test)]
impl Sample {
    /// A request that was sent as scheduled and answered with 200 after `latency`, in one piece.
    pub(crate) fn answered(index: u64, scheduled: Duration, latency: Duration) -> Self {
        let done = scheduled + latency;
        Self {
            index,
            item: 0,
            warm_up: false,
            scheduled,
            dispatched: scheduled,
            ready: Some(scheduled),
            sent: Some(scheduled),
            first_byte: done,
            done,
            outcome: Outcome::Answered(200),
            bytes: 0,
            endpoint: None,
            timings: None,
            labels: Vec::new(),
            correct: None,
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// An answer with this status was read completely.
    Answered(u16),
    /// The same, with a status other than 2xx that was expected.
    Expected(u16),
    /// The same, with a 2xx status that was not expected.
    Unexpected(u16),
    /// There was no complete answer.
    Failed(Failure),
}

impl Outcome {
    /// Whether the answer was as expected: 2xx, unless the user specified otherwise.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Answered(200..=299) | Self::Expected(_))
    }

    /// Whether its duration is unknown, because waiting ended before the request did.
    pub fn is_unanswered(self) -> bool {
        matches!(self, Self::Failed(Failure::Timeout | Failure::Unsent | Failure::Unfinished))
    }

    /// Whether this program or its machine failed, not the service.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Failed(Failure::Unsent | Failure::NoDescriptor | Failure::NoPort))
    }
}

/// Why there was no complete answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// The service does not accept connections.
    Connect,
    /// No encrypted connection: the server does not speak TLS, or its certificate is not accepted.
    Tls,
    /// No complete answer came within the time limit.
    Timeout,
    /// The connection ended before the answer did.
    Closed,
    /// The answer is not HTTP.
    Malformed,
    /// A 2xx answer without the requested label.
    NoLabel,
    /// Never sent: every connection was busy until its timeout, or too many requests
    /// waited for one.
    Unsent,
    /// This machine allows this program no more open files.
    NoDescriptor,
    /// This machine has no free port for a connection to the service.
    NoPort,
    /// Still unanswered when the run ended.
    Unfinished,
}

impl Failure {
    /// All failures.
    pub const ALL: [Self; 10] = [
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Closed,
        Self::Malformed,
        Self::NoLabel,
        Self::Unsent,
        Self::NoDescriptor,
        Self::NoPort,
        Self::Unfinished,
    ];

    /// Its name in tables and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
            Self::NoLabel => "no label",
            Self::Unsent => "unsent",
            Self::NoDescriptor => "no descriptor",
            Self::NoPort => "no port",
            Self::Unfinished => "unfinished",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status) => write!(f, "{status}"),
            Self::Expected(status) => write!(f, "{status} expected"),
            Self::Unexpected(status) => write!(f, "{status} unexpected"),
            Self::Failed(failure) => f.write_str(failure.as_str()),
        }
    }
}

impl FromStr for Outcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, remark) = text.split_once(' ').unwrap_or((text, ""));
        if let Ok(status) = number.parse() {
            match remark {
                "" => return Ok(Self::Answered(status)),
                "expected" => return Ok(Self::Expected(status)),
                "unexpected" => return Ok(Self::Unexpected(status)),
                _ => {}
            }
        }
        let failure = Failure::ALL.into_iter().find(|failure| failure.as_str() == text);
        failure.map(Self::Failed).ok_or_else(|| format!("no outcome is called {text:?}"))
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, Outcome};

    #[test]
    fn outcomes_are_read_as_they_are_written() {
        let failures = Failure::ALL.map(Outcome::Failed);
        let answers = [Outcome::Answered(503), Outcome::Expected(404), Outcome::Unexpected(200)];
        for outcome in failures.into_iter().chain(answers) {
            assert_eq!(outcome.to_string().parse(), Ok(outcome));
        }
        for text in ["lost", "200 perhaps", ""] {
            assert!(text.parse::<Outcome>().is_err(), "{text}");
        }
    }
}
