//! The results of a grid of trials: one line per cell, with intervals that account for the trials.
//!
//! Requests of one trial are not independent (a queue has memory), so with several trials each
//! contributes one value, and the interval is Student's over these. A single trial is cut into long
//! batches, and its interval shows how noisy that trial was, not how the next one would turn out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::capacity::Capacity;
use crate::driver::Run;
use crate::report::{Style, Table, errors, milliseconds, shortfall};
use crate::stats::{
    Distribution, Estimate, Interval, LeastValues, Pick, Time, interval_of_mean, mean, sorted,
    sound_quantile,
};

/// The results for one number of servers at one rate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// Endpoints that took part.
    pub servers: u32,
    /// Mean wait between requests, in seconds.
    pub wait: f64,
    /// Offered requests per second.
    pub offered_rate: f64,
    /// Answers per second, mean of the trials.
    pub throughput: Option<f64>,
    /// 95 % interval of the throughput; `None` for a single trial.
    pub throughput_interval: Option<Interval>,
    /// Latencies in milliseconds of all requests of all trials, however they ended; `None` if no
    /// request succeeded.
    pub latency_ms: Option<Distribution>,
    /// 95 % interval of the mean latency.
    pub mean_interval: Option<Interval>,
    /// 95 % interval of the 95 % quantile.
    pub p95_interval: Option<Interval>,
    /// Number of trials behind the figures.
    pub trials: usize,
    /// Requests that failed, by class.
    pub errors: String,
    /// Why a trial says more about this client than about the servers, per trial.
    #[serde(default)]
    pub generator: Vec<String>,
}

impl Cell {
    /// Summarises the trials of a cell.
    pub fn new(servers: u32, wait: f64, runs: &[&Run]) -> Self {
        let by_trial: Vec<Vec<f64>> = runs.iter().map(|run| latencies(run)).collect();
        let p95 = |these: &[f64]| sound_quantile(&sorted(these), 0.95);
        let throughputs: Vec<f64> = runs.iter().map(|run| run.tally.throughput()).collect();
        let successes: u64 = runs.iter().map(|run| run.tally.successes()).sum();
        let mut outcomes = BTreeMap::new();
        for (outcome, count) in runs.iter().flat_map(|run| &run.tally.outcomes) {
            *outcomes.entry(*outcome).or_default() += count;
        }
        Self {
            servers,
            wait,
            offered_rate: 1.0 / wait,
            throughput: mean(&throughputs),
            throughput_interval: interval_of_mean(&throughputs).map(not_negative),
            latency_ms: Distribution::of_times(runs.iter().flat_map(|run| times(run)))
                .filter(|_| successes > 0),
            mean_interval: interval(&by_trial, mean),
            p95_interval: interval(&by_trial, p95),
            trials: runs.len(),
            errors: errors(&outcomes),
            generator: Vec::new(),
        }
    }
}

/// The possible part of an interval of a time or a rate, neither of which can be negative.
fn not_negative(interval: Interval) -> Interval {
    interval.within(0.0, f64::INFINITY)
}

/// The 95 % interval of `statistic`, which is a time: over trials if there are several, otherwise
/// over parts of the only one.
fn interval(by_trial: &[Vec<f64>], statistic: impl Fn(&[f64]) -> Option<f64>) -> Option<Interval> {
    let interval = match by_trial {
        [one] => Estimate::of(one, statistic)?.interval(),
        several => {
            let values: Option<Vec<f64>> = several.iter().map(|trial| statistic(trial)).collect();
            interval_of_mean(&values?)?
        }
    };
    Some(not_negative(interval))
}

fn latencies(run: &Run) -> Vec<f64> {
    times(run).map(|time| time.value).collect()
}

/// How long requests took (ms), or how long this client waited for those without an answer.
fn times(run: &Run) -> impl Iterator<Item = Time> {
    run.samples.iter().filter(|sample| sample.is_measured()).map(|sample| Time {
        value: milliseconds(sample.latency()),
        at_least: sample.outcome.is_unanswered(),
    })
}

/// The latency columns of the table.
const FIGURES: [(&str, Pick); 4] = [
    ("mean", |latency| Some(latency.mean)),
    ("p50", |latency| latency.p50),
    ("p95", |latency| latency.p95),
    ("p99", |latency| latency.p99),
];

/// The capacity of the servers, and latency under each load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Findings {
    /// One line per cell: by wait, then by servers.
    pub cells: Vec<Cell>,
    /// One line per number of servers, if capacity was measured.
    pub capacities: Vec<Capacity>,
    /// Whether Ctrl-C ended the run before all trials were done.
    pub interrupted: bool,
}

impl Findings {
    /// The capacities as a table, with numbers written by `format`.
    pub fn capacity_table(&self, format: fn(Option<f64>) -> String) -> Table {
        let mut table = Table::new(&[
            "servers",
            "capacity/s",
            "speed-up",
            "from",
            "to",
            "ideal",
            "machine busy",
            "client",
        ]);
        for line in &self.capacities {
            table.push(vec![
                line.servers.to_string(),
                format(Some(line.throughput)),
                format(Some(line.speed_up)),
                format(line.speed_up_interval.map(|interval| interval.low)),
                format(line.speed_up_interval.map(|interval| interval.high)),
                format(line.ideal),
                format(line.machine_busy),
                shortfall(&line.generator),
            ]);
        }
        table
    }

    /// The findings as a table.
    pub fn table(&self, style: Style) -> Table {
        let mut heads =
            ["servers", "wait s", "offered/s", "achieved/s", "n"].map(str::to_owned).to_vec();
        heads.extend(FIGURES.map(|(name, _)| format!("{name} ms")));
        heads.extend(["errors", "client"].map(str::to_owned));
        style.push_least(&mut heads, || "at least".to_owned());
        let mut table = Table::default();
        table.push(heads);
        for cell in &self.cells {
            let least = cell.latency_ms.map_or_else(LeastValues::default, |it| it.at_least);
            let mut row = vec![
                cell.servers.to_string(),
                cell.wait.to_string(),
                style.number(Some(cell.offered_rate)),
                style.number(cell.throughput),
                cell.latency_ms.map_or(0, |summary| summary.count).to_string(),
            ];
            row.extend(FIGURES.map(|(name, pick)| {
                style.bound(cell.latency_ms.as_ref().and_then(pick), least.contains(name))
            }));
            row.extend([cell.errors.clone(), shortfall(&cell.generator)]);
            style.push_least(&mut row, || least.names().collect::<Vec<_>>().join(" "));
            table.push(row);
        }
        table
    }

    /// Where this client fell short, in words.
    pub fn remarks(&self) -> Vec<String> {
        let told = |what: String, reasons: &[String]| {
            (!reasons.is_empty()).then(|| format!("{what}: {}", reasons.join("; ")))
        };
        let of_cell = |cell: &Cell| {
            told(format!("{} servers, wait {} s", cell.servers, cell.wait), &cell.generator)
        };
        let of_capacity = |line: &Capacity| {
            told(format!("capacity of {} servers", line.servers), &line.generator)
        };
        let cells = self.cells.iter().filter_map(of_cell);
        cells.chain(self.capacities.iter().filter_map(of_capacity)).collect()
    }
}
