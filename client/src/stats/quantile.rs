//! Mean and quantiles of a list.
//!
//! Quantiles interpolate linearly between order statistics: definition 7 of Hyndman and Fan,
//! "Sample Quantiles in Statistical Packages" (1996), which is what `NumPy` and R use by default.

use serde::{Deserialize, Serialize};

/// A list in one line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many values.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Half of the values are smaller.
    pub p50: f64,
    /// 95 % of the values are smaller.
    pub p95: f64,
    /// 99 % of the values are smaller.
    pub p99: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
}

impl Summary {
    /// `None` for an empty list: there is nothing to say.
    pub fn of(values: &[f64]) -> Option<Self> {
        let values = sorted(values);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self {
            count: values.len(),
            mean: mean(&values)?,
            p50: quantile(&values, 0.50)?,
            p95: quantile(&values, 0.95)?,
            p99: quantile(&values, 0.99)?,
            min,
            max,
        })
    }
}

/// The values in ascending order.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// The arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The value below which the fraction `q` of `sorted` lies; `None` of nothing.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let below = (position.floor() as usize).min(last);
    let above = (below + 1).min(last);
    let share = position - below as f64;
    Some(sorted[below] + (sorted[above] - sorted[below]) * share)
}

#[cfg(test)]
mod tests {
    use super::{Summary, quantile};

    #[test]
    fn an_empty_list_has_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn quantiles_interpolate_as_in_numpy() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(quantile(&values, 0.5), Some(2.5));
        assert!((quantile(&values, 0.95).unwrap() - 3.85).abs() < 1e-12);
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 1.0), Some(4.0));
    }
}
