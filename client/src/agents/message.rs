//! Messages between the controller and its agents.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::driver::Tally;
use crate::experiment::Trial;
use crate::sample::Sample;
use crate::schedule::Arrivals;
use crate::workload::Packed;

/// Protocol version, incremented on every incompatible change.
pub(super) const PROTOCOL: u32 = 3;

/// A message from an agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "kebab-case")]
pub(super) enum FromAgent {
    /// The first message: the agent's version and a challenge.
    Challenge {
        protocol: u32,
        version: String,
        nonce: String,
        /// The agent was started with a token.
        has_token: bool,
        /// Threads that the agent offers to send with.
        threads: usize,
    },
    /// The controller's proof was correct; this is the agent's.
    Welcome { proof: String },
    /// The agent's clock, in nanoseconds.
    Time { nanos: u64 },
    /// The agent is still checking whether it could begin.
    Preparing,
    /// The agent is ready to begin.
    Ready,
    /// The agent cannot run the order, or must not.
    Refused { reason: String, is_unreachable: bool },
    /// Counts so far, and new samples that the agent keeps.
    Progress { succeeded: u64, failed: u64, draining: u64, waiting: u64, samples: Vec<Sample> },
    /// The agent's final measurements, and which of its samples it kept to the end.
    Done { tally: Box<Tally>, kept_below: u64 },
}

/// A message from a controller.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "kebab-case")]
pub(super) enum FromController {
    /// Proves that the controller knows the token.
    Hello { nonce: String, proof: String },
    /// Requests the agent's clock.
    Clock,
    /// The agent's part of the trial.
    Prepare(Box<Order>),
    /// The trial begins when the agent's clock reads this.
    Start { nanos: u64 },
    /// Requests due this long after the start, or later, are not to be sent.
    Stop { after: Duration },
    /// The agent must stop waiting for answers.
    Abandon,
    /// A heartbeat, so that a lost controller is noticed.
    Alive,
}

/// An agent's part of a trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    /// The whole trial, with the threads of all agents.
    pub(super) trial: Trial,
    /// Instants of recorded arrivals, which are not serialised with the trial.
    pub(super) instants: Option<Vec<Duration>>,
    /// The requests of the workload, compressed.
    pub(super) requests: Packed,
    /// The URL of the service.
    pub(super) target: String,
    /// Which certificates to trust.
    pub(super) trust: Trusted,
    /// Index of the agent's first thread.
    pub(super) first: usize,
    /// Number of the agent's threads.
    pub(super) threads: usize,
}

/// Which certificates to trust; a file's content is sent, since the file is on the controller.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Trusted {
    Public,
    Any,
    Text(String),
}

impl Order {
    /// The trial, with the instants of its arrivals.
    pub(super) fn trial(&self) -> Trial {
        let mut trial = self.trial.clone();
        if let (Arrivals::Recorded { instants }, Some(told)) = (&mut trial.arrivals, &self.instants)
        {
            *instants = told.clone().into();
        }
        trial
    }
}
