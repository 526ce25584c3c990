//! The result of a load run, as printed and as written to `summary.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::rules::Rules;
use super::threshold::{Checked, State};
use super::verdict::{self, Cause, Verdict};
use super::workers::WorkerCount;
use crate::driver::{Bound, Generator, Moment, Run, Tally, Times, is_least};
use crate::error;
use crate::experiment::Trial;
use crate::report::{Table, bound, errors, number};
use crate::stats::{Interval, Tried, samples_for, wilson_of_groups};

/// Quantiles of a time in milliseconds; each is left out if there are too few values for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quantiles {
    /// Number of requests that the quantiles cover.
    pub count: u64,
    /// How many of these were given up: their times are lower bounds.
    pub unanswered: u64,
    /// Figures that are lower bounds, for that reason or because times of more than an hour are
    /// counted as one hour.
    pub at_least: Vec<&'static str>,
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// The 50th percentile.
    pub p50: Option<f64>,
    /// 90 % are smaller.
    pub p90: Option<f64>,
    /// 95 % are smaller.
    pub p95: Option<f64>,
    /// 99 % are smaller.
    pub p99: Option<f64>,
    /// 99.9 % are smaller.
    pub p999: Option<f64>,
    /// The longest time.
    pub max: Option<f64>,
}

const FIGURES: [&str; 7] = ["mean", "p50", "p90", "p95", "p99", "p999", "max"];

impl Quantiles {
    fn of(times: &Times) -> Self {
        let mean = (!times.is_empty()).then(|| times.mean() / 1e6);
        let at = |q| is_sound(times.len(), q).then(|| times.quantile(q)).flatten();
        let [p50, p90, p95, p99, p999] = [0.5, 0.9, 0.95, 0.99, 0.999].map(at);
        let bounds = [p50, p90, p95, p99, p999, times.max()];
        let is_least = |(name, bound): (&'static str, Option<Bound>)| {
            bound.is_some_and(|bound| bound.at_least).then_some(name)
        };
        let of_mean = times.has_least().then_some(FIGURES[0]);
        let of_bounds = FIGURES[1..].iter().copied().zip(bounds).filter_map(is_least);
        let at_least = of_mean.into_iter().chain(of_bounds).collect();
        let [p50, p90, p95, p99, p999, max] =
            bounds.map(|bound| bound.map(|bound| bound.nanos as f64 / 1e6));
        let values = [mean, p50, p90, p95, p99, p999, max];
        Self::from_values(times.len(), times.unanswered(), at_least, values)
    }

    /// From a histogram in nanoseconds of times that all ended.
    fn of_ended(histogram: &Histogram<u64>) -> Self {
        let at = |q| is_sound(histogram.len(), q).then(|| histogram.value_at_quantile(q));
        let max = (!histogram.is_empty()).then(|| histogram.max());
        let bounds = [at(0.5), at(0.9), at(0.95), at(0.99), at(0.999), max];
        // The mean includes the longest of them, and is a lower bound if that is.
        let named = FIGURES.into_iter().zip(std::iter::once(max).chain(bounds));
        let at_least = named.filter(|(_, nanos)| nanos.is_some_and(is_least)).map(|(name, _)| name);
        let mean = max.map(|_| histogram.mean() / 1e6);
        let [p50, p90, p95, p99, p999, max] =
            bounds.map(|nanos| nanos.map(|nanos| nanos as f64 / 1e6));
        let values = [mean, p50, p90, p95, p99, p999, max];
        Self::from_values(histogram.len(), 0, at_least.collect(), values)
    }

    fn from_values(
        count: u64,
        unanswered: u64,
        at_least: Vec<&'static str>,
        [mean, p50, p90, p95, p99, p999, max]: [Option<f64>; 7],
    ) -> Self {
        Self { count, unanswered, at_least, mean, p50, p90, p95, p99, p999, max }
    }

    /// As cells of a table, in the order of the fields.
    fn cells(&self) -> impl Iterator<Item = String> {
        let values = [self.mean, self.p50, self.p90, self.p95, self.p99, self.p999, self.max];
        FIGURES
            .into_iter()
            .zip(values)
            .map(|(name, value)| bound(value, self.at_least.contains(&name)))
    }
}

fn is_sound(count: u64, q: f64) -> bool {
    count as f64 >= samples_for(q)
}

/// How many answers had the expected label.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Accuracy {
    /// Answers that were compared.
    pub checked: u64,
    /// Number of different requests that they answered.
    pub items: usize,
    /// Answers that were right.
    pub correct: u64,
    /// Share that was right.
    pub share: f64,
    /// The 95 % interval of the share, for requests like these: repeating one adds nothing.
    pub interval: Interval,
}

impl Accuracy {
    fn of(tally: &Tally) -> Option<Self> {
        let Tried { successes: correct, count: checked } = tally.accuracy()?;
        Some(Self {
            checked,
            items: tally.labels.iter().filter(|item| item.count > 0).count(),
            correct,
            share: correct as f64 / checked as f64,
            interval: wilson_of_groups(&tally.labels),
        })
    }
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { checked, items, correct, share, interval } = self;
        let [share, low, high] = [*share, interval.low, interval.high].map(|it| it * 100.0);
        write!(
            f,
            "accuracy {share:.1} % ({correct} of {checked} answers to {items} different requests; 95 % \
             interval {low:.1} to {high:.1})"
        )
    }
}

/// The schema that `summary.json` names.
const SCHEMA: &str = "imagefleet-load-summary";
/// Grows whenever a figure changes its name or its meaning, but not for new figures.
const VERSION: u32 = 1;

/// The result of a load run.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Name of the schema, which is `docs/load-summary.schema.json`.
    pub schema: &'static str,
    /// Version of the schema; it grows when a field changes its meaning or is removed.
    pub version: u32,
    /// Requests per second that were asked for; `None` for a closed loop.
    pub asked_rate: Option<f64>,
    /// Requests that were due per second of the measured time.
    pub offered_rate: f64,
    /// Of these, the ones that were answered as expected: with 2xx, unless told otherwise.
    pub throughput: f64,
    /// How long the measured time was (s).
    pub measured_seconds: f64,
    /// How long it was planned to be (s).
    pub planned_seconds: Option<f64>,
    /// Average number of unanswered requests during the measured time.
    pub in_flight: f64,
    /// How many requests were measured.
    pub requests: u64,
    /// How they ended, by status or failure.
    pub outcomes: BTreeMap<String, u64>,
    /// Failures in one line.
    pub errors: String,
    /// Requests that were given up.
    pub unanswered: u64,
    /// From the scheduled instant to the end, of all requests (ms).
    pub latency_ms: Quantiles,
    /// The same of requests that were answered as expected (ms).
    pub succeeded_ms: Quantiles,
    /// The same of all others (ms).
    pub failed_ms: Quantiles,
    /// From the actual sending to the end, of all requests that were sent (ms).
    pub service_time_ms: Quantiles,
    /// How late the generator was (ms).
    pub scheduling_error_ms: Quantiles,
    /// The share of the measured time in which the busiest sender thread was computing, if the
    /// system reports it.
    pub sender_busy: Option<f64>,
    /// The worker's own stages (ms), if it reported them.
    pub stages_ms: BTreeMap<String, Quantiles>,
    /// Successful answers by endpoint.
    pub endpoints: BTreeMap<String, u64>,
    /// The agents that sent the requests, if any.
    pub generators: Vec<Generator>,
    /// Accuracy, if labels were known.
    pub accuracy: Option<Accuracy>,
    /// Ended by a signal before its time.
    pub interrupted: bool,
    /// The course of the run, part by part, warm-up included.
    pub timeline: Vec<Moment>,
    /// How many workers the balancer reported, if the rate changed and it reports them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<WorkerCount>,
    /// Conditions on which the run fails.
    pub thresholds: Vec<Checked>,
    /// Whether the figures mean what they say.
    pub verdict: Verdict,
}

impl Summary {
    /// Sums up a finished run and judges it.
    pub fn new(trial: &Trial, run: &Run, interrupted: bool, rules: &Rules) -> Self {
        let tally = &run.tally;
        let count = |(name, n): (String, &u64)| (name, *n);
        let seconds = |time: Duration| time.as_secs_f64();
        let planned = trial.duration.map(|time| time.saturating_sub(trial.warm_up));
        Self {
            schema: SCHEMA,
            version: VERSION,
            asked_rate: trial.arrivals.offered_rate(),
            offered_rate: tally.offered_rate(),
            throughput: tally.throughput(),
            measured_seconds: tally.window().map_or(0.0, |window| seconds(window.length())),
            planned_seconds: planned.map(seconds),
            in_flight: tally.in_flight(),
            requests: tally.requests(),
            outcomes: tally.outcomes.iter().map(|(o, n)| count((o.to_string(), n))).collect(),
            errors: errors(&tally.outcomes),
            unanswered: tally.latency.unanswered(),
            latency_ms: Quantiles::of(&tally.latency),
            succeeded_ms: Quantiles::of(&tally.succeeded),
            failed_ms: Quantiles::of(&tally.failed),
            service_time_ms: Quantiles::of(&tally.service_time),
            scheduling_error_ms: Quantiles::of_ended(&tally.scheduling_error),
            sender_busy: tally.sender_busy,
            stages_ms: tally
                .stages
                .iter()
                .map(|(stage, times)| ((*stage).to_owned(), Quantiles::of_ended(times)))
                .collect(),
            endpoints: tally.endpoints.iter().map(|(e, n)| count((e.to_string(), n))).collect(),
            generators: run.generators.clone(),
            accuracy: Accuracy::of(tally),
            interrupted,
            timeline: tally.timeline.as_ref().map_or_else(Vec::new, |it| it.moments(1.0)),
            workers: Vec::new(),
            thresholds: rules.fail.iter().map(|condition| condition.check(tally)).collect(),
            verdict: verdict::judge(trial, run, rules),
        }
    }

    /// The exit status of the program. If the generator fell short, the thresholds say nothing; if
    /// the service fell short, they are what the user wants to know about.
    pub fn exit_status(&self) -> u8 {
        let is_crossed = self.thresholds.iter().any(|checked| checked.state == State::Crossed);
        let reasons = &self.verdict.reasons;
        if self.requests > 0 && self.succeeded_ms.count == 0 && !self.interrupted {
            error::NO_SERVICE
        } else if reasons.iter().any(|reason| reason.cause != Cause::Service) {
            error::INVALID
        } else if is_crossed {
            error::CROSSED
        } else if self.verdict.is_valid {
            0
        } else {
            error::INVALID
        }
    }
}

/// A table of times by their quantiles.
pub(super) fn times(summary: &Summary) -> Table {
    let mut table = Table::new(&["ms", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"]);
    let mut push = |name: &str, q: &Quantiles| {
        table.push(std::iter::once(name.to_owned()).chain(q.cells()).collect());
    };
    push("latency", &summary.latency_ms);
    if summary.failed_ms.count > 0 {
        push("  of successes", &summary.succeeded_ms);
        push("  of failures", &summary.failed_ms);
    }
    push("service time", &summary.service_time_ms);
    push("scheduling error", &summary.scheduling_error_ms);
    for (stage, times) in &summary.stages_ms {
        push(&format!("worker: {stage}"), times);
    }
    table
}

/// The run in one sentence: what was sent, and how it went.
pub(super) fn sentence(summary: &Summary) -> String {
    let figure = |value| number(Some(value));
    let planned = summary
        .planned_seconds
        .filter(|_| summary.interrupted)
        .map_or_else(String::new, |planned| format!(" of {} s, ended early", figure(planned)));
    let asked = summary
        .asked_rate
        .map_or_else(|| "closed loop".to_owned(), |rate| format!("asked {}/s", figure(rate)));
    format!(
        "{} requests in {} s{planned}: {asked}, offered {}/s, achieved {}/s, {} in flight",
        summary.requests,
        figure(summary.measured_seconds),
        figure(summary.offered_rate),
        figure(summary.throughput),
        figure(summary.in_flight)
    )
}

/// A table of answers by endpoint.
pub(super) fn shares(summary: &Summary) -> Table {
    let mut table = Table::new(&["endpoint", "answers", "share"]);
    let all: u64 = summary.endpoints.values().sum();
    for (endpoint, count) in &summary.endpoints {
        let share = format!("{:.1} %", 100.0 * *count as f64 / all as f64);
        table.push(vec![endpoint.clone(), count.to_string(), share]);
    }
    table
}

/// A table of requests by agent.
pub(super) fn generators(summary: &Summary) -> Table {
    let mut table = Table::new(&["agent", "requests", "clock ± ms"]);
    for Generator { address, requests, clock_error_ms, .. } in &summary.generators {
        let requests = requests.map_or_else(|| "lost".to_owned(), |count| count.to_string());
        table.push(vec![address.clone(), requests, number(Some(*clock_error_ms))]);
    }
    table
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", sentence(self))?;
        writeln!(f, "errors {}, unanswered {}\n", self.errors, self.unanswered)?;
        writeln!(f, "{}", times(self))?;
        if !self.endpoints.is_empty() {
            writeln!(f, "{}", shares(self))?;
        }
        if !self.generators.is_empty() {
            writeln!(f, "{}", generators(self))?;
        }
        if let Some(accuracy) = &self.accuracy {
            writeln!(f, "{accuracy}\n")?;
        }
        for checked in &self.thresholds {
            writeln!(f, "{checked}")?;
        }
        write!(f, "{}", self.verdict)
    }
}
