//! `client scaling`: latency and throughput over a grid of servers and arrival rates.
//!
//! Requests come from an open loop: their times are drawn ahead, from the seed, and a slow answer
//! delays none of them. Latency counts from the drawn time. Every trial of the same number uses the
//! same draw for all numbers of servers, so columns compare; the cells of the grid run in shuffled
//! order, so that a machine that slows down does not look like a trend.

mod capacity;
mod chart;
mod findings;

pub use capacity::{Capacity, Throughputs};
pub(crate) use chart::charts;
pub use findings::{Cell, Findings};

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::builder::BoolishValueParser;
use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;
use rand::seq::SliceRandom;

use crate::driver::Run;
use crate::error::Error;
use crate::experiment::{Options, Trial};
use crate::progress::{self, Shown};
use crate::record::{Folder, Journal, Manifest, Row};
use crate::report::{exact, number};
use crate::schedule::Arrivals;
use crate::workload::{Item, Reading, Workload, generated, pictures};

const EXAMPLES: &str = "\
Examples:
  client scaling                              1, 2, 4 servers x waits 0.5, 0.2, 0.1, 0.01 s
  client scaling --original                   as the original: whole-second Poisson waits, 500 requests
  client scaling --waits 0.02,0.01,0.005 --trials 5 --duration 10s
  client scaling --servers 1,2,4,8 --image photo.jpg";

/// Flags of `client scaling`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How many endpoints take part (form field `number_backend_servers`).
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
    /// Also find the capacity of each number of servers: so long with more users than it can
    /// serve at once. 0s leaves it out.
    #[arg(long, env = "CLIENT_CAPACITY", default_value = "3s", value_name = "TIME",
          value_parser = humantime::parse_duration)]
    pub capacity: Duration,
    /// Trials of the capacity, if not as many as of each cell.
    #[arg(long, env = "CLIENT_CAPACITY_TRIALS", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub capacity_trials: Option<u32>,
    /// The original experiment's waits: whole seconds from a Poisson distribution, which makes
    /// bursts. 500 requests a cell, however long they take.
    #[arg(long, env = "CLIENT_ORIGINAL", value_parser = BoolishValueParser::new(),
          conflicts_with_all = ["requests", "duration"])]
    pub original: bool,
    /// Flags of every experiment.
    #[command(flatten)]
    pub options: Options,
}

/// Requests that warm each cell up, one after another, as in the original.
const WARM_UP: u64 = 10;
/// After a round with failures the next one takes this much time a request: 4 s in all.
const PAUSE: Duration = Duration::from_millis(50);
const WARM_UP_ROUNDS: u32 = 9;

/// With fewer, an even chance would too often leave one of several servers without any.
const USERS_PER_SERVER: usize = 32;

/// One trial of one cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Planned {
    servers: u32,
    /// Mean wait; none to find the capacity.
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
    let plan = plan(args)?;
    let addresses = args.options.target.resolve()?;
    let folder = Folder::of(&args.options, "scaling")?;
    let findings = measure(args, &plan, &addresses, &folder)?;
    if args.options.json {
        serde_json::to_writer_pretty(&mut *out, &findings).context("writing JSON")?;
        writeln!(out)?;
    } else {
        write!(out, "{}", findings.table(number))?;
        if !findings.capacities.is_empty() {
            write!(out, "\n{}", findings.capacity_table(number))?;
        }
        writeln!(out, "\nresults in {}", folder.path().display())?;
    }
    if findings.cells.iter().all(|cell| cell.latency_ms.is_none()) {
        let reason = findings.cells.first().map(|cell| cell.errors.clone()).unwrap_or_default();
        return Err(Error::NothingSucceeded(reason).into());
    }
    Ok(())
}

/// Every trial of every cell, in shuffled order.
pub(crate) fn plan(args: &Args) -> Result<Vec<Planned>, Error> {
    for wait in &args.waits {
        // Said in terms of the flag, not of the rate that it becomes.
        Arrivals::SeedCompat { mean_wait: *wait }.schedule(args.options.seed)?;
        arrivals(args, *wait).schedule(args.options.seed)?;
    }
    let mut plan = Vec::new();
    let capacity_trials = match args.capacity_trials {
        _ if args.capacity.is_zero() => 0,
        trials => trials.unwrap_or(args.trials),
    };
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
    // A limit that the trial's time keeps it from ever reaching is none, and the trial is then
    // measured over all of its time.
    let expected = trial.duration.map_or(f64::INFINITY, |time| time.as_secs_f64() / wait);
    trial.requests = (expected * 2.0 > args.requests as f64).then_some(args.requests);
    trial
}

/// A closed loop with users enough to leave no server idle for long, even if each picks its server
/// at random.
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
    plan: &[Planned],
    addresses: &[std::net::SocketAddr],
    folder: &Folder,
) -> anyhow::Result<Findings> {
    let picture = match &args.image {
        Some(path) => pictures::read(path)?.swap_remove(0),
        None => generated::picture(128)?,
    };
    let settings = serde_json::json!({
        "servers": args.servers, "waits": args.waits, "trials": args.trials,
        "requests": args.requests, "duration_seconds": args.duration.as_secs_f64(),
        "original": args.original, "capacity_seconds": args.capacity.as_secs_f64(), "image": picture.name, "image_bytes": picture.bytes.len(),
    });
    folder.write_json("manifest.json", &Manifest::collect("scaling", &args.options, settings))?;
    let mut journal = Journal::create(folder)?;
    let (mut runs, mut rows, mut interrupted) = (Vec::new(), Vec::new(), false);
    for (number, planned) in plan.iter().enumerate() {
        let name = planned.name();
        let label = format!("{}/{} {name}", number + 1, plan.len());
        let item = Item::picture(&picture.name, &picture.bytes, Some(planned.servers));
        let workload = Workload::try_new(
            &args.options.target,
            wire::path::SUBMIT,
            vec![item],
            Reading::Label,
        )?;
        let workload = Arc::new(workload);
        // A closed loop warms up by itself.
        if planned.wait.is_some() {
            interrupted = warm_up(args, addresses, &workload)?;
        }
        if interrupted {
            break;
        }
        let shown = Shown { label: &label, trial: &name, journal: &mut journal };
        let observed = progress::run(&trial(args, planned), addresses, &workload, shown)?;
        rows.extend(observed.run.samples.iter().map(|s| Row::new(&name, s, &workload)));
        interrupted = observed.interrupted;
        // One that was ended before it began says nothing about its cell.
        if !interrupted || observed.run.tally.requests() > 0 {
            runs.push((*planned, observed.run));
        }
        if interrupted {
            break;
        }
    }
    folder.write_csv("samples.csv", &rows)?;
    journal.remove()?;
    let findings = findings(args, &runs, interrupted);
    folder.write_json("summary.json", &findings)?;
    folder.write_csv("summary.csv", findings.table(exact).rows())?;
    folder.write_csv("capacity.csv", findings.capacity_table(exact).rows())?;
    for (name, chart) in charts(&findings) {
        folder.write(name, chart.to_svg().as_bytes())?;
    }
    Ok(findings)
}

fn findings(args: &Args, runs: &[(Planned, Run)], interrupted: bool) -> Findings {
    let mut cells = Vec::new();
    for &wait in &args.waits {
        for &servers in &args.servers {
            let runs: Vec<&Run> = runs
                .iter()
                .filter(|(p, _)| p.servers == servers && p.wait == Some(wait))
                .map(|(_, run)| run)
                .collect();
            cells.push(Cell::new(servers, wait, &runs));
        }
    }
    let capacity = |&servers: &u32| {
        let of_servers = runs.iter().filter(|(p, _)| p.servers == servers && p.wait.is_none());
        (servers, of_servers.map(|(_, run)| capacity::rate(run)).collect())
    };
    let capacities: Throughputs = args.servers.iter().map(capacity).collect();
    let capacities = Capacity::all(&capacities, args.options.within_slice.is_some());
    Findings { cells, capacities, interrupted }
}

/// A few requests one after another, recorded nowhere; again while some fail, since the trial before
/// may have asked for more than the service can do, and what it shed is not this trial's doing. True
/// if the user ended it.
fn warm_up(
    args: &Args,
    addresses: &[std::net::SocketAddr],
    workload: &Arc<Workload>,
) -> anyhow::Result<bool> {
    let mut think = Duration::ZERO;
    for _ in 0..WARM_UP_ROUNDS {
        let mut trial = Trial::new(&args.options, Arrivals::Closed { users: 1, think });
        trial.requests = Some(WARM_UP);
        let observed = progress::run_unseen(&trial, addresses, workload)?;
        let mut outcomes = observed.run.tally.outcomes.keys();
        if observed.interrupted || outcomes.all(|outcome| outcome.is_success()) {
            return Ok(observed.interrupted);
        }
        think = PAUSE;
    }
    tracing::warn!("requests still fail after the warm-up");
    Ok(false)
}
