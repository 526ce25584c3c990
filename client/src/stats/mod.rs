//! Numbers out of numbers: quantiles, confidence intervals, comparisons.
//!
//! Pure. Randomness comes from a seed, so a report is the same whenever it is drawn again. Each
//! method names its source; property tests hold each against a naive oracle.

mod bootstrap;
mod line;
mod quantile;
mod rank;
mod wilson;

pub use bootstrap::{bootstrap, bootstrap_blocks, bootstrap_difference, bootstrap_groups};
pub use line::{Line, line_of_medians};
pub use quantile::{Summary, mean, quantile, sorted};
pub use rank::{Comparison, mann_whitney};
pub use wilson::wilson;

use serde::{Deserialize, Serialize};

/// A confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}
