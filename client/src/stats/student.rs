//! Intervals for few values: Student, "The Probable Error of a Mean" (1908).
//!
//! A handful of trials is all that an experiment has time for. Resampling two or three values finds
//! only these values, and covers the truth far less often than it claims; Student's t is exact for
//! any number of normal values, and means of many requests are close to normal.

use std::f64::consts::FRAC_PI_2;

use super::{Interval, mean};

/// The probability that an interval leaves out, both ends together.
const LEVEL: f64 = 0.05;

/// Probability of a value of Student's distribution at least `t` away from 0, with `freedom` degrees
/// of freedom (1 and more).
pub fn two_sided(t: f64, freedom: f64) -> f64 {
    if !t.is_finite() {
        return if t.is_nan() { 1.0 } else { 0.0 };
    }
    // With t = sqrt(freedom) tan(angle) the density becomes a power of the cosine.
    let freedom = freedom.clamp(1.0, 1e5);
    let angle = (t.abs() / freedom.sqrt()).atan();
    (tail(angle, freedom) / tail(0.0, freedom)).clamp(0.0, 1.0)
}

/// The integral of `cos(x)^(freedom - 1)` from `from` to a right angle, by Simpson's rule. A large
/// power is negligible a few widths away from where it begins.
fn tail(from: f64, freedom: f64) -> f64 {
    const STEPS: usize = 128;
    const WIDTHS: f64 = 10.0;
    let width = 1.0 / freedom.sqrt();
    let to = FRAC_PI_2.min(from + WIDTHS * width);
    let step = (to - from) / STEPS as f64;
    let density = |n: usize| (from + n as f64 * step).cos().max(0.0).powf(freedom - 1.0);
    let weight = |n: usize| match n {
        0 | STEPS => 1.0,
        _ if n % 2 == 1 => 4.0,
        _ => 2.0,
    };
    (0..=STEPS).map(|n| weight(n) * density(n)).sum::<f64>() * step / 3.0
}

/// How many standard errors the 95 % interval reaches to either side.
pub fn reach(freedom: f64) -> f64 {
    const STEPS: u32 = 100;
    const CLOSE: f64 = 1e-13;
    let freedom = freedom.clamp(1.0, 1e5);
    let wanted = LEVEL * tail(0.0, freedom);
    // Newton's method: the tail falls ever more slowly, so that no step goes too far.
    let mut angle: f64 = 0.0;
    for _ in 0..STEPS {
        let step = (tail(angle, freedom) - wanted) / angle.cos().powf(freedom - 1.0);
        angle += step;
        if step < CLOSE {
            break;
        }
    }
    freedom.sqrt() * angle.tan()
}

/// Sum of the squared distances from the mean.
pub(super) fn squares(values: &[f64]) -> Option<f64> {
    let middle = mean(values)?;
    Some(values.iter().map(|value| (value - middle).powi(2)).sum())
}

/// The 95 % interval of the mean of independent values; `None` for fewer than two.
pub fn interval_of_mean(values: &[f64]) -> Option<Interval> {
    let freedom = values.len().checked_sub(1).filter(|freedom| *freedom > 0)? as f64;
    let error = (squares(values)? / freedom / values.len() as f64).sqrt();
    Some(around(mean(values)?, error, freedom))
}

/// The 95 % interval of the ratio of the quantity behind `b` to that behind `a`, given positive
/// values with the same relative spread; `None` unless both have two values.
pub fn interval_of_ratio(a: &[f64], b: &[f64]) -> Option<Interval> {
    if a.len() < 2 || b.len() < 2 || a.iter().chain(b).any(|value| *value <= 0.0) {
        return None;
    }
    let logs = |values: &[f64]| values.iter().map(|value| value.ln()).collect::<Vec<_>>();
    let (a, b) = (logs(a), logs(b));
    let freedom = (a.len() + b.len() - 2) as f64;
    let spread = (squares(&a)? + squares(&b)?) / freedom;
    let error = (spread * (1.0 / a.len() as f64 + 1.0 / b.len() as f64)).sqrt();
    let Interval { low, high } = around(mean(&b)? - mean(&a)?, error, freedom);
    Some(Interval { low: low.exp(), high: high.exp() })
}

/// The 95 % interval around `middle`.
pub(super) fn around(middle: f64, error: f64, freedom: f64) -> Interval {
    let margin = reach(freedom) * error;
    Interval { low: middle - margin, high: middle + margin }
}

#[cfg(test)]
mod tests {
    use super::super::Interval;
    use super::{interval_of_mean, reach, two_sided};

    #[test]
    fn probabilities_and_quantiles_are_those_of_the_tables() {
        for (freedom, expected) in [
            (1.0, 12.7062),
            (2.0, 4.3027),
            (5.0, 2.5706),
            (10.0, 2.2281),
            (30.0, 2.0423),
            (1e5, 1.96),
        ] {
            assert!(
                (reach(freedom) / expected - 1.0).abs() < 1e-4,
                "{freedom}: {}",
                reach(freedom)
            );
        }
        // With one degree of freedom it is Cauchy's distribution, with many the normal one.
        assert!((two_sided(1.0, 1.0) - 0.5).abs() < 1e-6);
        assert!((two_sided(2.575_829, 1e5) - 0.01).abs() < 1e-5);
        assert!((two_sided(2.0, 1.5) - 0.2182).abs() < 0.02);
        assert!(two_sided(f64::INFINITY, 3.0) < 1e-12 && two_sided(0.0, 3.0) > 1.0 - 1e-12);
    }

    #[test]
    fn of_an_interval_only_what_is_possible_is_told() {
        let wide = interval_of_mean(&[1.0, 2.0, 600.0]).expect("three values");
        assert!(wide.low < 0.0);
        assert_eq!(wide.within(0.0, f64::INFINITY), Interval { low: 0.0, high: wide.high });
        assert_eq!(wide.within(0.0, 1.0), Interval { low: 0.0, high: 1.0 });
        let narrow = Interval { low: 0.25, high: 0.5 };
        assert_eq!(narrow.within(0.0, 1.0), narrow);
    }
}
