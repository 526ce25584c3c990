//! What controller and agents say to each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::driver::Tally;
use crate::experiment::Trial;
use crate::sample::Sample;
use crate::schedule::Arrivals;
use crate::workload::Packed;

/// Grows whenever one side would not understand the other.
pub(super) const PROTOCOL: u32 = 3;

/// What an agent says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "kebab-case")]
pub(super) enum FromAgent {
    /// The first word: who it is, and what to prove.
    Challenge {
        protocol: u32,
        version: String,
        nonce: String,
        /// It was given a token.
        has_token: bool,
        /// Threads that it would send with.
        threads: usize,
    },
    /// The controller knows the token; so does the agent.
    Welcome { proof: String },
    /// Its clock, in nanoseconds.
    Time { nanos: u64 },
    /// It looks whether it could begin.
    Preparing,
    /// The agent is ready to begin.
    Ready,
    /// It cannot, or must not.
    Refused { reason: String, is_unreachable: bool },
    /// How far it is, and samples that it keeps.
    Progress { succeeded: u64, failed: u64, draining: u64, waiting: u64, samples: Vec<Sample> },
    /// What the agent measured in all, and which of its samples it kept to the end.
    Done { tally: Box<Tally>, kept_below: u64 },
}

/// What a controller says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "kebab-case")]
pub(super) enum FromController {
    /// It knows the token.
    Hello { nonce: String, proof: String },
    /// What time is it?
    Clock,
    /// What is to be sent.
    Prepare(Box<Order>),
    /// The trial begins when the agent's clock says this.
    Start { nanos: u64 },
    /// Requests that are due this long after the start, or later, are not sent.
    Stop { after: Duration },
    /// No answer is waited for any longer.
    Abandon,
    /// The controller is still there; sent so that a silent one is noticed.
    Alive,
}

/// An agent's part of a trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    /// All of it, with the threads of all agents.
    pub(super) trial: Trial,
    /// Instants of recorded arrivals, which a trial does not tell.
    pub(super) instants: Option<Vec<Duration>>,
    /// The requests of the workload, compressed.
    pub(super) requests: Packed,
    /// The URL of the service.
    pub(super) target: String,
    /// Which certificates to trust.
    pub(super) trust: Trusted,
    /// The first thread that is the agent's.
    pub(super) first: usize,
    /// How many threads are the agent's.
    pub(super) threads: usize,
}

/// Which certificates to trust; files are where the controller is.
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
