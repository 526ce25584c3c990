//! The capacity of a number of servers in answers per second, and how it scales.
//!
//! A fully loaded server answers a whole batch at once. A plain count over a few seconds then
//! depends on whether it happens to include one more batch, and the last answers of a closed loop
//! come from servers that run dry one by one. A trial's rate is therefore the slope of a line
//! fitted to its count of answers over time, while users were still sending.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::driver::Run;
use crate::stats::{Interval, Line, interval_of_ratio, mean};

/// Answers per second in each trial, by number of servers.
pub type Throughputs = BTreeMap<u32, Vec<f64>>;

/// The capacity of a number of servers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Capacity {
    /// Endpoints that took part.
    pub servers: u32,
    /// Answers per second, mean of the trials.
    pub throughput: f64,
    /// Throughput as a multiple of that of the smallest number of servers.
    pub speed_up: f64,
    /// 95 % interval of the speed-up; `None` for a single trial, and for the smallest number of
    /// servers.
    pub speed_up_interval: Option<Interval>,
    /// The speed-up if coordinating servers cost nothing; `None` where they share processors, since
    /// it cannot be expected there.
    pub ideal: Option<f64>,
    /// Share of this machine's processors that was busy during the trials, if known.
    #[serde(default)]
    pub machine_busy: Option<f64>,
    /// Share of the time that this client's sender thread was busy, at most, if known.
    #[serde(default)]
    pub sender_busy: Option<f64>,
    /// Why a trial says more about this client than about the servers, per trial.
    #[serde(default)]
    pub generator: Vec<String>,
}

impl Capacity {
    /// One line per number of servers that answered anything, from the throughput of its trials.
    /// `is_apart` tells whether each server has processors, or a share of them, to itself.
    pub fn all(trials: &Throughputs, is_apart: bool) -> Vec<Self> {
        let measured = || trials.iter().filter(|(_, t)| mean(t).is_some_and(|mean| mean > 0.0));
        let Some((least, base)) = measured().next() else { return Vec::new() };
        let line = |(servers, throughputs): (&u32, &Vec<f64>)| {
            let throughput = mean(throughputs)?;
            let interval = interval_of_ratio(base, throughputs);
            Some(Self {
                servers: *servers,
                throughput,
                speed_up: throughput / mean(base)?,
                speed_up_interval: interval.filter(|_| servers != least),
                ideal: is_apart.then(|| f64::from(*servers) / f64::from(*least)),
                machine_busy: None,
                sender_busy: None,
                generator: Vec::new(),
            })
        };
        measured().filter_map(line).collect()
    }
}

/// Answers per second in a trial that kept every server busy.
pub(super) fn rate(run: &Run) -> f64 {
    let Some(window) = run.tally.window() else { return 0.0 };
    let answered = || run.samples.iter().filter(|sample| sample.outcome.is_success());
    let mut answers: Vec<Duration> = answered()
        .map(|sample| sample.done)
        .filter(|done| (window.start..=window.end).contains(done))
        .collect();
    answers.sort_unstable();
    // Only some requests of a long trial are kept as samples: scale up to those that were counted.
    let kept = answered().filter(|sample| sample.is_measured()).count();
    let each = if kept == 0 { 1.0 } else { run.tally.successes() as f64 / kept as f64 };
    // Too few answers, or answers that came together, define no line: fall back to the plain count.
    // Two batches of a steady service are at least a third of the window apart.
    let apart =
        answers.last().zip(answers.first()).map(|(last, first)| last.saturating_sub(*first));
    let slope = slope(&answers).filter(|_| apart.is_some_and(|apart| apart > window.length() / 4));
    slope.map_or_else(|| run.tally.throughput(), |slope| slope * each)
}

/// How fast the count grows; `None` unless there are two distinct instants.
fn slope(answers: &[Duration]) -> Option<f64> {
    let counted = answers.iter().zip(0_u32..).map(|(at, n)| (at.as_secs_f64(), f64::from(n)));
    Line::through(&counted.collect::<Vec<_>>()).map(|line| line.slope)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Capacity, Throughputs, rate, slope};
    use crate::driver::{Run, Tally};
    use crate::sample::{Outcome, Sample};

    #[test]
    fn servers_that_share_processors_have_no_ideal() {
        let trials = Throughputs::from([(1, vec![50.0, 51.0]), (4, vec![60.0, 61.0])]);
        let ideals =
            |is_apart| Capacity::all(&trials, is_apart).iter().map(|it| it.ideal).collect();
        let (shared, apart): (Vec<_>, Vec<_>) = (ideals(false), ideals(true));
        assert_eq!(shared, [None, None]);
        assert_eq!(apart, [Some(1.0), Some(4.0)]);
    }

    /// Batches of 32, one every 0.8 s: 40 per second, wherever the window begins.
    #[test]
    fn batches_that_fall_into_the_window_or_not_change_little() {
        for batches in 5_u64..9 {
            let answers: Vec<Duration> =
                (0..batches * 32).map(|n| Duration::from_millis(n / 32 * 800)).collect();
            let rate = slope(&answers).expect("several instants");
            assert!((rate - 40.0).abs() < 1e-6, "{batches} batches: {rate}");
        }
    }

    /// The whole run, and the same with one sample in eight.
    #[test]
    fn a_rate_is_that_of_all_requests_where_only_some_are_kept_one_by_one() {
        let mut tally = Tally::new();
        let samples: Vec<Sample> = (0..4000).map(sample).collect();
        for sample in &samples {
            tally.record(sample);
        }
        let rate_of = |every: u64| {
            let kept = samples.iter().filter(|it| it.index % every == 0).cloned().collect();
            let tally = tally.clone();
            rate(&Run { tally, samples: kept, cap: None, generators: Vec::new() })
        };
        let late = |it: &Sample| Sample { done: it.done + Duration::from_secs(1), ..it.clone() };
        let early = samples.iter().filter(|it| it.warm_up).map(late).collect();
        let mut slow = Tally::new();
        slow.record(&Sample { outcome: Outcome::Answered(503), ..sample(1000) });
        slow.record(&Sample { outcome: Outcome::Answered(503), ..sample(3000) });
        let of_warm_up = Run { tally: slow, samples: early, cap: None, generators: Vec::new() };
        assert!(rate(&of_warm_up) > 900.0, "answers to requests of the warm-up count");
        let (whole, thinned) = (rate_of(1), rate_of(8));
        assert!((whole / 1000.0 - 1.0).abs() < 0.01, "{whole}");
        assert!((thinned / whole - 1.0).abs() < 0.01, "{thinned} of {whole}");
    }

    /// One of 1,000 requests per second, answered after 5 ms. The first second does not count.
    fn sample(index: u64) -> Sample {
        let (scheduled, latency) = (Duration::from_millis(index), Duration::from_millis(5));
        Sample { warm_up: index < 1000, ..Sample::answered(index, scheduled, latency) }
    }

    /// A client that was held up reads everything that arrived meanwhile within a few microseconds.
    #[test]
    fn answers_that_came_together_are_no_rate_of_their_own() {
        for together in 2..50 {
            let took = |index| Duration::from_micros(1_500_000 + 5 * index);
            let held = |index| Sample {
                warm_up: false,
                ..Sample::answered(index, Duration::from_secs(1), took(index))
            };
            let samples: Vec<Sample> = (0..together).map(held).collect();
            let mut tally = Tally::new();
            tally.record(&sample(1000));
            for sample in samples.iter().chain([&sample(2999)]) {
                tally.record(sample);
            }
            let rate = rate(&Run { tally, samples, cap: None, generators: Vec::new() });
            assert!(rate < together as f64 + 3.0, "{together} answers in 2 s: {rate}/s");
        }
    }

    #[test]
    fn one_instant_has_no_rate() {
        assert_eq!(slope(&[]), None);
        assert_eq!(slope(&[Duration::from_secs(1); 3]), None);
    }
}
