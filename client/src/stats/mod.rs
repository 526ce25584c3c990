//! Statistics: quantiles, confidence intervals, comparisons.
//!
//! Pure. Randomness comes from a seed, so a report is the same whenever it is drawn again. Each
//! method names its source; property tests hold each against a naive oracle.

mod batches;
mod bootstrap;
mod least;
mod line;
mod quantile;
mod rank;
mod student;
mod wilson;

pub use batches::{Change, Estimate};
pub use bootstrap::{bootstrap, bootstrap_blocks, bootstrap_groups};
pub use least::LeastValues;
pub use line::{Line, line_of_medians};
pub(crate) use quantile::Pick;
pub use quantile::{
    Distribution, Time, mean, quantile, quantile_of, samples_for, sorted, sound_quantile,
    sound_quantile_of,
};
pub use rank::{Comparison, mann_whitney};
use serde::{Deserialize, Serialize};
pub use student::{interval_of_mean, interval_of_ratio, reach, two_sided};
pub use wilson::{Tried, wilson, wilson_of_groups};

/// A confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
}

impl Interval {
    /// The part of it that is possible: a time is not negative, and a share is at most one. It
    /// contains the truth as often as before.
    #[must_use]
    pub fn within(self, lowest: f64, highest: f64) -> Self {
        Self { low: self.low.clamp(lowest, highest), high: self.high.clamp(lowest, highest) }
    }
}
