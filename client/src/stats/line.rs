//! The straight line through points: least squares (Legendre 1805; Gauss 1809).
//!
//! For "how much does y grow with x": the slope answers that in the units of the axes, and its
//! interval, from resampling what was measured at each x, says whether it grows at all.

use serde::{Deserialize, Serialize};

use super::{Interval, bootstrap_groups, sound_quantile_of};

/// `y = base + slope * x`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The value where x is zero.
    pub base: f64,
    /// Growth of y for each 1 of x.
    pub slope: f64,
}

impl Line {
    /// The line with the least squares; `None` unless two points differ in x.
    pub fn through(points: &[(f64, f64)]) -> Option<Self> {
        let n = points.len() as f64;
        let x = points.iter().map(|p| p.0).sum::<f64>() / n;
        let y = points.iter().map(|p| p.1).sum::<f64>() / n;
        let spread: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
        if points.is_empty() || spread <= 0.0 {
            return None;
        }
        let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / spread;
        Some(Self { base: y - slope * x, slope })
    }

    /// The share of the scatter of the points' y that the line explains (R²); 0 without scatter.
    pub fn explained(&self, points: &[(f64, f64)]) -> f64 {
        let mean = points.iter().map(|p| p.1).sum::<f64>() / points.len() as f64;
        let squares =
            |of: &dyn Fn(f64) -> f64| points.iter().map(|p| (p.1 - of(p.0)).powi(2)).sum::<f64>();
        let scatter = squares(&|_| mean);
        if scatter > 0.0 { 1.0 - squares(&|x| self.at(x)) / scatter } else { 0.0 }
    }

    /// The value of the line at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.base + self.slope * x
    }
}

/// The line through the medians of what was measured at each `x`, with the 95 % interval of its
/// slope; resamples within each x, since a picture's times say nothing about another's. An `x` with
/// too few values for a median is left out.
pub fn line_of_medians(xs: &[f64], groups: &[Vec<f64>], seed: u64) -> Option<(Line, Interval)> {
    let fit = |groups: &[Vec<f64>]| {
        let median = |times: &Vec<f64>| sound_quantile_of(times, 0.5);
        let points = xs.iter().zip(groups).filter_map(|(&x, times)| Some((x, median(times)?)));
        Line::through(&points.collect::<Vec<_>>())
    };
    let slope = |groups: &[Vec<f64>]| Some(fit(groups)?.slope);
    Some((fit(groups)?, bootstrap_groups(groups, slope, seed)?))
}
