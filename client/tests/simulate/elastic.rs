//! Fleets whose number of workers follows the load.

use std::time::Duration;

use client::simulate::Scenario;
use client::simulate::scenario::{Elastic, Scaling};
use fleet::policy::Kind;

use crate::{SERVICE_RATE, fleet, run};

/// Arrivals at equal gaps in consecutive parts, each with a duration in seconds and a
/// load in workers.
fn staged(parts: &[(u64, f64)]) -> Vec<u64> {
    let (mut start, mut instants) = (0.0, Vec::new());
    for (seconds, workers) in parts {
        let end = start + *seconds as f64;
        let gap = 1.0 / (workers * SERVICE_RATE);
        let mut at = start;
        while at < end {
            instants.push(Duration::from_secs_f64(at));
            at += gap;
        }
        start = end;
    }
    let nanos = |at: Duration| u64::try_from(at.as_nanos()).expect("minutes");
    instants.into_iter().map(nanos).collect()
}

#[test]
fn a_balancer_that_follows_its_load_starts_workers_for_a_step_and_stops_them_after_it() {
    let instants = staged(&[(60, 0.2), (60, 3.0), (180, 0.2)]);
    let range = "1..8".parse().expect("a range");
    let elastic = Elastic {
        range,
        start_up: Duration::from_secs(1),
        shrink_after: Duration::from_secs(30),
        latency: None,
    };
    let scenario = Scenario {
        elastic: Some(elastic),
        requests: instants.len() as u64,
        instants: Some(instants.into()),
        lasts: Duration::from_mins(5),
        warm_up: 0.0,
        policy: Kind::P2c,
        ..fleet(1, 0.2)
    };
    let outcome = run(&scenario);
    assert_eq!(outcome.errors(), 0);
    let changes = &outcome.changes;
    let grown: Vec<_> = changes.iter().filter(|change| change.to > change.from).collect();
    assert!((60.5..62.5).contains(&grown[0].at), "{grown:?}");
    assert!(grown.iter().all(|change| (60.0..75.0).contains(&change.at)), "{grown:?}");
    let most = changes.iter().map(|change| change.to).max();
    assert!((4..=8).contains(&most.unwrap_or_default()), "{changes:?}");
    let stopped: Vec<_> = changes.iter().filter(|change| change.to < change.from).collect();
    // Surplus workers are stopped after the calm time, and never those that the load needs.
    assert!(stopped.iter().all(|change| change.at >= 90.0), "{stopped:?}");
    let mut under_load = stopped.iter().filter(|change| change.at < 120.0);
    assert!(under_load.all(|change| change.to >= 5), "{stopped:?}");
    assert_eq!(stopped.last().map(|change| change.to), Some(1), "{changes:?}");
    assert!((1.2..5.0).contains(&outcome.mean_workers), "{}", outcome.mean_workers);
    assert_eq!(&run(&scenario).changes, changes, "the same seed, the same run");
}

#[test]
fn a_fleet_that_scales_grows_to_what_its_load_needs() {
    let scaling = Scaling {
        min: 2,
        max: 40,
        target: 0.6,
        every: Duration::from_secs(15),
        boot: Duration::from_mins(1),
    };
    // The work of 12 workers arrives at 2 workers; at 60 % utilisation, 20 are needed.
    let rate = 12.0 * SERVICE_RATE;
    let scenario = Scenario {
        scaling: Some(scaling),
        rate,
        policy: Kind::P2c,
        warm_up: 0.8,
        requests: 2_000_000,
        ..fleet(2, 0.5)
    };
    let outcome = run(&scenario);
    assert!((15.0..30.0).contains(&outcome.mean_workers), "{}", outcome.mean_workers);
    assert!(outcome.p99 < 0.2, "calm in the end: {}", outcome.p99);
    assert!(!outcome.is_overloaded, "{:?}", outcome.doubt);
    // Relative to the 40 workers that it may have.
    assert!((scenario.load() - 0.3).abs() < 1e-9, "{}", scenario.load());
}

#[test]
fn a_slow_worker_counts_as_one_of_the_largest_fleet() {
    let elastic = Elastic {
        range: "1..8".parse().expect("a range"),
        start_up: Duration::from_secs(1),
        shrink_after: Duration::from_secs(30),
        latency: None,
    };
    let scenario = Scenario {
        elastic: Some(elastic),
        slow: Some((1, 3.0)),
        rate: 4.0 * SERVICE_RATE,
        policy: Kind::P2c,
        requests: 100_000,
        ..fleet(1, 0.5)
    };
    // A load of 4 on a capacity of 7 1/3 workers.
    assert!((scenario.load() - 4.0 / (7.0 + 1.0 / 3.0)).abs() < 1e-9, "{}", scenario.load());
    let outcome = run(&scenario);
    assert!(!outcome.is_overloaded, "{:?}", outcome.doubt);
}
