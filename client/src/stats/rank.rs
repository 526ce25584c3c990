//! Is one list larger than another? Mann and Whitney, "On a Test of whether one of Two Random
//! Variables is Stochastically Larger than the Other" (1947), with the correction for ties.
//!
//! Compares ranks, not means, so one outlier decides nothing.

use serde::Serialize;

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Comparison {
    /// Pairs in which the value of the first list is the smaller; ties count half.
    pub u: f64,
    /// Probability that a value of the first list is smaller than one of the second.
    pub superiority: f64,
    /// The probability of a difference this large if there is none (two-sided).
    pub p_value: f64,
}

/// Compares two lists; `None` if either is empty.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> Option<Comparison> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let (count_a, count_b) = (a.len() as f64, b.len() as f64);
    let (pairs, total) = (count_a * count_b, count_a + count_b);
    let mut all: Vec<(f64, bool)> =
        a.iter().map(|v| (*v, true)).chain(b.iter().map(|v| (*v, false))).collect();
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut ranks_of_a, mut ties, mut seen) = (0.0, 0.0, 0.0);
    for group in all.chunk_by(|one, other| one.0.total_cmp(&other.0).is_eq()) {
        let size = group.len() as f64;
        let rank = seen + f64::midpoint(size, 1.0);
        ranks_of_a += rank * group.iter().filter(|(_, is_a)| *is_a).count() as f64;
        ties += size * (size * size - 1.0);
        seen += size;
    }
    let u = pairs - (ranks_of_a - count_a * (count_a + 1.0) / 2.0);
    let variance = pairs / 12.0 * ((total + 1.0) - ties / (total * (total - 1.0)));
    // The half is the continuity correction of the normal approximation.
    let distance = ((u - pairs / 2.0).abs() - 0.5).max(0.0);
    let p_value = if variance > 0.0 { two_sided(distance / variance.sqrt()) } else { 1.0 };
    Some(Comparison { u, superiority: u / pairs, p_value })
}

/// Probability of a standard normal value at least `z` away from 0.
fn two_sided(z: f64) -> f64 {
    // Abramowitz and Stegun, formula 7.1.26: erfc to 1.5e-7.
    let x = z / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let coefficients =
        [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let polynomial = coefficients.iter().fold(0.0, |sum, c| (sum + c) * t);
    (polynomial * (-x * x).exp()).clamp(0.0, 1.0)
}
