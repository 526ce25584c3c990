//! The arguments of `client simulate`, and the scenarios that they describe.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::builder::BoolishValueParser;
use fleet::elastic::WorkerRange;
use fleet::policy::Kind;

use super::clock::nanos_of;
use super::occupancy::{self, Occupancy};
use super::quota::Quota;
use super::replay::Replay;
use super::scenario::{Batch, Crashes, Elastic, Limits, Scaling, Scenario};
use super::service::{Measured, ServiceTime};
use crate::error::Error;
use crate::schedule::{Arrivals, Stages};

const EXAMPLES: &str = "\
Examples:
  client simulate                                      4 workers at 80 %: random against p2c
  client simulate --workers 1000 --utilisation 0.9 --policy p2c,peak-ewma,random
  client simulate --rate 100 --service-from results/rtt-…   with service times as measured
  client simulate --policy p2c --against results/load-…     how close is it to what was measured?
  client simulate --slow 1x3 --policy random,p2c,peak-ewma  one worker is three times slower
  client simulate --crash-every 10m --repair 30s            workers die and come back
  client simulate --rate 400 --autoscale 4..40 --service const:50ms
  client simulate --workers 1..8 --start-up 1s --stages 30s:0..300,60s:300,90s:20 --policy p2c
  client simulate --in-flight 1 --policy random             one queue for all: M/M/c";

/// Arguments of `client simulate`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    service: Service,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    worker: WorkerArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    trouble: Trouble,
    #[command(flatten)]
    scaling: ScalingArgs,
    /// JSON instead of a table.
    #[arg(long, env = "CLIENT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
}

/// How long workers compute.
#[derive(Debug, Clone, clap::Args)]
pub struct Service {
    /// Service time: const:MEAN, exp:MEAN or lognormal:MEAN:VARIATION.
    #[arg(long, env = "CLIENT_SERVICE", default_value = "exp:20ms", value_name = "DISTRIBUTION")]
    pub service: ServiceTime,
    /// Service times as measured in a results folder; take a run at low load.
    #[arg(long, env = "CLIENT_SERVICE_FROM", value_name = "DIR")]
    pub service_from: Option<PathBuf>,
}

impl Service {
    /// The chosen distribution, and the network delay if it was measured as well.
    pub fn resolve(&self) -> Result<Measured> {
        match &self.service_from {
            Some(folder) => ServiceTime::measured(folder),
            None => Ok(Measured { service: self.service.clone(), network: Duration::ZERO }),
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Load")]
struct Load {
    /// Workers, 1 to 10,000. With MIN..MAX as many as the load needs, by the rule of `balancer --spawn
    /// MIN..MAX`.
    #[arg(long, env = "CLIENT_WORKERS", default_value_t = WorkerRange::fixed(4), value_name = "N|MIN..MAX")]
    workers: WorkerRange,
    /// Arrivals per second.
    #[arg(long, env = "CLIENT_RATE", conflicts_with = "utilisation")]
    rate: Option<f64>,
    /// Arrivals as in the measured run of this results folder, instant by instant.
    #[arg(long, env = "CLIENT_ARRIVALS_FROM", value_name = "DIR",
          conflicts_with_all = ["rate", "utilisation", "uniform", "requests", "warm_up"])]
    arrivals_from: Option<PathBuf>,
    /// Compare the simulation with the measured run of this results folder: its arrivals and what
    /// each of its requests cost a worker, or, with --service-from (the same folder or another),
    /// costs drawn from that; picks, queues and network are simulated, 20 times over. Shows the
    /// quantiles of both.
    #[arg(long, env = "CLIENT_AGAINST", value_name = "DIR",
          conflicts_with_all = ["quota", "rate", "utilisation", "uniform", "requests", "warm_up", "arrivals_from"])]
    against: Option<PathBuf>,
    /// Arrivals as a share of what the fleet can do, at its largest if its size follows the load.
    #[arg(long, env = "CLIENT_UTILISATION", default_value_t = 0.8)]
    utilisation: f64,
    /// A rate that changes instead of --rate: `30s:0..500,60s:500,30s:0`, as `client load` has it.
    #[arg(long, env = "CLIENT_STAGES", value_name = "TIME:RATE,...",
          conflicts_with_all = ["rate", "utilisation", "requests", "warm_up", "arrivals_from", "against"])]
    stages: Option<Stages>,
    /// Equal gaps between arrivals instead of a Poisson process.
    #[arg(long, env = "CLIENT_UNIFORM", value_parser = BoolishValueParser::new())]
    uniform: bool,
    /// Policies to compare, under the same requests.
    #[arg(long, env = "CLIENT_POLICY", value_delimiter = ',', default_value = "random,p2c")]
    policy: Vec<Kind>,
    /// Requests to simulate for each policy. Default: a million, or 500 for each worker if that is
    /// more, and up to 16 times as many while that is too short to say anything.
    #[arg(long, env = "CLIENT_REQUESTS")]
    requests: Option<u64>,
    /// Share of the requests, from the first, that is not counted. Default: as many as the run
    /// shows to come before its steady state (MSER).
    #[arg(long, env = "CLIENT_WARM_UP_SHARE")]
    warm_up: Option<f64>,
    /// The same seed gives the same result, bit for bit.
    #[arg(long, env = "CLIENT_SEED", default_value_t = 1)]
    seed: u64,
    /// One-way delay between balancer and worker; at least what --service-from shows.
    #[arg(long, env = "CLIENT_NETWORK", default_value = "0s", value_parser = humantime::parse_duration)]
    network: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Workers")]
struct WorkerArgs {
    /// Executors of each worker.
    #[arg(long, env = "CLIENT_EXECUTORS", default_value_t = 1)]
    threads: usize,
    /// Limit on the CPU of each worker, as in a slice: QUOTA/PERIOD such as 2500us/10ms. Service
    /// times are CPU times then.
    #[arg(long, env = "CLIENT_QUOTA", value_parser = quota, value_name = "QUOTA/PERIOD")]
    quota: Option<Quota>,
    /// Most requests of a batch.
    #[arg(long, env = "CLIENT_BATCH", default_value_t = 1)]
    batch: usize,
    /// How long the oldest request waits for its batch to fill.
    #[arg(long, env = "CLIENT_BATCH_DELAY", default_value = "0s", value_parser = humantime::parse_duration)]
    batch_delay: Duration,
    /// Cost of each further request in a batch, as a share of its cost alone: 1 means that batching gains nothing.
    #[arg(long, env = "CLIENT_BATCH_MARGINAL", default_value_t = 1.0)]
    batch_marginal: f64,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Requests that may wait in one worker.
    #[arg(long, env = "CLIENT_WORKER_QUEUE", default_value_t = 1_000_000)]
    worker_queue: usize,
    /// Requests that the balancer has on one worker at a time; default: no limit.
    #[arg(long, env = "CLIENT_IN_FLIGHT", value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: Option<u32>,
    /// Requests that may wait in the balancer while every worker has its limit.
    #[arg(long, env = "CLIENT_BALANCER_QUEUE", default_value_t = 1_000_000)]
    balancer_queue: usize,
    /// How long they may wait there. In a queue that has not been empty for as long, a tenth of it.
    #[arg(long, env = "CLIENT_QUEUE_TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    queue_time: Duration,
    /// Time after which a request is given up.
    #[arg(long, env = "CLIENT_DEADLINE", default_value = "1h", value_parser = humantime::parse_duration)]
    deadline: Duration,
    /// Attempts for one request when workers break, the first included.
    #[arg(long, env = "CLIENT_ATTEMPTS", default_value_t = 2)]
    attempts: u8,
    /// How long a recovered worker gets less than its share.
    #[arg(long, env = "CLIENT_SLOW_START", default_value = "10s", value_parser = humantime::parse_duration)]
    slow_start: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Faults")]
struct Trouble {
    /// Slow workers, how many and how many times: 1x3 is one worker that takes three times as long.
    #[arg(long, env = "CLIENT_SLOW", value_parser = slow, value_name = "COUNTxFACTOR")]
    slow: Option<Slow>,
    /// Mean time that a worker runs before it crashes.
    #[arg(long, env = "CLIENT_CRASH_EVERY", value_parser = humantime::parse_duration)]
    crash_every: Option<Duration>,
    /// How long a crashed worker takes to come back.
    #[arg(long, env = "CLIENT_REPAIR", default_value = "10s", value_parser = humantime::parse_duration)]
    repair: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Autoscaling")]
struct ScalingArgs {
    /// Scale the fleet with its load, within MIN..MAX workers, by the rule of Kubernetes' autoscaler.
    #[arg(long, env = "CLIENT_AUTOSCALE", value_parser = range, value_name = "MIN..MAX")]
    autoscale: Option<Range>,
    /// The utilisation to aim at.
    #[arg(long, env = "CLIENT_SCALE_TARGET", default_value_t = 0.6)]
    scale_target: f64,
    /// How often the fleet is measured.
    #[arg(long, env = "CLIENT_SCALE_EVERY", default_value = "15s", value_parser = humantime::parse_duration)]
    scale_every: Duration,
    /// How long a new worker takes to be ready.
    #[arg(long, env = "CLIENT_SCALE_BOOT", default_value = "60s", value_parser = humantime::parse_duration)]
    scale_boot: Duration,
    /// With --workers MIN..MAX: how long a worker takes to start.
    #[arg(long, env = "CLIENT_START_UP", default_value = "1s", value_parser = humantime::parse_duration)]
    start_up: Duration,
    /// With --workers MIN..MAX: how long fewer workers must have been enough before one is stopped.
    #[arg(long, env = "CLIENT_SHRINK_AFTER", default_value = "30s", value_parser = humantime::parse_duration)]
    shrink_after: Duration,
    /// With --workers MIN..MAX: start another worker also while more than 5 % of the requests take longer.
    #[arg(long, env = "CLIENT_SCALE_LATENCY", value_parser = humantime::parse_duration)]
    scale_latency: Option<Duration>,
}

/// Most requests of stages.
const MAX_STAGED: usize = 100_000_000;

/// How many workers are slow, and how many times slower they are.
type Slow = (usize, f64);
/// Minimum and maximum, both inclusive.
type Range = (usize, usize);

impl Args {
    /// One scenario per policy, otherwise identical.
    pub(crate) fn scenarios(&self) -> Result<Vec<Scenario>> {
        let Occupancy { measured: Measured { service, network }, replayed, rest } =
            self.service_times()?;
        // With an autoscaler, the fleet must begin within its range; `check` refuses anything else.
        let scenario = Scenario {
            threads: self.worker.threads,
            uniform: self.load.uniform,
            warm_up: self.load.warm_up.unwrap_or(0.0),
            removes_transient: self.load.warm_up.is_none(),
            seed: self.load.seed,
            network: self.load.network.max(network),
            batch: Batch {
                max: self.worker.batch,
                delay: self.worker.batch_delay,
                marginal: self.worker.batch_marginal,
            },
            limits: self.limits(),
            slow: self.trouble.slow,
            crashes: self
                .trouble
                .crash_every
                .map(|every| Crashes { every, repair: self.trouble.repair }),
            scaling: self.scaling(),
            elastic: self.elastic(),
            quota: self.worker.quota,
            costs: replayed.as_ref().map(|it| Arc::clone(&it.costs)),
            paces: replayed.map(|it| it.paces),
            rest,
            ..Scenario::new(self.load.workers.min, 1.0, service)
        };
        let enough = (scenario.range().max as u64).saturating_mul(500).max(1_000_000);
        let scenario = Scenario {
            rate: self.load.rate.unwrap_or(self.load.utilisation * scenario.capacity()),
            requests: self.load.requests.unwrap_or(enough),
            ..scenario
        };
        let replayed = self.load.arrivals_from.as_deref().or(self.against());
        let replay = replayed.map(Replay::read).transpose()?;
        let scenario = replay.map_or(scenario.clone(), |replay| replay.of(scenario));
        let scenario = match &self.load.stages {
            Some(stages) => staged(scenario, stages)?,
            None => scenario,
        };
        scenario.check().map_err(|error| Error::Usage(error.to_string()))?;
        let under = |&policy: &Kind| Scenario { policy, ..scenario.clone() };
        Ok(self.load.policy.iter().map(under).collect())
    }

    /// How long workers compute, per request if a run shows that. It can be derived from the times
    /// of the answers only if a worker answers requests in sequence.
    fn service_times(&self) -> Result<Occupancy> {
        let one_by_one = self.worker.threads == 1 && self.worker.batch == 1;
        match (self.against(), &self.service.service_from) {
            (Some(folder), None) if one_by_one => occupancy::read(folder),
            (Some(folder), None) => Ok(ServiceTime::measured(folder)?.into()),
            (Some(_), Some(folder)) if one_by_one => {
                Ok(Occupancy { replayed: None, ..occupancy::read(folder)? })
            }
            (None, _) | (_, Some(_)) => Ok(self.service.resolve()?.into()),
        }
    }

    /// Whether a run that turns out to be too short may be extended.
    pub(crate) fn may_go_on(&self) -> bool {
        self.load.requests.is_none()
            && self.load.arrivals_from.is_none()
            && self.load.stages.is_none()
    }

    /// The results folder that service times are drawn from.
    pub(crate) fn service_from(&self) -> Option<&Path> {
        self.service.service_from.as_deref()
    }

    /// The results folder of the run to compare with.
    pub(crate) fn against(&self) -> Option<&Path> {
        self.load.against.as_deref()
    }

    fn limits(&self) -> Limits {
        Limits {
            worker_queue: self.limits.worker_queue,
            in_flight: self.limits.in_flight.unwrap_or(u32::MAX),
            balancer_queue: self.limits.balancer_queue,
            queue_time: self.limits.queue_time,
            deadline: self.limits.deadline,
            attempts: self.limits.attempts,
            slow_start: self.limits.slow_start,
        }
    }

    fn elastic(&self) -> Option<Elastic> {
        let range = self.load.workers;
        let ScalingArgs { start_up, shrink_after, scale_latency: latency, .. } = self.scaling;
        (!range.is_fixed()).then_some(Elastic { range, start_up, shrink_after, latency })
    }

    fn scaling(&self) -> Option<Scaling> {
        let (min, max) = self.scaling.autoscale?;
        Some(Scaling {
            min,
            max,
            target: self.scaling.scale_target,
            every: self.scaling.scale_every,
            boot: self.scaling.scale_boot,
        })
    }
}

/// The scenario under a changing rate, from its first request to the end of the last stage.
fn staged(scenario: Scenario, stages: &Stages) -> Result<Scenario> {
    let is_uniform = scenario.uniform;
    let arrivals = Arrivals::Staged { stages: stages.clone(), is_uniform };
    let mut at = Duration::ZERO;
    let instants = arrivals.schedule(scenario.seed)?.map_while(|gap| {
        at = at.checked_add(gap)?;
        (at < stages.duration()).then(|| nanos_of(at))
    });
    let instants: Arc<[u64]> = instants.take(MAX_STAGED).collect();
    ensure!(
        instants.len() < MAX_STAGED,
        Error::Usage(format!("stages of {MAX_STAGED} requests or more"))
    );
    ensure!(!instants.is_empty(), Error::Usage("nothing arrives in these stages".to_owned()));
    Ok(Scenario {
        requests: instants.len() as u64,
        rate: stages.mean_rate(),
        warm_up: 0.0,
        removes_transient: false,
        instants: Some(instants),
        lasts: stages.duration(),
        ..scenario
    })
}

fn slow(text: &str) -> Result<Slow, String> {
    let parsed = text
        .split_once('x')
        .and_then(|(count, factor)| Some((count.parse().ok()?, factor.parse().ok()?)));
    parsed.ok_or_else(|| "COUNTxFACTOR, such as 1x3".to_owned())
}

/// Time between two timer ticks of most kernels (250 Hz).
const TICK: Duration = Duration::from_millis(4);

fn quota(text: &str) -> Result<Quota, String> {
    let time = |text: &str| humantime::parse_duration(text).ok().filter(|time| !time.is_zero());
    let parsed = text.split_once('/').and_then(|(quota, period)| {
        Some(Quota { quota: time(quota)?, period: time(period)?, tick: TICK })
    });
    parsed.ok_or_else(|| "QUOTA/PERIOD, such as 2ms/10ms".to_owned())
}

fn range(text: &str) -> Result<Range, String> {
    let parsed =
        text.split_once("..").and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    parsed.ok_or_else(|| "MIN..MAX, such as 2..20".to_owned())
}
