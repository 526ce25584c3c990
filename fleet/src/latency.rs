//! How long answered attempts took: a histogram that every thread adds to.
//!
//! Its bounds are the preferred numbers R10 (ISO 3), ten to a decade, so that a quantile is
//! accurate to an eighth, and every round bound that is exported to Prometheus is one of them.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// One decade of preferred numbers.
const SERIES: [u64; 10] = [100, 125, 160, 200, 250, 315, 400, 500, 630, 800];
const DECADES: usize = 6;
const LEN: usize = SERIES.len() * DECADES;
/// Upper bounds of the buckets in microseconds, from 0.1 ms to 80 s.
const BOUNDS: [u64; LEN] = bounds();

/// Attempts in each bucket; the last counts those that took longer than every bound.
pub type Counts = [u64; LEN + 1];

const fn bounds() -> [u64; LEN] {
    let mut bounds = [0; LEN];
    let (mut at, mut scale) = (0, 1);
    while at < LEN {
        bounds[at] = SERIES[at % SERIES.len()] * scale;
        at += 1;
        if at % SERIES.len() == 0 {
            scale *= 10;
        }
    }
    bounds
}

/// A histogram of answer times: one atomic counter per bucket.
#[derive(Debug)]
pub struct Latency([AtomicU64; LEN + 1]);

impl Default for Latency {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; LEN + 1])
    }
}

impl Latency {
    /// Counts an attempt.
    pub(crate) fn observe(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.0[bucket].fetch_add(1, Relaxed);
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        std::array::from_fn(|bucket| self.0[bucket].load(Relaxed))
    }
}

/// The time that this share of the attempts did not exceed, assuming that the attempts in a bucket
/// are spread evenly over it; `None` without attempts.
pub fn quantile(counts: &Counts, share: f64) -> Option<Duration> {
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let wanted = share.clamp(0.0, 1.0) * all as f64;
    let mut before = 0;
    for (bucket, count) in counts.iter().enumerate() {
        if *count > 0 && (before + count) as f64 >= wanted {
            let lower = bucket.checked_sub(1).map_or(0, |below| BOUNDS[below]) as f64;
            let upper = BOUNDS.get(bucket).map_or(lower, |bound| *bound as f64);
            let part = (wanted - before as f64) / *count as f64;
            return Some(Duration::from_secs_f64((lower + (upper - lower) * part) / 1e6));
        }
        before += count;
    }
    None
}

/// Merges the counts into buckets with the upper bounds `seconds`, each of which is one of the
/// bounds, and a last bucket for the rest.
pub fn merged<const N: usize>(counts: &Counts, seconds: [f64; N]) -> Vec<(f64, u64)> {
    let mut merged: Vec<(f64, u64)> =
        seconds.into_iter().chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
    for (bucket, count) in counts.iter().enumerate() {
        let upper = BOUNDS.get(bucket).map_or(f64::INFINITY, |bound| *bound as f64 / 1e6);
        let at = merged.partition_point(|(bound, _)| *bound < upper);
        if let Some((_, sum)) = merged.get_mut(at) {
            *sum += count;
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LATENCY_BOUNDS;

    fn of(milliseconds: impl IntoIterator<Item = u64>) -> Counts {
        let latency = Latency::default();
        for one in milliseconds {
            latency.observe(Duration::from_millis(one));
        }
        latency.counts()
    }

    #[test]
    fn a_quantile_is_right_to_an_eighth() {
        let counts = of(1..=1000);
        for (share, milliseconds) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (0.01, 10.0)] {
            let found = quantile(&counts, share).expect("counted").as_secs_f64() * 1e3;
            assert!((found / milliseconds - 1.0).abs() < 0.125, "{share}: {found}");
        }
        assert_eq!(quantile(&of([]), 0.5), None);
        let endless = quantile(&of([1_000_000]), 0.5).expect("counted");
        assert_eq!(endless, Duration::from_secs(80), "no more is known than that it took longer");
    }

    #[test]
    fn exported_bounds_are_bounds_so_that_no_attempt_is_counted_twice_or_in_the_wrong_bucket() {
        for seconds in LATENCY_BOUNDS {
            let is_it = |bound: &u64| (*bound as f64 / 1e6).total_cmp(&seconds).is_eq();
            assert!(BOUNDS.iter().any(is_it), "{seconds}");
        }
        let counts = of([1, 2, 3, 10, 11, 250, 9_000, 11_000]);
        let merged = merged(&counts, LATENCY_BOUNDS);
        let told = |bound: f64| {
            let is_it = |(upper, _): &&(f64, u64)| upper.total_cmp(&bound).is_eq();
            merged.iter().find(is_it).expect("there").1
        };
        assert_eq!((told(0.001), told(0.0025), told(0.005), told(0.01)), (1, 1, 1, 1));
        assert_eq!((told(0.025), told(0.25), told(10.0), told(f64::INFINITY)), (1, 1, 1, 1));
        assert_eq!(merged.iter().map(|(_, count)| count).sum::<u64>(), 8);
    }
}
