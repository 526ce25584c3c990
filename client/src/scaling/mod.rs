//! `client scaling`: latency and throughput over a grid of servers and arrival rates.
//!
//! Requests come from an open loop: their times are drawn in advance from the seed, and a slow
//! answer delays none of them. Latency is measured from the drawn time. Trials of the same number
//! use the same draw for all numbers of servers, so that columns are comparable. The cells of the
//! grid run in shuffled order, so that a machine that slows down does not look like a trend.

mod capacity;
mod chart;
mod findings;
mod knee;
mod resume;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
pub use capacity::{Capacity, Throughputs};
pub(crate) use chart::charts;
use clap::builder::BoolishValueParser;
pub use findings::{Cell, Findings};
use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;
use rand::seq::SliceRandom;

use crate::driver::{Destination, Run};
use crate::error::Error;
use crate::experiment::{Options, Protocol, Trial};
use crate::load::verdict;
use crate::machine::{Busy, ProcessorTime};
use crate::progress::{self, Shown};
use crate::record::{Folder, Journal, Manifest, Row};
use crate::report::{Style, exact, number};
use crate::schedule::Arrivals;
use crate::stats::mean;
use crate::workload::pictures::Picture;
use crate::workload::{Item, Reading, Workload, fingerprint, generated, pictures};

const EXAMPLES: &str = "\
Examples:
  client scaling                              1, 2, 4 servers x waits 0.5, 0.2, 0.1, 0.01 s
  client scaling --original                   as the original: whole-second Poisson waits, 500 requests
  client scaling --waits 0.02,0.01,0.005 --trials 5 --duration 10s
  client scaling --knee                       rates around what the servers can do as well
  client scaling --servers 1,2,4,8 --image photo.jpg";

/// Flags of `client scaling`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Args {
    /// How many endpoints to use (form field `number_backend_servers`).
    #[arg(long, env = "CLIENT_SERVERS", value_delimiter = ',', default_value = "1,2,4",
          value_name = "LIST", value_parser = clap::value_parser!(u32).range(1..))]
    pub servers: Vec<u32>,
    /// Mean waits between requests in seconds.
    #[arg(
        long,
        env = "CLIENT_WAITS",
        value_delimiter = ',',
        default_value = "0.5,0.2,0.1,0.01",
        value_name = "LIST"
    )]
    pub waits: Vec<f64>,
    /// Add rates around what the servers can do, found by a second with many users.
    #[arg(long, env = "CLIENT_KNEE", value_parser = BoolishValueParser::new(),
          conflicts_with = "original")]
    pub knee: bool,
    /// The picture to send. Default: one of 128 px, made here.
    #[arg(long, env = "CLIENT_IMAGE", value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// A trial ends after this many requests ...
    #[arg(long, env = "CLIENT_REQUESTS", default_value_t = 500, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: u64,
    /// ... or after this long, whichever is first.
    #[arg(long, env = "CLIENT_DURATION", default_value = "15s", value_name = "TIME",
          value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Trials of each cell, each with a draw of its own.
    #[arg(long, env = "CLIENT_TRIALS", default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub trials: u32,
    /// Also measure the capacity of each number of servers, for this long, with more users than it
    /// can serve at once. 0s skips it.
    #[arg(long, env = "CLIENT_CAPACITY", default_value = "3s", value_name = "TIME",
          value_parser = humantime::parse_duration)]
    pub capacity: Duration,
    /// Trials of the capacity, if not as many as per cell.
    #[arg(long, env = "CLIENT_CAPACITY_TRIALS", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub capacity_trials: Option<u32>,
    /// The original experiment's waits: whole seconds from a Poisson distribution, which makes
    /// bursts. 500 requests per cell, however long they take.
    #[arg(long, env = "CLIENT_ORIGINAL", value_parser = BoolishValueParser::new(),
          conflicts_with_all = ["requests", "duration"])]
    pub original: bool,
    /// Continue the run in --out that was killed or ended early: finished trials count.
    #[arg(long, env = "CLIENT_RESUME", value_parser = BoolishValueParser::new(), requires = "out",
          conflicts_with = "force")]
    pub resume: bool,
    /// Flags of every experiment.
    #[command(flatten)]
    pub options: Options,
}

/// Sequential requests that warm up each cell, as in the original.
const WARM_UP: u64 = 10;
/// After a round with failures, the next one pauses this long per request: 4 s in all.
const PAUSE: Duration = Duration::from_millis(50);
const WARM_UP_ROUNDS: u32 = 9;

/// With fewer, picking servers at random would too often leave one of them without users.
const USERS_PER_SERVER: usize = 32;

/// One trial of one cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Planned {
    servers: u32,
    /// Mean wait; `None` for a trial of the capacity.
    wait: Option<f64>,
    number: u32,
}

impl Planned {
    fn name(&self) -> String {
        let load = self.wait.map_or_else(|| "capacity".to_owned(), |wait| format!("wait={wait}"));
        format!("servers={} {load} trial={}", self.servers, self.number)
    }
}

/// Measures, writes the results folder, prints the summary.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    plan(args)?;
    let destination = args.options.destination(Protocol::Http1)?;
    let folder = match &args.options.out {
        Some(out) if args.resume => Folder::open(out),
        _ => Folder::of(&args.options, "scaling")?,
    };
    let findings = measure(args, &destination, &folder)?;
    if args.options.json {
        serde_json::to_writer_pretty(&mut *out, &findings).context("writing JSON")?;
        writeln!(out)?;
    } else {
        write!(out, "{}", findings.table(Style::People))?;
        if !findings.capacities.is_empty() {
            write!(out, "\n{}", findings.capacity_table(number))?;
        }
        for remark in findings.remarks() {
            writeln!(out, "\nthe client fell short: {remark}")?;
        }
        writeln!(out, "\nresults in {}", folder.path().display())?;
    }
    if findings.cells.iter().all(|cell| cell.latency_ms.is_none()) {
        let reason = findings.cells.first().map(|cell| cell.errors.clone()).unwrap_or_default();
        return Err(Error::NothingSucceeded(reason).into());
    }
    folder.all_kept()
}

/// Every trial of every cell, in shuffled order.
pub(crate) fn plan(args: &Args) -> Result<Vec<Planned>, Error> {
    for wait in &args.waits {
        // Reports errors in terms of the flag, not of the rate that it becomes.
        Arrivals::SeedCompat { mean_wait: *wait }.schedule(args.options.seed)?;
        arrivals(args, *wait).schedule(args.options.seed)?;
    }
    let mut plan = Vec::new();
    let capacity_trials = capacity_trials(args);
    for number in 0..args.trials.max(capacity_trials) {
        let waits = args.waits.iter().map(|&wait| Some(wait)).filter(|_| number < args.trials);
        let loads: Vec<_> = waits.chain((number < capacity_trials).then_some(None)).collect();
        let cells = |&servers: &u32| {
            loads.iter().map(move |&wait| Planned { servers, wait, number }).collect::<Vec<_>>()
        };
        let mut round: Vec<Planned> = args.servers.iter().flat_map(cells).collect();
        let seed = args.options.seed.wrapping_add(u64::from(number));
        round.shuffle(&mut ChaCha12Rng::seed_from_u64(seed));
        plan.extend(round);
    }
    Ok(plan)
}

/// Number of trials that measure the capacity of each number of servers.
fn capacity_trials(args: &Args) -> u32 {
    if args.capacity.is_zero() { 0 } else { args.capacity_trials.unwrap_or(args.trials) }
}

fn arrivals(args: &Args, wait: f64) -> Arrivals {
    if args.original {
        Arrivals::SeedCompat { mean_wait: wait }
    } else {
        Arrivals::Poisson { rate: 1.0 / wait }
    }
}

fn trial(args: &Args, planned: &Planned) -> Trial {
    let Some(wait) = planned.wait else { return capacity_trial(args, planned.servers) };
    let mut trial = Trial::new(&args.options, arrivals(args, wait));
    trial.seed = args.options.seed.wrapping_add(u64::from(planned.number));
    trial.duration = (!args.original).then_some(args.duration);
    // A limit that the trial cannot reach in its time is dropped, so that the trial is measured
    // over all of its time.
    let expected = trial.duration.map_or(f64::INFINITY, |time| time.as_secs_f64() / wait);
    trial.requests = (expected * 2.0 > args.requests as f64).then_some(args.requests);
    trial
}

/// A closed loop with enough users to leave no server idle for long, even with each picking a
/// server at random.
fn capacity_trial(args: &Args, servers: u32) -> Trial {
    let users = USERS_PER_SERVER.saturating_mul(servers as usize);
    let closed = Arrivals::Closed { users, think: Duration::ZERO };
    let mut trial = Trial::new(&args.options, closed);
    trial.warm_up = args.capacity / 4;
    trial.duration = Some(args.capacity + trial.warm_up);
    trial
}

/// Runs every planned trial and writes everything but the table.
pub(crate) fn measure(
    args: &Args,
    destination: &Destination,
    folder: &Folder,
) -> anyhow::Result<Findings> {
    let picture = match &args.image {
        Some(path) => pictures::read(path)?.swap_remove(0),
        None => generated::picture(128)?,
    };
    let (waits, trials, mut journal, was_ended) = if args.resume {
        let resume::Left { waits, trials, journal } = resume::take(args, &picture, folder)?;
        (waits, trials, journal, false)
    } else {
        let found = if args.knee { knee::waits(args, &picture, destination)? } else { None };
        let was_ended = args.knee && found.is_none();
        let waits = found.unwrap_or_else(|| args.waits.clone());
        let settings = settings(&Args { waits: waits.clone(), ..args.clone() }, &picture);
        let manifest = Manifest::collect("scaling", &args.options, settings);
        folder.write_json("manifest.json", &manifest)?;
        (waits, Trials::new(), Journal::create(folder)?, was_ended)
    };
    let args = &Args { waits, ..args.clone() };
    let plan = if was_ended { Vec::new() } else { plan(args)? };
    let Ran { runs, rows, interrupted } =
        run_all(args, (&plan, &trials), &picture, destination, &mut journal)?;
    if folder.keep(folder.write_csv("samples.csv", &rows)) {
        folder.keep(journal.remove());
    }
    let findings = findings(args, &runs, interrupted || was_ended);
    folder.keep(folder.write_json("summary.json", &findings));
    folder.keep(folder.write_csv("summary.csv", findings.table(Style::Programs).rows()));
    folder.keep(folder.write_csv("capacity.csv", findings.capacity_table(exact).rows()));
    for (name, chart) in charts(&findings) {
        folder.keep(folder.write(name, chart.to_svg().as_bytes()));
    }
    Ok(findings)
}

/// The settings that must match for a run to be continued.
fn settings(args: &Args, picture: &Picture) -> serde_json::Value {
    serde_json::json!({
        "servers": args.servers, "waits": args.waits, "trials": args.trials,
        "requests": args.requests, "duration_seconds": args.duration.as_secs_f64(),
        "original": args.original, "capacity_seconds": args.capacity.as_secs_f64(),
        "capacity_trials": capacity_trials(args), "timeout_seconds": args.options.timeout.as_secs_f64(),
        "connections": args.options.connections, "image": picture.name,
        "image_bytes": picture.bytes.len(), "image_sha256": fingerprint::sha256(&picture.bytes),
    })
}

/// Samples of the trials of an earlier run, by name of the trial.
type Trials = BTreeMap<String, Vec<Row>>;

/// The outcome of a plan.
#[derive(Default)]
struct Ran {
    runs: Vec<Measured>,
    rows: Vec<Row>,
    interrupted: bool,
}

fn run_all(
    args: &Args,
    (plan, trials): (&[Planned], &Trials),
    picture: &Picture,
    destination: &Destination,
    journal: &mut Journal,
) -> anyhow::Result<Ran> {
    let mut ran = Ran::default();
    for (number, planned) in plan.iter().enumerate() {
        let name = planned.name();
        let label = format!("{}/{} {name}", number + 1, plan.len());
        if let Some(rows) = trials.get(&name) {
            let trial = trial(args, planned);
            let run = resume::run(&trial, rows)?;
            ran.runs.push(Measured::new(*planned, &trial, run, None));
            ran.rows.extend(rows.iter().cloned());
            continue;
        }
        let workload = Arc::new(workload(args, picture, planned.servers)?);
        // A closed loop warms up by itself.
        if planned.wait.is_some() && warm_up(args, destination, &workload)? {
            ran.interrupted = true;
            break;
        }
        let shown = Shown { label: &label, trial: &name, journal, metrics: None };
        let before = ProcessorTime::now();
        let trial = trial(args, planned);
        let observed = progress::run(&trial, destination, &workload, shown)?;
        let busy = ProcessorTime::busy_since(before);
        ran.rows.extend(observed.run.samples.iter().map(|s| Row::new(&name, s, &workload)));
        ran.interrupted = observed.interrupted;
        // A trial interrupted before it measured anything says nothing about its cell.
        if !observed.interrupted || observed.run.tally.requests() > 0 {
            ran.runs.push(Measured::new(*planned, &trial, observed.run, busy));
        }
        if observed.interrupted {
            break;
        }
    }
    Ok(ran)
}

/// A trial that was run.
struct Measured {
    planned: Planned,
    run: Run,
    /// How busy this machine's processors were during the trial.
    busy: Option<Busy>,
    /// Why it says more about this client than about the servers.
    generator: Vec<String>,
}

impl Measured {
    fn new(planned: Planned, trial: &Trial, run: Run, busy: Option<Busy>) -> Self {
        // Servers that fail or fall behind do not count: finding them is the purpose.
        let generator = verdict::fell_short(trial, &run)
            .map(|reason| format!("trial {}: {reason}", planned.number));
        Self { generator: generator.collect(), planned, run, busy }
    }

    /// The share of a processor that the sender thread used. If it reported none, an upper bound:
    /// all that was busy on this machine.
    fn sender_busy(&self) -> Option<f64> {
        let all = self.busy.map(|busy| busy.processors.min(1.0));
        self.run.tally.sender_busy.or(all)
    }
}

/// The reasons of all these trials.
fn generator<'a>(trials: impl IntoIterator<Item = &'a Measured>) -> Vec<String> {
    trials.into_iter().flat_map(|trial| trial.generator.iter().cloned()).collect()
}

/// The picture, for this many servers.
fn workload(args: &Args, picture: &Picture, servers: u32) -> Result<Workload, Error> {
    let item = Item::picture(&picture.name, &picture.bytes, Some(servers));
    Workload::try_new(&args.options.target, wire::path::SUBMIT, vec![item], Reading::Label)
}

fn findings(args: &Args, runs: &[Measured], interrupted: bool) -> Findings {
    let mut cells = Vec::new();
    for &wait in &args.waits {
        for &servers in &args.servers {
            let is_of_cell =
                |it: &&Measured| it.planned.servers == servers && it.planned.wait == Some(wait);
            let of_cell = || runs.iter().filter(is_of_cell);
            let cell = Cell::new(servers, wait, &of_cell().map(|it| &it.run).collect::<Vec<_>>());
            cells.push(Cell { generator: generator(of_cell()), ..cell });
        }
    }
    let of_capacity = |servers: u32| {
        runs.iter().filter(move |it| it.planned.servers == servers && it.planned.wait.is_none())
    };
    let capacity = |&servers: &u32| {
        (servers, of_capacity(servers).map(|it| capacity::rate(&it.run)).collect())
    };
    let capacities: Throughputs = args.servers.iter().map(capacity).collect();
    let mut capacities = Capacity::all(&capacities, args.options.within_slice.is_some());
    for line in &mut capacities {
        let busy: Vec<Busy> = of_capacity(line.servers).filter_map(|it| it.busy).collect();
        line.machine_busy = mean(&busy.iter().map(|busy| busy.share).collect::<Vec<_>>());
        let all: Option<Vec<f64>> = of_capacity(line.servers).map(Measured::sender_busy).collect();
        line.sender_busy = all.and_then(|all| all.into_iter().reduce(f64::max));
        line.generator = generator(of_capacity(line.servers));
    }
    Findings { cells, capacities, interrupted }
}

/// Sends a few sequential requests without recording them, and repeats them while some fail: the
/// previous trial may have overloaded the service, and that must not count against this one.
/// Returns true if the user ended the run.
fn warm_up(
    args: &Args,
    destination: &Destination,
    workload: &Arc<Workload>,
) -> anyhow::Result<bool> {
    let mut think = Duration::ZERO;
    for _ in 0..WARM_UP_ROUNDS {
        let mut trial = Trial::new(&args.options, Arrivals::Closed { users: 1, think });
        trial.requests = Some(WARM_UP);
        let observed = progress::run_unseen(&trial, destination, workload)?;
        let mut outcomes = observed.run.tally.outcomes.keys();
        if observed.interrupted || outcomes.all(|outcome| outcome.is_success()) {
            return Ok(observed.interrupted);
        }
        think = PAUSE;
    }
    tracing::warn!("requests still fail after the warm-up");
    Ok(false)
}
