//! Times of requests: those that ended, and apart from them those that were given up.
//!
//! Of a request that was never answered only a least time is known. A quantile that could be larger
//! if such requests had gone on is a least value as well, and says so.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One hour in nanoseconds: longer times count as this long.
pub(super) const MAX_NANOS: u64 = 3_600_000_000_000;

/// A quantile in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The quantile itself, or the least that it can be.
    pub nanos: u64,
    /// The true value is this or more.
    pub at_least: bool,
}

/// A step of a distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Up to this value in nanoseconds ...
    pub nanos: u64,
    /// ... there is this share of the requests ...
    pub quantile: f64,
    /// ... which are so many.
    pub count: u64,
}

/// Times of any number of requests, in the space of a few histograms.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Times {
    /// Of requests that ended.
    #[serde(with = "super::exact::times")]
    ended: Histogram<u64>,
    /// What the others had, both together.
    #[serde(with = "super::exact::times")]
    all: Histogram<u64>,
}

impl Times {
    /// Of no request yet.
    pub(crate) fn new() -> Self {
        Self { ended: histogram(), all: histogram() }
    }

    /// Counts a request that ended after this time.
    pub(crate) fn record(&mut self, nanos: u64) {
        self.ended.saturating_record(nanos);
        self.all.saturating_record(nanos);
    }

    /// Counts a request that was not answered within this time.
    pub(super) fn record_unanswered(&mut self, nanos: u64) {
        self.all.saturating_record(nanos);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        const SAME: &str = "all histograms have the same bounds";
        self.ended.add(&other.ended).expect(SAME);
        self.all.add(&other.all).expect(SAME);
    }

    /// All of them, in nanoseconds.
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

    /// Requests of which only a least time is known.
    pub fn unanswered(&self) -> u64 {
        self.all.len().saturating_sub(self.ended.len())
    }

    /// Their mean in nanoseconds.
    pub fn mean(&self) -> f64 {
        self.all.mean()
    }

    /// The time that a share `q` of the requests does not exceed; nothing of nothing.
    pub fn quantile(&self, q: f64) -> Option<Bound> {
        if self.is_empty() {
            return None;
        }
        let nanos = self.all.value_at_quantile(q);
        // Had all the unanswered ones taken for ever, this is where the quantile would be.
        let share = q * self.all.len() as f64 / self.ended.len() as f64 - 1e-12;
        let at_least = share > 1.0 || self.ended.value_at_quantile(share) != nanos;
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

    /// The longest; nothing of nothing.
    pub fn max(&self) -> Option<Bound> {
        let at_least = self.unanswered() > 0;
        (!self.is_empty()).then(|| Bound { nanos: self.all.max(), at_least })
    }
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
    fn nothing_has_no_quantile() {
        assert_eq!((Times::new().quantile(0.5), Times::new().max()), (None, None));
        let mut times = Times::new();
        times.record_unanswered(5000);
        assert!(times.quantile(0.5).unwrap().at_least);
    }
}
