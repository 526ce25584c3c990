//! One request and its outcome: the only thing that the driver emits.
//!
//! All times are offsets from the start of the trial. Latency counts from the instant at which the
//! schedule wanted the request, so that a stalled service cannot hide the requests it held up;
//! service time counts from the instant at which the request was really sent.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What became of one request.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// When there was a connection for it, or the right to open one: later than `dispatched` when all
    /// were busy; nothing if there never was.
    pub ready: Option<Duration>,
    /// When it was handed to a connection; nothing if it never was.
    pub sent: Option<Duration>,
    /// When the head of the answer was there.
    pub first_byte: Duration,
    /// When the last byte of the answer was there, when it failed, or when waiting for it ended.
    pub done: Duration,
    /// How the request ended.
    pub outcome: Outcome,
    /// Length of the answer's body.
    pub bytes: usize,
    /// Who answered, as the balancer names it.
    #[serde(with = "crate::driver::names")]
    pub endpoint: Option<Arc<str>>,
    /// Where the worker spent its time, if it reported that.
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

    /// From handing it to a connection to the last byte; nothing if it was never sent.
    pub fn service_time(&self) -> Option<Duration> {
        Some(self.done.saturating_sub(self.sent?))
    }

    /// How far behind its schedule the driver was.
    pub fn scheduling_error(&self) -> Duration {
        self.dispatched.saturating_sub(self.scheduled)
    }

    /// How long it waited for one of the connections that this program may have. Opening one takes
    /// time as well, but that is the service's.
    pub fn connection_wait(&self) -> Duration {
        self.ready.unwrap_or(self.done).saturating_sub(self.dispatched)
    }

    /// Counts towards the results.
    pub fn is_measured(&self) -> bool {
        !self.warm_up
    }
}

#[cfg(test)]
impl Sample {
    /// A request that was sent as scheduled and answered with 200 after `latency`, all at once.
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
    /// An answer with this status was read to its end.
    Answered(u16),
    /// The same, of a status that is no 2xx and was expected.
    Expected(u16),
    /// The same, of a 2xx that was not expected.
    Unexpected(u16),
    /// There was no complete answer.
    Failed(Failure),
}

impl Outcome {
    /// An answer as it is expected: 2xx, unless the user said otherwise.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Answered(200..=299) | Self::Expected(_))
    }

    /// Its duration is unknown: waiting ended before the request did.
    pub fn is_unanswered(self) -> bool {
        matches!(self, Self::Failed(Failure::Timeout | Failure::Unsent | Failure::Unfinished))
    }

    /// A failure of this program or of its machine, not of the service.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Failed(Failure::Unsent | Failure::NoDescriptor | Failure::NoPort))
    }
}

/// Why there was no complete answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// The service takes no connection.
    Connect,
    /// No encrypted connection: the other side does not speak TLS, or is not who it should be.
    Tls,
    /// No complete answer came within the time limit.
    Timeout,
    /// The connection ended before the answer did.
    Closed,
    /// The answer is not HTTP.
    Malformed,
    /// A 2xx answer without the label that was asked for.
    NoLabel,
    /// Never sent: every connection was busy until its time was over, or too many waited for one.
    Unsent,
    /// This machine allows this program no further open file.
    NoDescriptor,
    /// This machine has no free port towards the service.
    NoPort,
    /// Still unanswered when the run was ended.
    Unfinished,
}

impl Failure {
    /// Each of them once.
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

    /// As it stands in tables and files.
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
