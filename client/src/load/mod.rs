//! `client load`: load at a given rate, and how the service copes with it.
//!
//! Open loop by default: requests leave on a schedule drawn in advance, whatever the answers do,
//! and latency counts from the scheduled instant. A closed-loop tool waits with a stalled service
//! and then reports one slow request where users would have seen hundreds; this one does not. Each
//! run judges itself: see [`verdict`].

mod chart;
mod hgrm;
mod hlog;
mod html;
mod rules;
mod summary;
pub mod threshold;
pub mod verdict;
mod workers;
mod workload;

use std::io::Write;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
pub(crate) use chart::{TAIL, charts, course};
use clap::ValueEnum;
use clap::builder::BoolishValueParser;
pub use rules::Rules;
pub use summary::{Quantiles, Summary};
pub use workers::WorkerCount;
use workload::Prepared;
pub use workload::WorkloadArgs;

use crate::agents::{Agents, Secret, Wanted};
use crate::driver::{Destination, Run};
use crate::error::Error;
use crate::experiment::{Options, Protocol, Reuse, Trial};
use crate::live::Metrics;
use crate::progress::{self, Shown};
use crate::record::{Folder, Journal, Manifest, Row};
use crate::schedule::{self, Arrivals, Stages};
use crate::workload::Workload;

const EXAMPLES: &str = "\
Examples:
  client load --rate 200 --duration 30s
  client load --rate 500 --images photos             accuracy too, if photos/labels.csv is there
  client load --arrivals closed --users 50 --think 1s
  client load --get /v2/health/live --rate 20000     how much the balancer itself can take
  client load --rate 1000 --workload iris            150 flowers, each answer checked
  client load --rate 1000 --workload bodies.jsonl --route /v1/models/mine:predict
  client load --target https://host/v2/models/m/infer -d @body.json -H 'content-type: application/json'
  client load --stages 30s:0..500,60s:500 --fail 'p99>50ms' --fail 'errors>1%'
  client load --targets recorded.har                 what a browser saved, at its own pace
  client load --agents a:9000,b:9000 --rate 80000    several machines as one: client agent

A request counts from the instant at which it was due to its end, whatever that is: docs/measuring.md.
Exit status: 1 a threshold of --fail is crossed, 2 wrong usage, 3 INVALID (the numbers do not mean what
they say), 4 no service or no success, 5 files or this machine, 128 and more: ended by a signal.
Ctrl-C, SIGTERM and SIGHUP end sending and keep what was measured; a second one ends waiting.";

/// Arrival processes by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ArrivalKind {
    /// Independent users: exponential gaps.
    Poisson,
    /// Equal gaps.
    Uniform,
    /// The original experiment's whole-second waits, which make bursts.
    SeedCompat,
    /// A fixed number of users who wait for each answer.
    Closed,
}

/// Flags of `client load`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How requests arrive.
    #[arg(long, env = "CLIENT_ARRIVALS", value_enum, default_value = "poisson")]
    pub arrivals: ArrivalKind,
    /// Requests per second.
    #[arg(long, env = "CLIENT_RATE", default_value_t = 100.0, value_name = "N")]
    pub rate: f64,
    /// A rate that changes instead of --rate and --duration: `30s:0..500,60s:500` rises to 500
    /// requests/s within 30 s and stays there for 60 s.
    #[arg(long, env = "CLIENT_STAGES", value_name = "TIME:RATE,...", value_parser = Stages::from_str,
          conflicts_with_all = ["rate", "duration", "users", "think"])]
    pub stages: Option<Stages>,
    /// Users of a closed loop.
    #[arg(long, env = "CLIENT_USERS", default_value_t = 10, value_name = "N")]
    pub users: usize,
    /// Pause of a user between an answer and the next request.
    #[arg(long, env = "CLIENT_THINK", default_value = "0s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub think: Duration,
    /// How long requests are sent.
    #[arg(long, env = "CLIENT_DURATION", default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub duration: Duration,
    /// Requests due within this time of the start are not counted. Default: 3s; with --targets none.
    #[arg(long, env = "CLIENT_WARM_UP", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub warm_up: Option<Duration>,
    /// Sender threads. Default: one per processor.
    #[arg(long, env = "CLIENT_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Close the connection after each answer.
    #[arg(long, env = "CLIENT_NO_KEEP_ALIVE", value_parser = BoolishValueParser::new())]
    pub no_keep_alive: bool,
    /// Version of HTTP.
    #[arg(long, env = "CLIENT_HTTP", value_enum, default_value = "http1")]
    pub http: Protocol,
    /// Keep at most this many single samples, spread over the run; quantiles cover all requests.
    #[arg(long, env = "CLIENT_KEEP_SAMPLES", default_value_t = 100_000, value_name = "N")]
    pub keep_samples: usize,
    /// Serve Prometheus metrics here (`/metrics`) during the run, such as 127.0.0.1:9464.
    #[arg(long, env = "CLIENT_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,
    /// Have these agents send the requests instead of this program, as one (`client agent` on each
    /// machine): connections are those of all of them, threads those of each.
    #[arg(long, env = "CLIENT_AGENTS", value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub agents: Vec<String>,
    /// File with the token that the agents were given.
    #[arg(long, env = "CLIENT_AGENT_TOKEN_FILE", value_name = "FILE", requires = "agents")]
    pub agent_token_file: Option<PathBuf>,
    /// The requests to send.
    #[command(flatten)]
    pub workload: WorkloadArgs,
    /// What makes a run valid.
    #[command(flatten)]
    pub rules: Rules,
    /// Flags of every experiment.
    #[command(flatten)]
    pub options: Options,
}

/// Sends the load, writes the results folder, prints the summary and the verdict.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let Prepared { workload, instants } = args.workload.build(&args.options)?;
    let trial = trial(args, instants)?;
    trial.validate()?;
    let workload = Arc::new(workload);
    let senders = Senders::ready(args, &trial, &workload)?;
    let metrics = args.metrics_listen.map(Metrics::listen).transpose()?;
    if let Some(metrics) = &metrics {
        tracing::info!("metrics at http://{}/metrics", metrics.address());
    }
    let folder = Folder::of(&args.options, "load")?;
    let trial = senders.trial(trial);
    let settings = serde_json::json!({
        "trial": &trial, "route": workload.route(), "agents": &args.agents,
        "asked_rate": trial.arrivals.offered_rate(),
    });
    let manifest = Manifest::collect("load", &args.options, settings);
    folder.write_json("manifest.json", &manifest)?;
    let mut journal = Journal::create(&folder)?;
    let shown =
        Shown { label: "load", trial: "load", journal: &mut journal, metrics: metrics.as_ref() };
    let watch = match &senders {
        Senders::Here(destination) => workers::Watch::start(&trial.arrivals, destination),
        Senders::Elsewhere(_) => None,
    };
    let observed = match senders {
        Senders::Here(destination) => progress::run(&trial, &destination, &workload, shown)?,
        Senders::Elsewhere(agents) => progress::run_elsewhere(*agents, &workload, shown)?,
    };
    let workers = watch.map(workers::Watch::read).unwrap_or_default();
    let summary = Summary::new(&trial, &observed.run, observed.interrupted, &args.rules);
    let summary = Summary { workers, ..summary };
    folder.keep(folder.write_json("summary.json", &summary));
    let rows = observed.run.samples.iter().map(|sample| Row::new("load", sample, &workload));
    if folder.keep(folder.write_csv("samples.csv", rows)) {
        folder.keep(journal.remove());
    }
    draw(&folder, &manifest, &trial, &summary, &observed.run);
    if args.options.json {
        serde_json::to_writer_pretty(&mut *out, &summary).context("writing JSON")?;
        writeln!(out)?;
    } else {
        write!(out, "{summary}")?;
        writeln!(out, "results in {}; the page is report.html", folder.path().display())?;
    }
    folder.all_kept()?;
    Ok(ExitCode::from(summary.exit_status()))
}

/// Writes everything that is derived from the measurements, for people and for other programs.
fn draw(folder: &Folder, manifest: &Manifest, trial: &Trial, summary: &Summary, run: &Run) {
    let charts =
        charts(run, &summary.timeline, &summary.workers, (summary.asked_rate, "all requests"));
    let page = html::page(manifest, trial, summary, &charts);
    folder.keep(folder.write("report.html", page.as_bytes()));
    for (name, chart) in &charts {
        folder.keep(folder.write(name, chart.to_svg().as_bytes()));
    }
    folder.keep(folder.write("load-run.svg", course(&charts).as_bytes()));
    folder.keep(folder.write("latency.hgrm", hgrm::text(&run.tally.latency).as_bytes()));
    let log = hlog::text(run, &manifest.started);
    folder.keep(log.and_then(|log| folder.write("latency.hlog", &log)));
}

/// The senders of the requests.
enum Senders {
    /// This program, to this destination.
    Here(Destination),
    /// Agents on other machines send them.
    Elsewhere(Box<Agents>),
}

impl Senders {
    /// The senders that the flags name, once it is certain that they can start.
    fn ready(args: &Args, trial: &Trial, workload: &Workload) -> anyhow::Result<Self> {
        if args.agents.is_empty() {
            return Ok(Self::Here(args.options.destination(args.http)?));
        }
        let wanted = Wanted {
            addresses: &args.agents,
            secret: Secret::load(args.agent_token_file.as_deref())?,
            trial,
            workload,
            options: &args.options,
            threads: args.threads,
        };
        Ok(Self::Elsewhere(Box::new(Agents::prepare(&wanted)?)))
    }

    /// The trial as the senders run it.
    fn trial(&self, trial: Trial) -> Trial {
        match self {
            Self::Here(_) => trial,
            Self::Elsewhere(agents) => agents.trial().clone(),
        }
    }
}

/// How requests arrive, and for how long.
fn arrivals(args: &Args, instants: Option<Arc<[Duration]>>) -> Result<(Arrivals, Duration), Error> {
    if let Some(instants) = instants {
        let duration = schedule::length_of(&instants);
        return Ok((Arrivals::Recorded { instants }, duration));
    }
    if let Some(stages) = &args.stages {
        let is_uniform = match args.arrivals {
            ArrivalKind::Poisson => false,
            ArrivalKind::Uniform => true,
            ArrivalKind::SeedCompat | ArrivalKind::Closed => {
                let text = "--stages change the rate of poisson and uniform arrivals";
                return Err(Error::Usage(text.to_owned()));
            }
        };
        let duration = stages.duration();
        return Ok((Arrivals::Staged { stages: stages.clone(), is_uniform }, duration));
    }
    let arrivals = match args.arrivals {
        ArrivalKind::Poisson => Arrivals::Poisson { rate: args.rate },
        ArrivalKind::Uniform => Arrivals::Uniform { rate: args.rate },
        ArrivalKind::SeedCompat => Arrivals::SeedCompat { mean_wait: 1.0 / args.rate },
        ArrivalKind::Closed => Arrivals::Closed { users: args.users, think: args.think },
    };
    Ok((arrivals, args.duration))
}

const WARM_UP: Duration = Duration::from_secs(3);

fn trial(args: &Args, instants: Option<Arc<[Duration]>>) -> Result<Trial, Error> {
    let usual = if instants.is_some() { Duration::ZERO } else { WARM_UP };
    let (arrivals, duration) = arrivals(args, instants)?;
    let expected = arrivals.offered_rate().unwrap_or(0.0) * duration.as_secs_f64();
    let mut trial = Trial::new(&args.options, arrivals);
    trial.duration = Some(duration);
    trial.warm_up = args.warm_up.unwrap_or(usual);
    trial.protocol = args.http;
    trial.reuse = if args.no_keep_alive { Reuse::Close } else { Reuse::KeepAlive };
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    trial.threads = args.threads.unwrap_or(cores).min(args.options.connections);
    if args.arrivals == ArrivalKind::Closed {
        // A thread without a user would leave its share of the workload unsent.
        trial.threads =
            trial.threads.min(NonZeroUsize::new(args.users).unwrap_or(NonZeroUsize::MIN));
    }
    trial.keep_samples = args.keep_samples;
    let every = (expected / args.keep_samples.max(1) as f64).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float to integer cast saturates, which is what is wanted"
    )]
    let every = every as u64;
    trial.keep_every = NonZeroU64::new(every).unwrap_or(NonZeroU64::MIN);
    Ok(trial)
}
