//! Statistics against naive oracles and against values computed elsewhere.

use client::compare::{Group, Groups, compare};
use client::sample::Outcome;
use client::stats::{
    Distribution, Estimate, Interval, Line, bootstrap, bootstrap_blocks, interval_of_mean,
    interval_of_ratio, line_of_medians, mann_whitney, mean, quantile, sorted, wilson,
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
        let summary = Distribution::of(&values).unwrap();
        let naive = values.iter().sum::<f64>() / values.len() as f64;
        prop_assert!((summary.mean - naive).abs() < 1e-9);
        prop_assert_eq!(summary.count, values.len());
        prop_assert!((summary.max - values.iter().copied().fold(f64::MIN, f64::max)).abs() < 1e-12);
        // A quantile is `None` if there are too few values.
        let told = [Some(summary.min), summary.p50, summary.p95, summary.p99, Some(summary.max)];
        let told: Vec<f64> = told.into_iter().flatten().collect();
        prop_assert!(told.is_sorted(), "{told:?}");
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

/// Draws that are the same in every run of the tests.
struct Draws(rand::rngs::ChaCha12Rng);

impl Draws {
    fn new(seed: u64) -> Self {
        Self(rand::SeedableRng::seed_from_u64(seed))
    }

    fn normal(&mut self) -> f64 {
        rand_distr::Distribution::sample(&rand_distr::StandardNormal, &mut self.0)
    }

    fn normals(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.normal()).collect()
    }

    /// Latencies of a service that, once slow, stays slow for about `1 / (1 - memory)` requests.
    fn slow_moments(&mut self, count: usize, memory: f64) -> Vec<f64> {
        let mut level = self.normal();
        let step = |()| {
            level = memory * level + (1.0 - memory * memory).sqrt() * self.normal();
            10.0 * (0.5 * level).exp()
        };
        std::iter::repeat_n((), count).map(step).collect()
    }
}

/// The share of `repeats` intervals that contain `truth`.
fn coverage(repeats: u32, truth: f64, mut interval: impl FnMut() -> Option<Interval>) -> f64 {
    let holds = |it: Interval| it.low <= truth && truth <= it.high;
    let held = (0..repeats).filter(|_| interval().is_some_and(holds)).count();
    held as f64 / f64::from(repeats)
}

#[test]
fn intervals_of_two_three_or_six_trials_cover_the_truth_as_often_as_they_claim() {
    for trials in [2, 3, 6, 20] {
        let mut draws = Draws::new(trials as u64);
        let found = coverage(4000, 0.0, || interval_of_mean(&draws.normals(trials)));
        assert!((0.93..=0.97).contains(&found), "{found} of the means of {trials} trials");
        let rates = |draws: &mut Draws, rate: f64| -> Vec<f64> {
            draws.normals(trials).iter().map(|it| rate * (0.05 * it).exp()).collect()
        };
        let found = coverage(4000, 4.0, || {
            interval_of_ratio(&rates(&mut draws, 50.0), &rates(&mut draws, 200.0))
        });
        assert!((0.93..=0.97).contains(&found), "{found} of the speed-ups of {trials} trials");
    }
}

#[test]
fn intervals_of_one_run_know_that_its_requests_depend_on_each_other() {
    let truth = 10.0 * 0.125_f64.exp();
    for memory in [0.0, 0.9, 0.98] {
        let mut draws = Draws::new(1);
        let found = coverage(3000, truth, || {
            Some(Estimate::of(&draws.slow_moments(3000, memory), mean)?.interval())
        });
        assert!((0.93..=0.97).contains(&found), "{found} with a memory of {memory}");
        // A method that assumes independent requests is wrong most of the time.
        let naive = coverage(100, truth, || interval_of_mean(&draws.slow_moments(3000, memory)));
        assert!(memory == 0.0 || naive < 0.6, "{naive} with a memory of {memory}");
    }
}

#[test]
fn runs_of_the_same_service_are_seldom_called_different() {
    let mut draws = Draws::new(7);
    let mut run = |memory: f64, shift: f64| {
        let mut group = Group::default();
        for latency in draws.slow_moments(2000, memory) {
            // The slowest fail, so that failures come in bursts as well.
            let outcome = Outcome::Answered(if latency > 27.0 { 503 } else { 200 });
            group.push(latency + shift, outcome);
        }
        Groups::from([("load".to_owned(), group)])
    };
    for memory in [0.0, 0.9, 0.98] {
        let differ = |found: &[client::compare::Difference]| found[0].finding.is_difference();
        let alarms = (0..400).filter(|_| differ(&compare(&run(memory, 0.0), &run(memory, 0.0))));
        let alarms = alarms.count();
        assert!(alarms <= 20, "{alarms} of 400 pairs with a memory of {memory}");
        let seen = (0..50).filter(|_| differ(&compare(&run(memory, 0.0), &run(memory, 9.0))));
        let seen = seen.count();
        assert!(seen >= 40, "{seen} of 50 real differences with a memory of {memory}");
    }
}

#[test]
fn a_line_needs_two_places_and_its_interval_holds_the_slope_of_the_noise_free_line() {
    assert_eq!(Line::through(&[]), None);
    assert_eq!(Line::through(&[(1.0, 2.0), (1.0, 3.0)]), None);
    let xs = [0.0, 1.0, 5.0];
    let around = |x: f64| (0..25).map(|i| 3.0 + 2.0 * x + f64::from(i % 5) - 2.0).collect();
    let groups = xs.map(around);
    let (line, interval) = line_of_medians(&xs, &groups, 1).unwrap();
    assert!((line.base - 3.0).abs() < 1e-9 && (line.slope - 2.0).abs() < 1e-9);
    assert!(interval.low < 2.0 && 2.0 < interval.high && interval.high - interval.low < 1.0);
    // Nineteen values are too few for a median.
    let few = [&groups[0][..], &groups[1][..19], &groups[2][..19]].map(<[f64]>::to_vec);
    assert!(line_of_medians(&xs, &few, 1).is_none());
}

#[test]
fn blocks_make_the_interval_of_a_series_with_memory_wider() {
    // Runs of a hundred equal values: neighbours add no information.
    let level = |i: u32| f64::from((i / 100).wrapping_mul(2_654_435_761) % 97);
    let series: Vec<f64> = (0..10_000).map(level).collect();
    let width = |interval: Interval| interval.high - interval.low;
    let alone = width(bootstrap(&series, mean, 1).unwrap());
    let in_blocks = width(bootstrap_blocks(&series, mean, 1).unwrap());
    assert!(in_blocks > 4.0 * alone, "{in_blocks} against {alone}");
    assert_eq!(bootstrap_blocks(&[1.0], mean, 1), None);
}
