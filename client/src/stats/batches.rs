//! A statistic of a series whose neighbours depend on each other: batch means (Conway, "Some
//! tactical problems in digital simulation", 1963).
//!
//! Requests of one run are not independent: a queue has a memory, and so does a machine that is
//! slow for a while. Taken as independent, thousands of them prove any difference. So the series is
//! cut into a few long batches, each with a value of its own, which depend little on each other.
//! The dependence that remains (the correlation of neighbouring batches) makes the error larger and
//! its degrees of freedom fewer, as for a first-order process.

use super::student::{around, squares, two_sided};
use super::{Interval, mean};

/// Maximum number of batches ...
const MOST: usize = 12;
/// ... with at least this many values in each, and the minimum number of batches.
const VALUES: usize = 5;
const FEWEST: usize = 4;
/// The largest correlation that this few batches can show.
const MOST_CORRELATED: f64 = 0.8;

/// A statistic of a series, and how well it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The statistic of the whole series.
    pub value: f64,
    /// The variance of `value`, by batch means.
    variance: f64,
    /// Degrees of freedom of the variance.
    freedom: f64,
}

/// The change from one series to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// The statistic of the second series minus that of the first.
    pub value: f64,
    /// The 95 % interval.
    pub interval: Interval,
    /// The probability of a change this large if there is none.
    pub p_value: f64,
}

impl Estimate {
    /// Estimates `statistic` over `series`, which is in order of time; `None` if it is too short.
    pub fn of(series: &[f64], statistic: impl Fn(&[f64]) -> Option<f64>) -> Option<Self> {
        let count = (series.len() / VALUES).min(MOST);
        if count < FEWEST {
            return None;
        }
        // Lengths differ by one at most.
        let cut = |number: usize| number * series.len() / count;
        let batches = (0..count).map(|number| statistic(&series[cut(number)..cut(number + 1)]));
        let batches: Vec<f64> = batches.collect::<Option<_>>()?;
        let count = count as f64;
        let inflation = inflation(&batches)?;
        let variance = squares(&batches)? / (count - 1.0) / count * inflation;
        let freedom = (count / inflation - 1.0).max(1.0);
        Some(Self { value: statistic(series)?, variance, freedom })
    }

    /// The 95 % interval.
    pub fn interval(&self) -> Interval {
        around(self.value, self.variance.sqrt(), self.freedom)
    }

    /// The change from this to `other`, the two being independent (Welch, 1947).
    pub fn change_to(&self, other: &Self) -> Change {
        let value = other.value - self.value;
        let variance = self.variance + other.variance;
        if variance <= 0.0 {
            let p_value = if value == 0.0 { 1.0 } else { 0.0 };
            return Change { value, interval: Interval { low: value, high: value }, p_value };
        }
        let part = |it: &Self| it.variance.powi(2) / it.freedom;
        let freedom = variance.powi(2) / (part(self) + part(other));
        let error = variance.sqrt();
        let interval = around(value, error, freedom);
        Change { value, interval, p_value: two_sided(value / error, freedom) }
    }
}

/// By how much the correlation of neighbours enlarges the variance of their mean.
fn inflation(batches: &[f64]) -> Option<f64> {
    let (middle, all) = (mean(batches)?, squares(batches)?);
    if all <= 0.0 {
        return Some(1.0);
    }
    let pairs = batches.windows(2).map(|pair| (pair[0] - middle) * (pair[1] - middle));
    // The estimate is too low by about this much.
    let bias = 1.0 / batches.len() as f64;
    let correlation = (pairs.sum::<f64>() / all + bias).clamp(0.0, MOST_CORRELATED);
    Some((1.0 + correlation) / (1.0 - correlation))
}

#[cfg(test)]
mod tests {
    use super::Estimate;
    use crate::stats::mean;

    #[test]
    fn a_series_that_never_changes_is_known_exactly() {
        let (a, b) = (vec![3.0; 100], vec![4.0; 100]);
        let [a, b] = [a, b].map(|series| Estimate::of(&series, mean).unwrap());
        let change = a.change_to(&b);
        assert!((change.value - 1.0).abs() < 1e-12 && change.p_value == 0.0);
        assert!((a.change_to(&a).p_value - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_few_values_say_nothing() {
        assert_eq!(Estimate::of(&[1.0; 19], mean), None);
    }
}
