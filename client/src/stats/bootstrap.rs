//! Confidence intervals by resampling: Efron, "Bootstrap Methods: Another Look at the Jackknife"
//! (1979), percentile intervals.
//!
//! They assume nothing about the shape of a distribution, which suits long-tailed latencies.

use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};

use super::{Interval, quantile, sorted};

const RESAMPLES: usize = 2_000;
const CONFIDENCE: f64 = 0.95;

/// The 95 % interval of `statistic` over `values`; `None` for fewer than two values.
pub fn bootstrap(
    values: &[f64],
    statistic: impl Fn(&[f64]) -> Option<f64>,
    seed: u64,
) -> Option<Interval> {
    if values.len() < 2 {
        return None;
    }
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut resample = Vec::with_capacity(values.len());
    let mut estimates = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        draw(values, &mut resample, &mut rng);
        estimates.push(statistic(&resample)?);
    }
    interval(&estimates)
}

/// The 95 % interval of `statistic` over several lists, each resampled on its own; `None` if no
/// list has two values.
pub fn bootstrap_groups(
    groups: &[Vec<f64>],
    statistic: impl Fn(&[Vec<f64>]) -> Option<f64>,
    seed: u64,
) -> Option<Interval> {
    if groups.iter().all(|group| group.len() < 2) {
        return None;
    }
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut resampled = groups.to_vec();
    let mut estimates = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        for (group, into) in groups.iter().zip(&mut resampled) {
            draw(group, into, &mut rng);
        }
        estimates.push(statistic(&resampled)?);
    }
    interval(&estimates)
}

/// The 95 % interval of `statistic` over a series whose neighbours depend on each other: whole
/// blocks are drawn from the series, closed to a circle (Politis and Romano, "A circular
/// block-resampling procedure for stationary data", 1992), each as long as the square root of the
/// series' length. `None` for fewer than two values.
pub fn bootstrap_blocks(
    series: &[f64],
    statistic: impl Fn(&[f64]) -> Option<f64>,
    seed: u64,
) -> Option<Interval> {
    if series.len() < 2 {
        return None;
    }
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let (count, block) = (series.len(), series.len().isqrt());
    let mut estimates = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let mut resample = Vec::with_capacity(count + block);
        while resample.len() < count {
            let start = rng.random_range(0..count);
            resample.extend((start..start + block).map(|at| series[at % count]));
        }
        resample.truncate(count);
        estimates.push(statistic(&resample)?);
    }
    interval(&estimates)
}

fn draw(values: &[f64], into: &mut Vec<f64>, rng: &mut ChaCha12Rng) {
    into.clear();
    into.extend((0..values.len()).map(|_| values[rng.random_range(0..values.len())]));
}

fn interval(estimates: &[f64]) -> Option<Interval> {
    let estimates = sorted(estimates);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some(Interval { low: quantile(&estimates, tail)?, high: quantile(&estimates, 1.0 - tail)? })
}
