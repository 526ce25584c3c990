//! A balancer that starts and stops its own workers: the rule of [`fleet::elastic`] in virtual time.
//!
//! All decisions are made there, none in this module.

use fleet::elastic::{Decision, Meter, Observation, Rules, Scaler};
use serde::Serialize;
use tokio::time::Instant;

use super::clock::{Nanos, nanos_of};
use super::fleet::Fleet;
use super::scaler::Change;
use super::scenario::Elastic;

/// A change in the number of workers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resize {
    /// When, in seconds since the start.
    pub at: f64,
    /// How many there were.
    pub from: usize,
    /// How many there will be.
    pub to: usize,
    /// The reason for it.
    pub reason: String,
}

/// What the balancer knows about its workers.
#[derive(Debug)]
pub(crate) struct Elasticity {
    elastic: Elastic,
    rules: Rules,
    meter: Meter,
    scaler: Scaler,
    starting: usize,
    changes: Vec<Resize>,
}

impl Elasticity {
    pub(crate) fn new(elastic: Elastic, threads: usize) -> Self {
        let Elastic { range, shrink_after, latency, .. } = elastic;
        Self {
            rules: Rules { range, threads, shrink_after, latency },
            meter: Meter::new(threads, latency.is_some()),
            scaler: Scaler::default(),
            starting: 0,
            changes: Vec::new(),
            elastic,
        }
    }

    /// How long a worker takes to start.
    pub(crate) fn start_up(&self) -> Nanos {
        nanos_of(self.elastic.start_up)
    }

    /// Records that a worker has started and takes requests.
    pub(crate) fn joined(&mut self) {
        self.starting -= 1;
    }

    /// Samples the fleet, and returns the change to make if a decision is due.
    pub(crate) fn sample(&mut self, fleet: &Fleet, nanos: Nanos, now: Instant) -> Change {
        let (size, available) = fleet.census();
        let none = Change { start: 0, stop: 0 };
        if !self.meter.sample(&available, fleet.pool().queue().waiting()) {
            return none;
        }
        let size = Observation { starting: self.starting, ..size };
        let seen = self.meter.read(&available, size);
        let (scaler, decision) = self.scaler.next(&seen, &self.rules, now);
        self.scaler = scaler;
        let change = match decision {
            Decision::Keep(_) => return none,
            Decision::Grow(start, _) => Change { start, stop: 0 },
            Decision::Shrink(_) => Change { start: 0, stop: 1 },
        };
        self.starting += change.start;
        self.changes.push(Resize {
            at: nanos as f64 / 1e9,
            from: seen.size(),
            to: seen.size() + change.start - change.stop,
            reason: decision.reason().to_string(),
        });
        change
    }

    /// The changes made to the fleet.
    pub(crate) fn into_changes(self) -> Vec<Resize> {
        self.changes
    }
}
