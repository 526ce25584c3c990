//! Compares the simulation with a measured run: the same arrivals, and the quantiles of both.
//!
//! A tail measured over a minute is itself uncertain, so it gets an interval: blocks of consecutive
//! requests are resampled, since neighbours share a queue. The simulation is repeated with
//! different picks (and different service times, unless they are the run's own); its mean is the
//! prediction, and its range shows the effect of chance.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::replay::Replay;
use super::{Scenario, SimulatedRun, simulate};
use crate::report::{Table, number};
use crate::stats::{Interval, bootstrap_blocks, mean, quantile_of, samples_for};

/// Simulations per scenario.
const DRAWS: u64 = 20;

/// A quantile: its name, its rank, and how to read it from a simulation, in seconds.
type Quantile = (&'static str, f64, fn(&SimulatedRun) -> f64);
/// The quantiles that are compared.
const QUANTILES: [Quantile; 3] =
    [("p50", 0.50, |it| it.p50), ("p95", 0.95, |it| it.p95), ("p99", 0.99, |it| it.p99)];

/// The latencies of a run in the order of their requests.
#[derive(Debug)]
pub(crate) struct Measured {
    run: String,
    milliseconds: Vec<f64>,
    /// How many endpoints answered.
    workers: usize,
}

/// One quantile, measured and simulated, in milliseconds.
#[derive(Debug, Serialize)]
struct QuantileCheck {
    run: String,
    policy: &'static str,
    quantile: &'static str,
    requests: usize,
    /// Busy share of the workers, simulated.
    busy: f64,
    measured: f64,
    interval: Option<Interval>,
    simulated: f64,
    least: f64,
    most: f64,
    /// Error of the prediction, as a share of the measured value.
    error: f64,
}

impl Measured {
    /// Reads the run from `folder/samples.csv`.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Row {
            warm_up: bool,
            latency_ms: f64,
            outcome: String,
            #[serde(default)]
            endpoint: Option<String>,
        }
        let file = folder.join("samples.csv");
        let shown = file.display().to_string();
        let mut reader = csv::Reader::from_path(&file).with_context(|| shown.clone())?;
        let rows: Vec<Row> =
            reader.deserialize().collect::<Result<_, _>>().with_context(|| shown.clone())?;
        let counted = rows.iter().filter(|row| !row.warm_up && row.outcome == "200");
        let milliseconds: Vec<f64> = counted.map(|row| row.latency_ms).collect();
        ensure!(!milliseconds.is_empty(), "{shown}: no request succeeded");
        let run = folder.file_name().map_or(shown, |name| name.to_string_lossy().into_owned());
        let endpoints: BTreeSet<&str> =
            rows.iter().filter_map(|row| row.endpoint.as_deref()).collect();
        Ok(Self { run, milliseconds, workers: endpoints.len() })
    }

    /// What a prediction with service times of this run is worth, in words: how far off it is for
    /// the run itself, with the arrivals in `replay`. `None` if the run does not record which
    /// endpoints answered.
    fn worth(&self, replay: &Replay, like: &Scenario) -> Result<Option<String>> {
        if self.workers == 0 {
            return Ok(None);
        }
        let bare = Scenario::new(self.workers, like.rate, like.service.clone());
        let bare = Scenario {
            policy: like.policy,
            threads: like.threads,
            seed: like.seed,
            network: like.network,
            batch: like.batch,
            quota: like.quota,
            ..bare
        };
        let held = self.compare(&replay.of(bare), false)?;
        let told = held.iter().map(|it| format!("{} {:+.0} %", it.quantile, it.error * 100.0));
        Ok(Some(format!(
            "{} of {} workers, held against the run that the service times are from: {}. These figures may be \
             off by as much, and by more at a higher load.",
            like.policy.as_str(),
            self.workers,
            told.collect::<Vec<_>>().join(", ")
        )))
    }

    /// Simulates `scenarios` and writes the comparison.
    pub(crate) fn hold(
        &self,
        scenarios: &[Scenario],
        as_json: bool,
        out: &mut dyn Write,
    ) -> Result<()> {
        let mut held = Vec::new();
        for scenario in scenarios {
            held.extend(self.compare(scenario, true)?);
        }
        if as_json {
            serde_json::to_writer_pretty(&mut *out, &held)?;
            writeln!(out)?;
        } else {
            write!(out, "{}", table(&held))?;
        }
        Ok(())
    }

    /// The quantiles of both; with `has_intervals`, also intervals of the measured ones, which take
    /// a while to compute.
    fn compare(&self, scenario: &Scenario, has_intervals: bool) -> Result<Vec<QuantileCheck>> {
        let draw = |number: u64| {
            simulate(&Scenario { seed: scenario.seed.wrapping_add(number), ..scenario.clone() })
        };
        let outcomes: Vec<SimulatedRun> = (0..DRAWS).map(draw).collect::<Result<_>>()?;
        let interval = |q: f64| {
            let of = |values: &[f64]| quantile_of(values, q);
            bootstrap_blocks(&self.milliseconds, of, scenario.seed)
        };
        let held = |(name, q, read): Quantile| {
            let found: Vec<f64> = outcomes.iter().map(|outcome| read(outcome) * 1e3).collect();
            // Too few requests, measured or simulated, have no such quantile.
            let is_sound = self.milliseconds.len() as f64 >= samples_for(q);
            if !is_sound || found.iter().any(|figure| figure.is_nan()) {
                return None;
            }
            let of = |values: &[f64]| quantile_of(values, q);
            let (measured, simulated) = (of(&self.milliseconds)?, mean(&found)?);
            Some(QuantileCheck {
                run: self.run.clone(),
                policy: scenario.policy.as_str(),
                quantile: name,
                requests: self.milliseconds.len(),
                busy: outcomes.iter().map(|outcome| outcome.utilisation).sum::<f64>()
                    / DRAWS as f64,
                measured,
                interval: has_intervals.then(|| interval(q)).flatten(),
                simulated,
                least: found.iter().copied().fold(f64::INFINITY, f64::min),
                most: found.iter().copied().fold(0.0, f64::max),
                error: simulated / measured - 1.0,
            })
        };
        Ok(QUANTILES.into_iter().filter_map(held).collect())
    }
}

/// How far to trust figures that are simulated with the service times of a run. `None` unless the
/// run is a single trial that records which endpoints answered.
pub(crate) fn worth(folder: &Path, like: &Scenario) -> Result<Option<String>> {
    let (Ok(measured), Ok(replay)) = (Measured::read(folder), Replay::read(folder)) else {
        return Ok(None);
    };
    measured.worth(&replay, like)
}

fn table(held: &[QuantileCheck]) -> Table {
    let mut table = Table::new(&[
        "run",
        "policy",
        "busy %",
        "n",
        "ms",
        "measured",
        "from",
        "to",
        "simulated",
        "from",
        "to",
        "error %",
    ]);
    for line in held {
        let interval = line.interval;
        table.push(vec![
            line.run.clone(),
            line.policy.to_owned(),
            format!("{:.0}", line.busy * 100.0),
            line.requests.to_string(),
            line.quantile.to_owned(),
            number(Some(line.measured)),
            number(interval.map(|interval| interval.low)),
            number(interval.map(|interval| interval.high)),
            number(Some(line.simulated)),
            number(Some(line.least)),
            number(Some(line.most)),
            format!("{:+.1}", line.error * 100.0),
        ]);
    }
    table
}
