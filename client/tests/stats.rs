//! Statistics against naive oracles and against values worked out elsewhere.

use client::stats::{
    Line, Summary, bootstrap, bootstrap_blocks, line_of_medians, mann_whitney, mean, quantile,
    sorted, wilson,
};
use proptest::prelude::*;

fn values() -> impl Strategy<Value = Vec<f64>> {
    // Few different values, so that ties occur.
    prop::collection::vec((0_i32..40).prop_map(|v| f64::from(v) / 4.0), 1..60)
}

/// The share of pairs in which `a` is the smaller, by counting all pairs.
fn counted_superiority(a: &[f64], b: &[f64]) -> f64 {
    let score = |x: &f64, y: &f64| match x.total_cmp(y) {
        std::cmp::Ordering::Less => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Greater => 0.0,
    };
    let all: f64 = a.iter().flat_map(|x| b.iter().map(move |y| score(x, y))).sum();
    all / (a.len() * b.len()) as f64
}

proptest! {
    #[test]
    fn a_quantile_lies_between_the_order_statistics_around_it(values in values(), q in 0.0_f64..=1.0) {
        let sorted = sorted(&values);
        let found = quantile(&sorted, q).unwrap();
        // Naive: the share of values at or below it is at least q, short of one value.
        let at_or_below = values.iter().filter(|v| **v <= found + 1e-9).count() as f64;
        let below = values.iter().filter(|v| **v < found - 1e-9).count() as f64;
        let n = values.len() as f64;
        prop_assert!(at_or_below >= (q * (n - 1.0)).floor(), "{at_or_below} of {n} for {q}");
        prop_assert!(below <= q * (n - 1.0) + 1.0);
    }

    #[test]
    fn a_summary_is_what_counting_says(values in values()) {
        let summary = Summary::of(&values).unwrap();
        let naive = values.iter().sum::<f64>() / values.len() as f64;
        prop_assert!((summary.mean - naive).abs() < 1e-9);
        prop_assert_eq!(summary.count, values.len());
        prop_assert!((summary.max - values.iter().copied().fold(f64::MIN, f64::max)).abs() < 1e-12);
        prop_assert!(summary.min <= summary.p50 && summary.p50 <= summary.p95);
        prop_assert!(summary.p95 <= summary.p99 && summary.p99 <= summary.max);
    }

    #[test]
    fn mann_whitney_agrees_with_counting_all_pairs(a in values(), b in values()) {
        let found = mann_whitney(&a, &b).unwrap();
        prop_assert!((found.superiority - counted_superiority(&a, &b)).abs() < 1e-9);
        prop_assert!((0.0..=1.0).contains(&found.p_value));
        let swapped = mann_whitney(&b, &a).unwrap();
        prop_assert!((found.p_value - swapped.p_value).abs() < 1e-9);
    }

    #[test]
    fn no_other_line_is_closer_to_the_points(
        points in prop::collection::vec((0.0_f64..10.0, -5.0_f64..5.0), 2..30),
        (rise, tilt) in (-1.0_f64..1.0, -1.0_f64..1.0),
    ) {
        prop_assume!(points.iter().any(|p| (p.0 - points[0].0).abs() > 0.1));
        let squares = |line: &Line| points.iter().map(|p| (p.1 - line.at(p.0)).powi(2)).sum::<f64>();
        let found = Line::through(&points).unwrap();
        let other = Line { base: found.base + rise, slope: found.slope + tilt };
        prop_assert!(squares(&found) <= squares(&other) + 1e-9);
    }

    #[test]
    fn a_bootstrap_interval_holds_its_own_mean(values in values(), seed in any::<u64>()) {
        if let Some(interval) = bootstrap(&values, mean, seed) {
            let middle = mean(&values).unwrap();
            prop_assert!(interval.low <= middle + 1e-9 && middle <= interval.high + 1e-9);
        }
    }

    #[test]
    fn a_wilson_interval_holds_its_share_and_stays_in_the_unit_range(n in 1_u64..1000, part in any::<u64>()) {
        let successes = part % (n + 1);
        let interval = wilson(successes, n);
        let share = successes as f64 / n as f64;
        prop_assert!(0.0 <= interval.low && interval.high <= 1.0);
        prop_assert!(interval.low <= share + 1e-12 && share <= interval.high + 1e-12);
    }
}

#[test]
fn wilson_agrees_with_a_published_value() {
    // scipy.stats.binomtest(37, 40).proportion_ci(method="wilson")
    let interval = wilson(37, 40);
    assert!((interval.low - 0.801_357_7).abs() < 1e-6, "{interval:?}");
    assert!((interval.high - 0.974_164_0).abs() < 1e-6, "{interval:?}");
}

#[test]
fn mann_whitney_agrees_with_a_worked_example() {
    // scipy.stats.mannwhitneyu([1, 2, 3, 4], [3, 5, 6, 7], method="asymptotic")
    let found = mann_whitney(&[1.0, 2.0, 3.0, 4.0], &[3.0, 5.0, 6.0, 7.0]).unwrap();
    assert!((found.p_value - 0.081_429_1).abs() < 1e-6, "{found:?}");
}

#[test]
fn the_bootstrap_covers_the_truth_as_often_as_it_claims() {
    use rand::rngs::ChaCha12Rng;
    use rand::{RngExt, SeedableRng};
    let mut rng = ChaCha12Rng::seed_from_u64(5);
    let covered = (0..200_u64)
        .filter(|seed| {
            let draw: Vec<f64> = (0..40).map(|_| rng.random_range(0.0..1.0)).collect();
            let interval = bootstrap(&draw, mean, *seed).unwrap();
            interval.low <= 0.5 && 0.5 <= interval.high
        })
        .count();
    // 95 % of 200 is 190; a percentile interval at n = 40 covers a little less.
    assert!((178..=199).contains(&covered), "{covered} of 200 intervals hold the true mean");
}

#[test]
fn a_line_needs_two_places_and_its_interval_holds_the_slope_of_the_noise_free_line() {
    assert_eq!(Line::through(&[]), None);
    assert_eq!(Line::through(&[(1.0, 2.0), (1.0, 3.0)]), None);
    let xs = [0.0, 1.0, 5.0];
    let around = |x: f64| (0..15).map(|i| 3.0 + 2.0 * x + f64::from(i % 5) - 2.0).collect();
    let groups = xs.map(around);
    let (line, interval) = line_of_medians(&xs, &groups, 1).unwrap();
    assert!((line.base - 3.0).abs() < 1e-9 && (line.slope - 2.0).abs() < 1e-9);
    assert!(interval.low < 2.0 && 2.0 < interval.high && interval.high - interval.low < 1.0);
}

#[test]
fn blocks_make_the_interval_of_a_series_with_memory_wider() {
    // Runs of a hundred equal values: neighbours say nothing new.
    let level = |i: u32| f64::from((i / 100).wrapping_mul(2_654_435_761) % 97);
    let series: Vec<f64> = (0..10_000).map(level).collect();
    let width = |interval: client::stats::Interval| interval.high - interval.low;
    let alone = width(bootstrap(&series, mean, 1).unwrap());
    let in_blocks = width(bootstrap_blocks(&series, mean, 1).unwrap());
    assert!(in_blocks > 4.0 * alone, "{in_blocks} against {alone}");
    assert_eq!(bootstrap_blocks(&[1.0], mean, 1), None);
}
