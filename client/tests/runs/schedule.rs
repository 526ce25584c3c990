//! Schedules: the same seed gives the same gaps, and the gaps have the distribution they claim.

use std::time::Duration;

use client::schedule::{Arrivals, Stages};
use proptest::prelude::*;

fn gaps(arrivals: &Arrivals, seed: u64, count: usize) -> Vec<Duration> {
    arrivals.schedule(seed).expect("the process is sensible").take(count).collect()
}

#[test]
fn a_seed_fixes_the_schedule_for_good() {
    // Recorded once: a change here means that old results cannot be reproduced.
    let nanos: Vec<u128> =
        gaps(&Arrivals::Poisson { rate: 100.0 }, 1, 4).iter().map(Duration::as_nanos).collect();
    assert_eq!(nanos, FIRST_GAPS);
}

const FIRST_GAPS: [u128; 4] = [20_424_946, 17_189_781, 2_847_257, 1_306_486];

#[test]
fn another_seed_gives_another_schedule() {
    let arrivals = Arrivals::Poisson { rate: 100.0 };
    assert_ne!(gaps(&arrivals, 1, 10), gaps(&arrivals, 2, 10));
}

#[test]
fn exponential_gaps_have_the_mean_and_the_spread_of_their_rate() {
    let seconds: Vec<f64> = gaps(&Arrivals::Poisson { rate: 50.0 }, 3, 100_000)
        .iter()
        .map(Duration::as_secs_f64)
        .collect();
    let mean = seconds.iter().sum::<f64>() / 1e5;
    let deviation = (seconds.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / 1e5).sqrt();
    // Standard errors at this size are 0.32 % and 0.45 %: five and nearly eight of them.
    assert!((mean / 0.02 - 1.0).abs() < 0.016, "{mean}");
    assert!((deviation / 0.02 - 1.0).abs() < 0.035, "{deviation}");
    let long = seconds.iter().filter(|gap| **gap > 0.02).count() as f64 / 1e5;
    assert!((long - (-1_f64).exp()).abs() < 0.008, "{long} of the gaps are longer than the mean");
}

#[test]
fn the_original_waits_whole_seconds_and_so_mostly_not_at_all() {
    let gaps = gaps(&Arrivals::SeedCompat { mean_wait: 0.01 }, 1, 10_000);
    assert!(gaps.iter().all(|gap| gap.subsec_nanos() == 0));
    let zeros = gaps.iter().filter(|gap| gap.is_zero()).count();
    assert!((9_850..9_950).contains(&zeros), "{zeros} of 10,000 are zero, 9,900 expected");
}

/// When requests are due, until the end of time.
fn instants(arrivals: &Arrivals) -> Vec<Duration> {
    let mut now = Duration::ZERO;
    let sum = |gap: Duration| {
        now = now.saturating_add(gap);
        now
    };
    let all = arrivals.schedule(5).expect("the process is sensible").map(sum);
    all.take_while(|at| *at < Duration::MAX).collect()
}

#[test]
fn a_rate_in_stages_is_the_rate_of_each_moment() {
    let stages: Stages = "20s:0..200,10s:200,10s:50".parse().unwrap();
    for is_uniform in [true, false] {
        let all = instants(&Arrivals::Staged { stages: stages.clone(), is_uniform });
        let counted = |from: u64, to: u64| {
            let [from, to] = [from, to].map(Duration::from_secs);
            all.iter().filter(|at| (from..to).contains(*at)).count() as f64
        };
        // A quarter of the first stage's 2,000 requests arrives in its first half.
        for (from, to, expected) in
            [(0, 10, 500.0), (10, 20, 1500.0), (20, 30, 2000.0), (30, 40, 500.0)]
        {
            let found = counted(from, to);
            let error = if is_uniform { 1.0 } else { 4.0 * f64::sqrt(expected) };
            assert!((found - expected).abs() <= error, "{found} from {from} to {to} s");
        }
        assert!(all.is_sorted() && all.last() < Some(&stages.duration()));
    }
}

#[test]
fn recorded_requests_are_due_when_they_were() {
    let recorded = [0, 0, 7, 7, 2000].map(Duration::from_millis);
    let arrivals = Arrivals::Recorded { instants: recorded.into() };
    assert_eq!(instants(&arrivals), recorded);
    assert_eq!(arrivals.offered_rate(), Some(2.0), "the last one lasts as long as the others");
}

proptest! {
    #[test]
    fn every_process_repeats_bit_for_bit(rate in 0.01_f64..1e4, seed in any::<u64>()) {
        for arrivals in [
            Arrivals::Poisson { rate },
            Arrivals::Uniform { rate },
            Arrivals::SeedCompat { mean_wait: 1.0 / rate },
            Arrivals::Staged { stages: "1s:0..900,5s:900".parse().unwrap(), is_uniform: false },
        ] {
            prop_assert_eq!(gaps(&arrivals, seed, 50), gaps(&arrivals, seed, 50));
        }
    }

    #[test]
    fn uniform_gaps_are_all_one_over_the_rate(rate in 0.01_f64..1e6) {
        for gap in gaps(&Arrivals::Uniform { rate }, 0, 3) {
            prop_assert!((gap.as_secs_f64() * rate - 1.0).abs() < 1e-3);
        }
    }
}
