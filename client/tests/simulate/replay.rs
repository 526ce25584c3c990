//! Simulations of measured runs.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Parser as _;
use fleet::policy::Kind;
use rand::rngs::ChaCha12Rng;
use rand::{RngExt as _, SeedableRng as _};

/// A run of one worker with evenly distributed gaps and costs: 88 % busy.
fn recorded_run() -> String {
    let mut text = String::from(
        "warm_up,scheduled_us,sent_us,done_us,latency_ms,service_time_ms,outcome,endpoint,worker_ms,queue_ms\n",
    );
    let (mut now, mut free) = (0, 0);
    for number in 0..2000_u32 {
        now += number * 7919 % 25_000;
        let cost = 2000 + number * 104_729 % 18_000;
        let begins = free.max(now);
        free = begins + cost;
        let [latency, cost, queue] =
            [free - now, cost, begins - now].map(|micros| f64::from(micros) / 1e3);
        writeln!(text, "false,{now},{now},{free},{latency},{latency},200,w1,{cost},{queue}")
            .expect("a string takes any text");
    }
    text
}

/// Runs `client simulate` with a folder containing `samples` as the value of its last flag.
fn simulate(samples: &str, words: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("samples.csv"), samples).expect("written");
    let path = folder.path().to_str().expect("utf-8");
    let words = ["client", "simulate"].iter().chain(words).chain([&path]);
    let cli = client::cli::Cli::try_parse_from(words).expect("flags");
    let mut out = Vec::new();
    client::run(&cli, &mut out).expect("simulated");
    String::from_utf8(out).expect("text")
}

/// The median and two high quantiles of a run, with those of its simulations.
fn held(samples: &str, workers: &str, policy: &str) -> Vec<serde_json::Value> {
    let flags = ["--workers", workers, "--policy", policy, "--json", "--against"];
    let lines: Vec<_> = serde_json::from_str(&simulate(samples, &flags)).expect("JSON");
    assert_eq!(lines.len(), 3, "one for each quantile");
    lines
}

#[test]
fn a_run_of_one_worker_is_found_again_when_it_is_held_against_itself() {
    for line in held(&recorded_run(), "1", "p2c") {
        assert!(line["error"].as_f64().unwrap().abs() < 0.01, "{line}");
        assert!((line["busy"].as_f64().unwrap() - 0.88).abs() < 0.03, "{line}");
    }
}

/// Speed of worker `number` in two-second period `part`: a quarter as fast in a quarter of them.
fn speed(number: u64, part: u64) -> f64 {
    let draw = (part * 4 + number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    if draw.is_multiple_of(4) { 0.25 } else { 1.0 }
}

/// When a worker completes `work` that it begins at `now`.
fn done(number: u64, mut now: f64, mut work: f64) -> f64 {
    loop {
        let part = Duration::from_secs_f64(now).as_secs() / 2;
        let (speed, end) = (speed(number, part), (part + 1) as f64 * 2.0);
        if work <= speed * (end - now) {
            return now + work / speed;
        }
        work -= speed * (end - now);
        now = end;
    }
}

/// A run of four workers picked by `policy`. `end` returns when a worker completes a request, given
/// the number of the worker, when it begins and how long it had been idle before.
fn run_of_four(
    policy: Kind,
    requests: u32,
    rate: f64,
    mut end: impl FnMut(usize, f64, f64) -> f64,
) -> String {
    let mut text = String::from(
        "warm_up,scheduled_us,sent_us,done_us,latency_ms,service_time_ms,outcome,endpoint,worker_ms,queue_ms\n",
    );
    let mut rng = ChaCha12Rng::seed_from_u64(5);
    let mut ends: [Vec<f64>; 4] = Default::default();
    let mut free = [0.0_f64; 4];
    let mut now = 0.0_f64;
    for _ in 0..requests {
        now += -(1.0 - rng.random::<f64>()).ln() / rate;
        for ends in &mut ends {
            ends.retain(|end| *end > now);
        }
        let one = rng.random_range(0..4_usize);
        let other = (one + rng.random_range(1..4_usize)) % 4;
        let is_longer = ends[one].len() > ends[other].len();
        let picked = if policy == Kind::P2c && is_longer { other } else { one };
        let begins = now.max(free[picked]);
        let end = end(picked, begins, now - free[picked]);
        free[picked] = end;
        ends[picked].push(end);
        let [at, end_us] = [now, end].map(|it| (it * 1e6).round());
        let [latency, cost, queue] = [end - now, end - begins, begins - now].map(|it| it * 1e3);
        writeln!(text, "false,{at},{at},{end_us},{latency},{latency},200,w{picked},{cost},{queue}")
            .expect("a string takes any text");
    }
    text
}

/// A run of four workers, each of which is occasionally slow for a while.
fn run_with_slow_moments(policy: Kind) -> String {
    let mut rng = ChaCha12Rng::seed_from_u64(6);
    run_of_four(policy, 5000, 60.0, |worker, begins, _| {
        done(worker as u64, begins, rng.random_range(0.018..0.022))
    })
}

/// A run of four workers that save a third of a request after being idle, as with a CPU quota.
fn run_with_rests(policy: Kind) -> String {
    let mut rng = ChaCha12Rng::seed_from_u64(7);
    run_of_four(policy, 30_000, 105.0, |_, begins, rest| {
        let saved = 0.012 * (rest / 0.01).clamp(0.0, 1.0);
        begins + rng.random_range(0.028..0.036) - saved
    })
}

#[test]
fn what_workers_save_after_a_rest_goes_with_the_rest_and_not_with_the_request() {
    for (policy, name) in [(Kind::P2c, "p2c"), (Kind::Random, "random")] {
        for line in held(&run_with_rests(policy), "4", name) {
            assert!(line["error"].as_f64().unwrap().abs() < 0.1, "{line}");
        }
    }
}

#[test]
fn a_prediction_says_how_far_off_it_is_for_the_run_that_it_is_made_of() {
    let flags = ["--requests", "20000", "--policy", "p2c", "--service-from"];
    let text = simulate(&run_with_slow_moments(Kind::P2c), &flags);
    assert!(text.contains("p2c of 4 workers, held against the run"), "{text}");
    assert!(["p50 ", "p95 ", "p99 "].iter().all(|it| text.contains(it)), "{text}");
}
