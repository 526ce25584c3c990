//! The result of a load run: what is printed and what stands in `summary.json`.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::verdict::{self, Rules, Verdict};
use crate::driver::Tally;
use crate::experiment::Trial;
use crate::report::{Table, errors, number};
use crate::stats::{Interval, wilson};

/// Quantiles of a time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many values.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 % are smaller.
    pub p90: f64,
    /// 95 % are smaller.
    pub p95: f64,
    /// 99 % are smaller.
    pub p99: f64,
    /// 99.9 % are smaller; nothing if there are too few values to say.
    pub p999: Option<f64>,
    /// The largest.
    pub max: f64,
}

impl Quantiles {
    /// Of a histogram in nanoseconds.
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |q: f64| histogram.value_at_quantile(q) as f64 / 1e6;
        let is_sound = histogram.len() as f64 >= verdict::samples_for(0.999);
        Self {
            count: histogram.len(),
            mean: histogram.mean() / 1e6,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: is_sound.then(|| at(0.999)),
            max: if histogram.is_empty() { 0.0 } else { histogram.max() as f64 / 1e6 },
        }
    }
}

/// How many answers had the expected label.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Accuracy {
    /// Answers that were compared.
    pub checked: u64,
    /// Answers that were right.
    pub correct: u64,
    /// Share that was right, with its 95 % interval.
    pub share: f64,
    /// The 95 % interval of the share.
    pub interval: Interval,
}

/// The result of a load run.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Requests a second that were asked for; nothing for a closed loop.
    pub offered_rate: Option<f64>,
    /// Successful answers a second.
    pub throughput: f64,
    /// Measured requests.
    pub requests: u64,
    /// How they ended, by status or failure.
    pub outcomes: BTreeMap<String, u64>,
    /// Failures in one line.
    pub errors: String,
    /// From the scheduled instant to the last byte (ms).
    pub latency_ms: Quantiles,
    /// From the real sending to the last byte (ms).
    pub service_time_ms: Quantiles,
    /// How late the generator was (ms).
    pub scheduling_error_ms: Quantiles,
    /// The worker's own stages (ms), if it stated them.
    pub stages_ms: BTreeMap<String, Quantiles>,
    /// Successful answers by endpoint.
    pub endpoints: BTreeMap<String, u64>,
    /// Accuracy, if labels were known.
    pub accuracy: Option<Accuracy>,
    /// Whether all this means anything.
    pub verdict: Verdict,
}

impl Summary {
    /// Condenses a tally.
    pub fn new(trial: &Trial, tally: &Tally, interrupted: bool, rules: &Rules) -> Self {
        let count = |(name, n): (String, &u64)| (name, *n);
        Self {
            offered_rate: trial.arrivals.offered_rate(),
            throughput: tally.throughput(),
            requests: tally.requests(),
            outcomes: tally.outcomes.iter().map(|(o, n)| count((o.to_string(), n))).collect(),
            errors: errors(&tally.outcomes),
            latency_ms: Quantiles::of(&tally.latency),
            service_time_ms: Quantiles::of(&tally.service_time),
            scheduling_error_ms: Quantiles::of(&tally.scheduling_error),
            stages_ms: tally
                .stages
                .iter()
                .map(|(stage, times)| ((*stage).to_owned(), Quantiles::of(times)))
                .collect(),
            endpoints: tally.endpoints.iter().map(|(e, n)| count((e.to_string(), n))).collect(),
            accuracy: (tally.checked > 0).then(|| Accuracy {
                checked: tally.checked,
                correct: tally.correct,
                share: tally.correct as f64 / tally.checked as f64,
                interval: wilson(tally.correct, tally.checked),
            }),
            verdict: verdict::judge(trial, tally, interrupted, rules),
        }
    }

    fn times(&self) -> Table {
        let mut table = Table::new(&["ms", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"]);
        let mut push = |name: &str, q: &Quantiles| {
            let values = [q.mean, q.p50, q.p90, q.p95, q.p99].map(Some);
            let cells = values.into_iter().chain([q.p999, Some(q.max)]).map(number);
            table.push(std::iter::once(name.to_owned()).chain(cells).collect());
        };
        push("latency", &self.latency_ms);
        push("service time", &self.service_time_ms);
        push("scheduling error", &self.scheduling_error_ms);
        for (stage, times) in &self.stages_ms {
            push(&format!("worker: {stage}"), times);
        }
        table
    }

    fn shares(&self) -> Table {
        let mut table = Table::new(&["endpoint", "answers", "share"]);
        let all: u64 = self.endpoints.values().sum();
        for (endpoint, count) in &self.endpoints {
            let share = format!("{:.1} %", 100.0 * *count as f64 / all as f64);
            table.push(vec![endpoint.clone(), count.to_string(), share]);
        }
        table
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offered = self.offered_rate.map_or_else(
            || "closed loop".to_owned(),
            |rate| format!("offered {}/s", number(Some(rate))),
        );
        writeln!(
            f,
            "{} requests, {offered}, achieved {}/s, errors {}\n",
            self.requests,
            number(Some(self.throughput)),
            self.errors
        )?;
        writeln!(f, "{}", self.times())?;
        if !self.endpoints.is_empty() {
            writeln!(f, "{}", self.shares())?;
        }
        if let Some(Accuracy { checked, correct, share, interval }) = &self.accuracy {
            writeln!(
                f,
                "accuracy {:.1} % ({correct} of {checked}; 95 % interval {:.1} to {:.1})\n",
                share * 100.0,
                interval.low * 100.0,
                interval.high * 100.0
            )?;
        }
        writeln!(f, "{}", if self.verdict.is_valid { "VALID" } else { "INVALID" })?;
        for reason in &self.verdict.reasons {
            writeln!(f, "  {reason}")?;
        }
        Ok(())
    }
}
