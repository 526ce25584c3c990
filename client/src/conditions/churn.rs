//! `client churn`: what users see while workers are dead, and when they come back.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use plot::{Axis, Chart, Point, Scale, Stroke};
use serde::Serialize;

use super::told::{Told, fell_short};
use super::{Common, Experiment, Figure, Section, chart, is_over, linear, order, series};
use crate::error::Error;
use crate::record::{Folder, Row, read_rows};
use crate::report::{Style, Table, bound, number, shortfall};
use crate::simulate::theory::MarkovQueue;
use crate::slice::Site;

const EXAMPLES: &str = "\
Examples:
  sudo client churn                                 0, 1 and 2 of the workers die, half of the capacity asked
  sudo client churn --dead 0,1,2,3 --rate 40 --duration 20s

Each trial asks at one rate for four times --duration: all workers, some killed (SIGKILL), those started
again, all workers. What theory expects is M/M/c with the workers that are left (Erlang, 1917).";

/// Flags of `client churn`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How many workers die.
    #[arg(
        long,
        env = "CLIENT_DEAD",
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "0,1,2"
    )]
    pub dead: Vec<usize>,
    /// Requests per second. Default: half of what all workers can do, measured before.
    #[arg(long, env = "CLIENT_RATE", value_name = "N")]
    pub rate: Option<f64>,
    /// Flags of all conditions.
    #[command(flatten)]
    pub common: Common,
}

/// Results of the experiment.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Findings {
    workers: usize,
    rate: f64,
    /// Seconds that a worker spends on a request.
    service: Figure,
    lines: Vec<PhaseResult>,
}

/// Results of one phase, over the trials with the same number of dead workers.
#[derive(Debug, Clone, Serialize)]
struct PhaseResult {
    dead: usize,
    phase: &'static str,
    trials: usize,
    /// Mean latency of the requests that were due in the phase (ms), failures included.
    latency_ms: Figure,
    /// Names of figures that are lower bounds, because requests were given up.
    at_least: Vec<&'static str>,
    /// Share of these requests that failed.
    failed: Figure,
    /// Expected utilisation of the remaining workers.
    utilisation: Option<f64>,
    /// Mean latency of M/M/c (ms); `None` if the load exceeds the remaining capacity.
    expected_ms: Option<f64>,
    /// Reasons, by trial, why a trial measured the client more than the workers.
    generator: Vec<String>,
}

/// Excluded on either side of a change: programs take a moment to start and to die.
const BLUR: Duration = Duration::from_millis(500);
/// Name of the latency among the figures that are lower bounds.
const LATENCY: &str = "latency_ms";
const PHASES: [&str; 3] = ["before", "gone", "after"];

/// A trial: its results, and mean latency and failures in each phase.
struct Trial {
    dead: usize,
    told: Told,
    generator: Vec<String>,
    phases: [Option<Phase>; 3],
}

#[derive(Debug, Clone, Copy)]
struct Phase {
    latency_ms: f64,
    /// Whether the latency is a lower bound, because requests were given up.
    at_least: bool,
    failed: f64,
}

impl PhaseResult {
    /// Whether the latency is a lower bound.
    fn is_least(&self) -> bool {
        self.at_least.contains(&LATENCY)
    }
}

impl Phase {
    /// Condenses the requests that were due between two instants; `None` if there were none.
    fn of(rows: &[Row], from: Duration, until: Duration) -> Option<Self> {
        let is_in = |row: &&Row| (from..until).contains(&Duration::from_micros(row.scheduled_us));
        let rows: Vec<&Row> = rows.iter().filter(is_in).collect();
        let count = rows.len() as f64;
        let is_failed = |row: &&&Row| !row.outcome().is_success();
        (count > 0.0).then(|| Self {
            latency_ms: rows.iter().map(|row| row.latency_ms).sum::<f64>() / count,
            at_least: rows.iter().any(|row| row.outcome().is_unanswered()),
            failed: rows.iter().filter(is_failed).count() as f64 / count,
        })
    }
}

impl Args {
    /// Runs one trial: workers die after a quarter of it and are restarted in the middle.
    fn trial(
        &self,
        site: &Site<'_>,
        rate: f64,
        dead: usize,
        place: &Path,
        number: u32,
    ) -> Result<Trial> {
        let part = self.common.duration;
        let long = Common { duration: part * 4, ..self.common.clone() };
        let warm_up = long.duration / 5;
        let mut words = long.load(place, number);
        words.extend(["--rate".to_owned(), rate.to_string()]);
        words.extend(["--keep-samples", "1000000"].map(str::to_owned));
        let load = site.start(&words)?;
        site.sleep(warm_up + part);
        let victims: Vec<&str> = site.workers().into_iter().take(dead).collect();
        victims.iter().try_for_each(|name| site.kill(name))?;
        site.sleep(part);
        if !victims.is_empty() && !is_over() {
            site.revive()?;
        }
        let told = Told::of(&load.wait_with_output().context("waiting for a trial")?)?;
        let rows = read_rows(&place.join("samples.csv"))?;
        let phase = |first: u32| {
            let (from, until) = (warm_up + part * first, warm_up + part * (first + 1));
            Phase::of(&rows, from + BLUR, until.saturating_sub(BLUR))
        };
        let generator = told.generator(number);
        Ok(Trial { dead, told, generator, phases: [phase(0), phase(1), phase(3)] })
    }

    /// Half of the throughput in a closed loop with enough users to keep all workers busy.
    fn pilot(&self, site: &Site<'_>, folder: &Folder) -> Result<f64> {
        const USERS: usize = 32;
        let short = Common { duration: Duration::from_secs(5), ..self.common.clone() };
        let mut words = short.load(&folder.path().join("pilot"), 0);
        words.extend(["--arrivals", "closed", "--users"].map(str::to_owned));
        words.push((USERS * site.workers().len()).to_string());
        let told = Told::of(&site.client(&words)?)?;
        ensure!(told.throughput > 0.0, "no request of the pilot succeeded");
        // If the client fell short, the rate is merely lower; the figures are valid for that rate.
        let _warned = told.generator(0);
        Ok((told.throughput / 2.0 * 10.0).round() / 10.0)
    }
}

impl Experiment for Args {
    type Findings = Findings;

    fn check(&self) -> Result<(), Error> {
        if self.common.duration <= BLUR * 2 {
            return Err(Error::Usage("--duration: more than 1s".to_owned()));
        }
        match self.rate {
            Some(rate) if !(rate > 0.0 && rate < 1e6) => {
                Err(Error::Usage(format!("--rate: {rate} is no rate")))
            }
            _ => Ok(()),
        }
    }

    fn measure(&self, site: &Site<'_>, folder: &Folder) -> Result<Findings> {
        let workers = site.workers().len();
        if let Some(dead) = self.dead.iter().find(|dead| **dead >= workers) {
            return Err(Error::Usage(format!("--dead: {dead} of {workers} workers")).into());
        }
        let rate = self.rate.map_or_else(|| self.pilot(site, folder), Ok)?;
        let mut trials: Vec<Trial> = Vec::new();
        let plan = order(self.dead.len(), self.common.trials, self.common.seed);
        for (done, (step, number)) in plan.iter().enumerate() {
            let dead = self.dead[*step];
            tracing::info!("{}/{} dead={dead} trial={number}", done + 1, plan.len());
            let place = folder.path().join(format!("dead={dead}-trial={number}"));
            let trial = self.trial(site, rate, dead, &place, *number)?;
            let is_cut = trial.told.interrupted || is_over();
            if !is_cut {
                trials.push(trial);
                continue;
            }
            break;
        }
        let service = Figure::of(trials.iter().map(|trial| trial.told.service()));
        let mut lines = Vec::new();
        for &dead in &self.dead {
            let of_dead: Vec<&Trial> = trials.iter().filter(|trial| trial.dead == dead).collect();
            for (place, phase) in PHASES.into_iter().enumerate() {
                let left = if phase == "gone" { workers - dead } else { workers };
                let queue = service.mean.map(|service| MarkovQueue {
                    arrival_rate: rate,
                    service_rate: 1.0 / service,
                    servers: left,
                });
                let phases = || of_dead.iter().map(|trial| trial.phases[place].as_ref());
                let is_least = phases().flatten().any(|phase| phase.at_least);
                lines.push(PhaseResult {
                    dead,
                    phase,
                    trials: of_dead.len(),
                    latency_ms: Figure::of(phases().map(|it| it.map(|phase| phase.latency_ms))),
                    at_least: is_least.then_some(LATENCY).into_iter().collect(),
                    failed: Figure::of_shares(phases().map(|it| it.map(|phase| phase.failed))),
                    utilisation: queue.map(|queue| queue.utilisation()),
                    expected_ms: queue.map(|it| it.mean() * 1e3).filter(|mean| mean.is_finite()),
                    generator: of_dead.iter().flat_map(|it| it.generator.iter().cloned()).collect(),
                });
            }
        }
        Ok(Findings { workers, rate, service, lines })
    }

    fn table(findings: &Findings, style: Style) -> Table {
        let mut heads = [
            "dead",
            "part",
            "trials",
            "latency ms",
            "from",
            "to",
            "failed %",
            "busy % (M/M/c)",
            "M/M/c ms",
            "client",
        ]
        .map(str::to_owned)
        .to_vec();
        style.push_least(&mut heads, || "at least".to_owned());
        let number = |value| style.number(value);
        let mut table = Table::default();
        table.push(heads);
        for line in &findings.lines {
            let interval = line.latency_ms.interval;
            let mut row = vec![
                line.dead.to_string(),
                line.phase.to_owned(),
                line.trials.to_string(),
                style.bound(line.latency_ms.mean, line.is_least()),
                number(interval.map(|it| it.low)),
                number(interval.map(|it| it.high)),
                number(line.failed.mean.map(|share| 100.0 * share)),
                number(line.utilisation.map(|share| 100.0 * share)),
                number(line.expected_ms),
                shortfall(&line.generator),
            ];
            style.push_least(&mut row, || line.at_least.join(" "));
            table.push(row);
        }
        table
    }

    fn charts(findings: &Findings) -> Vec<(&'static str, Chart)> {
        let of_phase = |phase: &'static str| {
            let lines = findings.lines.iter().filter(move |line| line.phase == phase);
            lines.map(|line| line.latency_ms.at(line.dead as f64))
        };
        let gone = findings.lines.iter().filter(|line| line.phase == "gone");
        let expected =
            gone.map(|line| Some(Point { x: line.dead as f64, y: line.expected_ms?, bar: None }));
        vec![(
            "latency.svg",
            chart(
                "Latency while workers are gone",
                "mean of all requests that were due meanwhile; bars: 95 % intervals over trials",
                [linear("dead workers"), Axis::new("latency (ms)", Scale::Log)],
                vec![
                    series("while they are gone", of_phase("gone"), Stroke::Measured),
                    series("before", of_phase("before"), Stroke::Measured),
                    series("after", of_phase("after"), Stroke::Measured),
                    series("M/M/c with those left", expected, Stroke::Theory),
                ],
            ),
        )]
    }

    fn words(&self, findings: &Findings) -> Section {
        let gone = findings.lines.iter().filter(|line| line.phase == "gone" && line.trials > 0);
        let told = gone.map(|line| {
            let theory = match (line.expected_ms, line.utilisation) {
                (Some(expected), _) => format!(
                    "M/M/{} has {} ms",
                    findings.workers - line.dead,
                    number(Some(expected))
                ),
                (None, Some(busy)) => format!(
                    "{} % of what is left is asked for, so theory has no steady state there",
                    number(Some(100.0 * busy))
                ),
                (None, None) => "the workers do not say how long they work".to_owned(),
            };
            format!(
                "{} of {} workers dead: {} ms, {} % failed{}; {theory}",
                line.dead,
                findings.workers,
                bound(line.latency_ms.mean, line.is_least()),
                number(line.failed.mean.map(|share| 100.0 * share)),
                fell_short(&line.generator),
            )
        });
        Section::new(
            "Workers that die",
            format!("{}.", told.collect::<Vec<_>>().join(". ")),
            format!(
                "Poisson arrivals of {} requests/s for four times {}: with all workers, with some of them \
                 killed, while these are started again, and with all of them. {} trials of each number of \
                 dead workers, in shuffled order; half a second around each change belongs to no part. \
                 Latency is the mean of all requests that were due in a part, failures with the time that \
                 they took. M/M/c takes the mean time that workers state for a request ({} ms), and \
                 supposes that it is exponential and that one queue serves all workers: times that vary \
                 less queue less, and a balancer that has to guess queues more.",
                number(Some(findings.rate)),
                humantime::format_duration(self.common.duration),
                self.common.trials,
                number(findings.service.mean.map(|seconds| seconds * 1e3)),
            ),
        )
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({
            "dead": self.dead, "rate": self.rate, "trials": self.common.trials,
            "duration_seconds": self.common.duration.as_secs_f64(),
            "timeout_seconds": self.common.timeout.as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Phase;
    use crate::record::Row;

    #[test]
    fn a_part_counts_what_was_due_in_it_and_failures_with_their_time() {
        let text = "trial,item,warm_up,scheduled_us,dispatched_us,sent_us,first_byte_us,done_us,latency_ms,service_time_ms,outcome,bytes,endpoint,label,correct,worker_ms,queue_ms,compute_ms\n\
                    load,a,false,999999,0,0,0,0,50.0,50.0,200,1,,,,,,\n\
                    load,a,false,1000000,0,0,0,0,10.0,10.0,200,1,,,,,,\n\
                    load,a,false,1500000,0,,0,0,30.0,,timeout,1,,,,,,\n\
                    load,a,false,2000000,0,0,0,0,90.0,90.0,200,1,,,,,,\n";
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows: Vec<Row> = reader.deserialize().map(Result::unwrap).collect();
        let second = Duration::from_secs(1);
        let found = Phase::of(&rows, second, 2 * second).unwrap();
        assert!((found.latency_ms - 20.0).abs() < 1e-9 && (found.failed - 0.5).abs() < 1e-9);
        assert!(found.at_least, "one was given up");
        assert!(!Phase::of(&rows, 2 * second, 3 * second).unwrap().at_least);
        assert!(Phase::of(&rows, 5 * second, 6 * second).is_none());
    }
}
