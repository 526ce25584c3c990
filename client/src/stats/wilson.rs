//! The interval of a share: Wilson, "Probable Inference, the Law of Succession, and Statistical
//! Inference" (1927). Honest for small counts and for shares near 0 and 1, where the textbook
//! interval leaves the unit range.

use super::Interval;

/// The 95 % quantile of the standard normal distribution, both tails.
const Z: f64 = 1.959_963_984_540_054;

/// The 95 % interval of `successes` out of `count`; everything between 0 and 1 if `count` is 0.
pub fn wilson(successes: u64, count: u64) -> Interval {
    if count == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let n = count as f64;
    let share = successes as f64 / n;
    let spread = Z * Z / n;
    let centre = share + spread / 2.0;
    let margin = Z * ((share * (1.0 - share) + spread / 4.0) / n).sqrt();
    Interval {
        low: ((centre - margin) / (1.0 + spread)).max(0.0),
        high: ((centre + margin) / (1.0 + spread)).min(1.0),
    }
}
