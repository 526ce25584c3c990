//! When a request may be sent to a second endpoint although the first has not failed.
//!
//! A hedge is sent when an answer takes longer than 95 % of the others did, so it cuts the tail of
//! the latency (Dean and Barroso, "The Tail at Scale", 2013), and at most once in twenty requests,
//! so that a slow fleet is not made slower. The 95th percentile is followed by a step up for each
//! answer above it and nineteen times smaller steps down for the others; this needs one word of
//! memory and forgets old answers by itself. Pure except for its atomics.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// With fewer answers than this the latency counts as unknown.
const MIN_SAMPLES: u64 = 100;
/// Requests per hedge.
const REQUESTS_PER_HEDGE: u64 = 20;
/// Hedges that can be saved up.
const MAX_SAVED: u64 = 5;
/// The tracked quantile, and how far one answer moves its estimate.
const QUANTILE: f64 = 0.95;
const STEP: f64 = 0.05;

/// The latency so far and the hedges that may be sent.
#[derive(Debug, Default)]
pub struct Hedging {
    /// The estimate in nanoseconds, as the bits of an `f64`.
    estimate: AtomicU64,
    samples: AtomicU64,
    /// Saved hedges; one hedge costs [`REQUESTS_PER_HEDGE`] units.
    saved: AtomicU64,
}

impl Hedging {
    /// Records that a request begins; returns the time after which it may be hedged.
    pub fn begin(&self) -> Option<Duration> {
        // Two threads may race here and lose a part of a hedge.
        let saved = self.saved.load(Relaxed);
        if saved < MAX_SAVED * REQUESTS_PER_HEDGE {
            self.saved.store(saved + 1, Relaxed);
        }
        if self.samples.load(Relaxed) < MIN_SAMPLES {
            return None;
        }
        let estimate = f64::from_bits(self.estimate.load(Relaxed));
        Some(Duration::from_secs_f64(estimate / 1e9))
    }

    /// Records how long an answer took.
    pub fn observe(&self, elapsed: Duration) {
        let sample = elapsed.as_secs_f64() * 1e9;
        let before = f64::from_bits(self.estimate.load(Relaxed));
        let samples = self.samples.fetch_add(1, Relaxed);
        let next = if samples == 0 {
            sample
        } else if sample > before {
            before * (1.0 + STEP * QUANTILE)
        } else {
            before * (1.0 - STEP * (1.0 - QUANTILE))
        };
        self.estimate.store(next.clamp(1e3, 1e12).to_bits(), Relaxed);
    }

    /// Spends a saved hedge; returns whether there was one.
    pub fn take(&self) -> bool {
        let spend = |saved: u64| saved.checked_sub(REQUESTS_PER_HEDGE);
        self.saved.fetch_update(Relaxed, Relaxed, spend).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_hedged_before_the_latency_is_known() {
        let hedging = Hedging::default();
        assert_eq!(hedging.begin(), None);
        (0..MIN_SAMPLES).for_each(|_| hedging.observe(Duration::from_millis(10)));
        assert!(hedging.begin().is_some());
    }

    #[test]
    fn one_request_in_twenty_may_be_hedged() {
        let hedging = Hedging::default();
        let mut hedges = 0;
        for _ in 0..10_000 {
            let _delay = hedging.begin();
            hedges += u32::from(hedging.take());
        }
        assert_eq!(hedges, 500);
    }

    proptest! {
        #[test]
        fn the_estimate_finds_the_95th_percentile(scale in 1_u64..1_000_000, seed: u64) {
            let hedging = Hedging::default();
            let mut state = seed | 1;
            for _ in 0..20_000 {
                // Uniform from 0 to 1000 (xorshift): its 95th percentile is 950.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                hedging.observe(Duration::from_nanos(1_000 * scale + state % 1_000 * scale));
            }
            let estimate = hedging.begin().expect("known").as_secs_f64() * 1e9 / scale as f64;
            prop_assert!((1_700.0..2_100.0).contains(&estimate), "{estimate}");
        }
    }
}
