//! Has a simulation reached its steady state, and for long enough to say anything about it?
//!
//! A fleet begins empty, so its first requests are faster than those of the steady state. How many
//! of them to leave out is determined by MSER (White, "An Effective Truncation Heuristic for Bias
//! Reduction in Simulation Output", 1997) on means of batches, as in White, Cobb and Spratt's
//! MSER-5 (2000): it finds the cut after which the mean of the rest is known best. The rest is cut
//! into batches again, and their spread shows how well its mean and its tail are known.

use crate::stats::{Estimate, mean};

/// Number of segments in a run.
pub(crate) const SEGMENTS: u64 = 60;
/// Relative error up to which a mean counts as known.
const PRECISE: f64 = 0.05;
/// The same for a tail, which is observed less often.
const PRECISE_TAIL: f64 = 0.1;

/// How many of the first values to leave out so that the mean of the others has the smallest error.
/// `None` if that would be more than half, which means that the run is too short.
pub(crate) fn transient(values: &[f64]) -> Option<usize> {
    // Any two of the last few values may be alike by chance.
    const LAST: usize = 5;
    let error = |cut: usize| {
        let rest = &values[cut..];
        let middle = mean(rest).unwrap_or_default();
        let squares: f64 = rest.iter().map(|value| (value - middle).powi(2)).sum();
        squares / (rest.len() as f64).powi(2)
    };
    let cuts = || 0..=values.len().saturating_sub(LAST);
    let least = cuts().map(error).min_by(f64::total_cmp)?;
    // The first of equal cuts, where differences due to rounding do not count: a fleet without any
    // queue always takes the same time.
    let rounding = (mean(values)? * 1e-9).powi(2);
    let best = cuts().find(|cut| error(*cut) <= least + rounding)?;
    (best <= values.len() / 2).then_some(best)
}

/// Half the width of the 95 % interval of the mean, as a share of it; `None` for too few values.
pub(crate) fn precision(values: &[f64]) -> Option<f64> {
    let estimate = Estimate::of(values, mean)?;
    let interval = estimate.interval();
    (estimate.value > 0.0).then(|| (interval.high - interval.low) / 2.0 / estimate.value)
}

/// Why a run was too short; `None` if it was long enough.
pub(crate) fn doubt(
    has_ended_transient: bool,
    of_mean: Option<f64>,
    of_tail: Option<f64>,
) -> Option<String> {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    if !has_ended_transient {
        let text = "too short: the fleet was still on its way to a steady state, if it has one";
        return Some(text.to_owned());
    }
    match (of_mean, of_tail) {
        (Some(share), _) if share > PRECISE => {
            Some(format!("too short: the mean is known to within {}", percent(share)))
        }
        (_, Some(share)) if share > PRECISE_TAIL => {
            Some(format!("too short: the p99 is known to within {}", percent(share)))
        }
        (Some(_), Some(_)) => None,
        (None, _) | (_, None) => Some("too short to say how well anything is known".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{precision, transient};

    /// Scattered evenly around 10.
    fn noise(number: usize) -> f64 {
        10.0 + (number as f64 * 0.618).fract() - 0.5
    }

    #[test]
    fn a_climb_at_the_start_is_left_out_and_a_steady_run_is_not_cut() {
        let climbing: Vec<f64> =
            (0..60).map(|n| if n < 15 { n as f64 * 0.6 } else { noise(n) }).collect();
        let cut = transient(&climbing).unwrap();
        assert!((14..=20).contains(&cut), "{cut}");
        let steady: Vec<f64> = (0..60).map(noise).collect();
        assert!(transient(&steady).unwrap() < 10);
        assert!(precision(&steady).unwrap() < 0.02);
    }

    #[test]
    fn a_fleet_that_always_takes_the_same_time_is_steady_from_the_start() {
        let same: Vec<f64> =
            (0..60_u32).map(|n| 0.001 * (1.0 + f64::from(n % 3) * 1e-16)).collect();
        assert_eq!(transient(&same), Some(0));
        assert_eq!(transient(&[0.0; 60]), Some(0));
    }

    #[test]
    fn a_run_that_climbs_all_the_time_has_no_steady_part() {
        let climbing: Vec<f64> = (0..60).map(f64::from).collect();
        assert_eq!(transient(&climbing), None);
        assert!(precision(&climbing).unwrap() > 0.05);
        assert_eq!(precision(&[1.0; 3]), None);
    }
}
