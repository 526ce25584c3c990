//! Figures that are lower bounds, because some of the times behind them are of requests that were
//! given up, for which only the time spent waiting is known.

use serde::{Deserialize, Serialize};

/// The figures that can be lower bounds.
const FIGURES: [&str; 5] = ["mean", "p50", "p95", "p99", "max"];

/// Which figures of a summary are lower bounds; a list of their names in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<&'static str>", from = "Vec<String>")]
pub struct LeastValues([bool; FIGURES.len()]);

impl LeastValues {
    /// Mean, median, the two quantiles and the longest time, in this order.
    pub(super) fn new(are_least: [bool; FIGURES.len()]) -> Self {
        Self(are_least)
    }

    /// Whether the figure of that name is one.
    pub fn contains(self, figure: &str) -> bool {
        self.names().any(|name| name == figure)
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        FIGURES.into_iter().zip(self.0).filter_map(|(name, is_least)| is_least.then_some(name))
    }
}

impl From<LeastValues> for Vec<&'static str> {
    fn from(values: LeastValues) -> Self {
        values.names().collect()
    }
}

impl From<Vec<String>> for LeastValues {
    fn from(names: Vec<String>) -> Self {
        Self(FIGURES.map(|figure| names.iter().any(|name| name == figure)))
    }
}
