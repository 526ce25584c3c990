//! A fleet that follows its load, with the delay that real machines have.
//!
//! The rule of Kubernetes' horizontal autoscaler: the fleet is multiplied by measured over target
//! utilisation, rounded up; booting workers count as present; and it shrinks to the largest size
//! that was wanted in the last few measurements, so that a short lull costs nothing.

use super::clock::{Nanos, nanos_of};
use super::scenario::Scaling;

/// Number of measurements for which a smaller fleet must be wanted.
const PATIENCE: usize = 4;
/// Within this relative distance from the target, nothing changes.
const TOLERANCE: f64 = 0.1;

/// How many workers to start and to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) start: usize,
    pub(crate) stop: usize,
}

/// The state of the scaler.
#[derive(Debug)]
pub(crate) struct Scaler {
    ready: usize,
    booting: usize,
    busy_before: Nanos,
    wanted: [usize; PATIENCE],
    measured: usize,
}

impl Scaler {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            ready: workers,
            booting: 0,
            busy_before: 0,
            wanted: [workers; PATIENCE],
            measured: 0,
        }
    }

    /// Records that a booting worker is ready.
    pub(crate) fn joined(&mut self) {
        self.booting -= 1;
        self.ready += 1;
    }

    /// Decides after one interval; `busy` is the work of the whole fleet since the start.
    pub(crate) fn decide(&mut self, scaling: &Scaling, busy: Nanos, threads: usize) -> Change {
        let capacity = nanos_of(scaling.every) as f64 * (self.ready * threads) as f64;
        let utilisation = busy.saturating_sub(self.busy_before) as f64 / capacity;
        self.busy_before = busy;
        let fleet = self.ready + self.booting;
        let ratio = utilisation / scaling.target;
        let wanted = if (ratio - 1.0).abs() <= TOLERANCE {
            fleet
        } else {
            ceiling(self.ready as f64 * ratio).clamp(scaling.min, scaling.max)
        };
        self.wanted[self.measured % PATIENCE] = wanted;
        self.measured += 1;
        let calm = self.wanted.iter().copied().max().unwrap_or(wanted);
        let start = wanted.saturating_sub(fleet);
        let stop = if start == 0 { fleet.saturating_sub(calm).min(self.ready - 1) } else { 0 };
        self.booting += start;
        self.ready -= stop;
        Change { start, stop }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of at most MAX_WORKERS"
)]
fn ceiling(value: f64) -> usize {
    // A hair above a whole number is a rounding error, not need.
    (value - 1e-9).ceil().max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn scaling() -> Scaling {
        let (every, boot) = (Duration::from_secs(1), Duration::from_secs(5));
        Scaling { min: 2, max: 10, target: 0.5, every, boot }
    }

    #[test]
    fn it_grows_at_once_and_counts_what_is_booting() {
        let mut scaler = Scaler::new(4);
        assert_eq!(scaler.decide(&scaling(), 4 * SECOND, 1), Change { start: 4, stop: 0 });
        assert_eq!(scaler.decide(&scaling(), 8 * SECOND, 1), Change { start: 0, stop: 0 });
    }

    #[test]
    fn it_shrinks_only_after_a_calm_while_and_keeps_the_minimum() {
        let mut scaler = Scaler::new(6);
        let changes: Vec<usize> = (0..5).map(|_| scaler.decide(&scaling(), 0, 1).stop).collect();
        assert_eq!(changes, [0, 0, 0, 4, 0]);
    }

    #[test]
    fn near_the_aim_nothing_changes() {
        let mut scaler = Scaler::new(4);
        assert_eq!(scaler.decide(&scaling(), 21 * SECOND / 10, 1), Change { start: 0, stop: 0 });
    }
}
