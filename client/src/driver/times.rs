//! Times of requests; those of requests that were given up are kept apart from those that ended.
//!
//! For a request that was never answered, or took longer than is counted, only a lower bound is
//! known. A quantile that could be larger for that reason is marked as a lower bound.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One hour in nanoseconds: longer times are only known to be at least this.
pub(super) const MAX_NANOS: u64 = 3_600_000_000_000;

/// A quantile in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The quantile itself, or a lower bound of it.
    pub nanos: u64,
    /// The true value is this or more.
    pub at_least: bool,
}

/// A step of a distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Upper end of the step, in nanoseconds.
    pub nanos: u64,
    /// Share of the requests up to this value.
    pub quantile: f64,
    /// Number of requests up to this value.
    pub count: u64,
}

/// Times of any number of requests, in the space of a few histograms.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Times {
    /// Times of requests that ended, as far as they are known.
    #[serde(with = "super::exact::times")]
    known: Histogram<u64>,
    /// These, together with the lower bounds of all others.
    #[serde(with = "super::exact::times")]
    all: Histogram<u64>,
    /// Number of requests that were not answered.
    unanswered: u64,
}

impl Times {
    /// The times of no request yet.
    pub(crate) fn new() -> Self {
        Self { known: histogram(), all: histogram(), unanswered: 0 }
    }

    /// Counts a request that ended after this time.
    pub(crate) fn record(&mut self, nanos: u64) {
        if nanos < MAX_NANOS {
            self.known.saturating_record(nanos);
        }
        self.all.saturating_record(nanos.min(MAX_NANOS));
    }

    /// Counts a request that was not answered within this time.
    pub(super) fn record_unanswered(&mut self, nanos: u64) {
        self.all.saturating_record(nanos.min(MAX_NANOS));
        self.unanswered += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        const SAME: &str = "all histograms have the same bounds";
        self.known.add(&other.known).expect(SAME);
        self.all.add(&other.all).expect(SAME);
        self.unanswered += other.unanswered;
    }

    /// All times, in nanoseconds.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.all
    }

    /// How many requests were counted.
    pub fn len(&self) -> u64 {
        self.all.len()
    }

    /// Whether no request was counted.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Requests that were not answered.
    pub fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// Whether any of them is only a lower bound: mean and maximum are then lower bounds, too.
    pub fn has_least(&self) -> bool {
        self.known.len() < self.all.len()
    }

    /// Their mean in nanoseconds.
    pub fn mean(&self) -> f64 {
        self.all.mean()
    }

    /// The time that a share `q` of the requests does not exceed; `None` if there are no requests.
    pub fn quantile(&self, q: f64) -> Option<Bound> {
        if self.is_empty() {
            return None;
        }
        let nanos = self.all.value_at_quantile(q);
        // Where the quantile would be if all those with only a lower bound had taken forever.
        let share = q * self.all.len() as f64 / self.known.len() as f64 - 1e-12;
        let at_least = share > 1.0 || self.known.value_at_quantile(share) != nanos;
        Some(Bound { nanos, at_least })
    }

    /// Their standard deviation in nanoseconds.
    pub fn deviation(&self) -> f64 {
        self.all.stdev()
    }

    /// The distribution in steps that get finer towards the longest.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        const STEPS_A_HALVING: u32 = 5;
        let mut count = 0;
        self.all.iter_quantiles(STEPS_A_HALVING).map(move |step| {
            count += step.count_since_last_iteration();
            Step { nanos: step.value_iterated_to(), quantile: step.quantile_iterated_to(), count }
        })
    }

    /// The longest; `None` if there are no requests.
    pub fn max(&self) -> Option<Bound> {
        let at_least = self.has_least();
        (!self.is_empty()).then(|| Bound { nanos: self.all.max(), at_least })
    }
}

/// Whether a time from a histogram without unanswered requests is a lower bound.
pub(crate) fn is_least(nanos: u64) -> bool {
    nanos >= MAX_NANOS
}

pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_NANOS, 3).expect("the bounds are valid")
}

#[cfg(test)]
mod tests {
    use super::{Bound, Times};

    #[test]
    fn a_quantile_beyond_the_unanswered_is_a_least_value() {
        let mut times = Times::new();
        (1..=990).for_each(|_| times.record(4000));
        (1..=10).for_each(|_| times.record_unanswered(2000));
        assert_eq!(times.quantile(0.98), Some(Bound { nanos: 4001, at_least: false }));
        assert!(!times.quantile(0.99).unwrap().at_least);
        assert!(times.quantile(0.991).unwrap().at_least);
        assert_eq!(times.unanswered(), 10);
        assert!(times.max().unwrap().at_least);
    }

    #[test]
    fn of_an_answer_after_more_than_an_hour_only_the_hour_is_told() {
        const MINUTE: u64 = 60_000_000_000;
        let mut times = Times::new();
        (0..99).for_each(|_| times.record(MINUTE));
        assert!(!times.has_least() && !times.max().unwrap().at_least);
        for minutes in [65, 90] {
            let mut times = times.clone();
            times.record(minutes * MINUTE);
            let max = times.max().unwrap();
            assert!(max.at_least && max.nanos.abs_diff(super::MAX_NANOS) < MINUTE / 10, "{max:?}");
            assert!(
                times.quantile(0.995).unwrap().at_least && !times.quantile(0.9).unwrap().at_least
            );
            assert_eq!((times.unanswered(), times.has_least()), (0, true));
        }
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!((Times::new().quantile(0.5), Times::new().max()), (None, None));
        let mut times = Times::new();
        times.record_unanswered(5000);
        assert!(times.quantile(0.5).unwrap().at_least);
    }
}
