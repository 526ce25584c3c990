//! What is simulated, as one complete value that can be checked.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use fleet::elastic::WorkerRange;
use fleet::policy::Kind;

use super::pace::Pace;
use super::quota::Quota;
use super::rest::Rest;
use super::service::ServiceTime;

/// Maximum number of workers in a simulation.
pub const MAX_WORKERS: usize = 10_000;

/// Each crash is an event, as each request is.
const MAX_CRASHES: f64 = 1e8;

/// A fleet, its load and its faults.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Workers at the start.
    pub workers: usize,
    /// Executors of each worker.
    pub threads: usize,
    /// Arrivals per second.
    pub rate: f64,
    /// Equal gaps instead of a Poisson process.
    pub uniform: bool,
    /// Time that a worker computes on one request.
    pub service: ServiceTime,
    /// How the worker for the next request is picked.
    pub policy: Kind,
    /// How many requests arrive.
    pub requests: u64,
    /// Share of the requests, from the first, that is not counted.
    pub warm_up: f64,
    /// Whether to also leave out the first requests that turn out to precede the steady state.
    pub removes_transient: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// One-way delay between balancer and worker.
    pub network: Duration,
    /// How workers form batches.
    pub batch: Batch,
    /// Lengths of the queues and limits on waiting.
    pub limits: Limits,
    /// Nodes that compute slower: how many, and how many times slower.
    pub slow: Option<(usize, f64)>,
    /// Crashes of workers, if there are any.
    pub crashes: Option<Crashes>,
    /// A fleet that follows its load.
    pub scaling: Option<Scaling>,
    /// A balancer that starts and stops its own workers, beginning with `workers` of them.
    pub elastic: Option<Elastic>,
    /// The minimum length of the simulation.
    pub lasts: Duration,
    /// A limit on the CPU of each worker; service times are then CPU times.
    pub quota: Option<Quota>,
    /// When requests arrive, in nanoseconds, instead of by `rate`: the schedule of a measured run,
    /// or one drawn from stages.
    pub instants: Option<Arc<[u64]>>,
    /// Service time of each request in seconds, instead of draws from `service`: what each request of
    /// a measured run cost its worker.
    pub costs: Option<Arc<[f64]>>,
    /// How fast each worker is at each moment; `None` for constant speed. If there are more workers
    /// than paces, some of them share a pace.
    pub paces: Option<Arc<[Pace]>>,
    /// What a request saves after a rest of its worker; `None` for nothing.
    pub rest: Option<Rest>,
}

/// How a worker forms batches, as the worker's batcher does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Batch {
    /// Maximum size of a batch.
    pub max: usize,
    /// How long the oldest request waits for its batch to fill.
    pub delay: Duration,
    /// Cost of each further request of a batch, as a share of its own service time: 1 where
    /// batching gains nothing, 0 where it is free.
    pub marginal: f64,
}

/// Bounds of queues and times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Requests that may wait in one worker.
    pub worker_queue: usize,
    /// Requests that the balancer may have in flight on one worker.
    pub in_flight: u32,
    /// Requests that may wait in the balancer while every worker is at its limit.
    pub balancer_queue: usize,
    /// How long they may wait; a queue that persists for longer is kept short.
    pub queue_time: Duration,
    /// Time after which a request is given up.
    pub deadline: Duration,
    /// Attempts for one request, the first included.
    pub attempts: u8,
    /// How long a recovered worker gets less than its share.
    pub slow_start: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            worker_queue: 1_000_000,
            in_flight: u32::MAX,
            balancer_queue: 1_000_000,
            queue_time: Duration::from_hours(1),
            deadline: Duration::from_hours(1),
            attempts: 2,
            slow_start: Duration::from_secs(10),
        }
    }
}

/// Workers crash and come back, each independently of the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crashes {
    /// Mean time that a worker runs before it crashes.
    pub every: Duration,
    /// How long it takes to come back.
    pub repair: Duration,
}

/// A fleet that grows and shrinks with its utilisation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// The fewest workers.
    pub min: usize,
    /// The most workers.
    pub max: usize,
    /// The target utilisation.
    pub target: f64,
    /// How often it is measured.
    pub every: Duration,
    /// How long a new worker takes to be ready.
    pub boot: Duration,
}

/// A balancer's own workers, as with `balancer --spawn MIN..MAX`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elastic {
    /// How many there may be.
    pub range: WorkerRange,
    /// How long one takes to start.
    pub start_up: Duration,
    /// How long fewer must have been enough before one is stopped.
    pub shrink_after: Duration,
    /// The time within which 95 % of the requests should be answered, if latency is to count.
    pub latency: Option<Duration>,
}

impl Scenario {
    /// The cost of request `number` in seconds, if known.
    pub(crate) fn cost_of(&self, number: u64) -> Option<f64> {
        self.costs.as_ref()?.get(usize::try_from(number).ok()?).copied()
    }

    /// How fast worker `number` is, if its speed changes.
    pub(crate) fn pace_of(&self, number: usize) -> Option<&Pace> {
        let paces = self.paces.as_ref().filter(|paces| !paces.is_empty())?;
        paces.get(number % paces.len())
    }

    /// `workers` single-threaded workers under `rate`, with nothing going wrong.
    pub fn new(workers: usize, rate: f64, service: ServiceTime) -> Self {
        Self {
            workers,
            threads: 1,
            rate,
            uniform: false,
            service,
            policy: Kind::Random,
            requests: 1_000_000,
            warm_up: 0.1,
            removes_transient: false,
            seed: 1,
            network: Duration::ZERO,
            batch: Batch { max: 1, delay: Duration::ZERO, marginal: 1.0 },
            limits: Limits::default(),
            slow: None,
            crashes: None,
            scaling: None,
            elastic: None,
            lasts: Duration::ZERO,
            quota: None,
            instants: None,
            costs: None,
            paces: None,
            rest: None,
        }
    }

    /// How many workers there may be.
    pub(crate) fn range(&self) -> WorkerRange {
        let scaling = self.scaling.map(|Scaling { min, max, .. }| WorkerRange { min, max });
        let resized = self.elastic.map(|elastic| elastic.range).or(scaling);
        resized.unwrap_or(WorkerRange::fixed(self.workers))
    }

    /// Requests per second that the largest fleet can serve, not counting batching and slow nodes.
    pub(crate) fn capacity(&self) -> f64 {
        let share = self.quota.map_or(1.0, |quota| quota.share());
        self.range().max as f64 * self.threads as f64 * share / self.service.mean()
    }

    /// Share of the largest fleet that the load keeps busy, not counting batching and slow nodes.
    pub fn offered_utilisation(&self) -> f64 {
        self.rate / self.capacity()
    }

    /// The same for what the fleet can really serve: in full batches, and with its slow nodes.
    pub fn load(&self) -> f64 {
        let Batch { max, marginal, .. } = self.batch;
        let gain = max as f64 / (1.0 + (max - 1) as f64 * marginal);
        let nodes = self.range().max as f64;
        let speed = self.slow.map_or(1.0, |(count, factor)| {
            let slow = count as f64;
            (nodes - slow + slow / factor) / nodes
        });
        self.offered_utilisation() / gain.max(1.0) / speed
    }

    /// The expected number of crashes.
    fn expected_crashes(&self) -> f64 {
        let length = (self.requests as f64 / self.rate).max(self.lasts.as_secs_f64());
        self.crashes.map_or(0.0, |crashes| {
            let cycle = crashes.every.saturating_add(crashes.repair).as_secs_f64();
            length / cycle * self.range().max as f64
        })
    }

    /// Refuses what cannot be simulated.
    pub fn check(&self) -> Result<()> {
        ensure!(
            (1..=MAX_WORKERS).contains(&self.workers),
            "1 to {MAX_WORKERS} workers can be simulated, not {}",
            self.workers
        );
        self.check_sizes()?;
        ensure!(self.threads >= 1 && self.batch.max >= 1, "threads and batches are at least 1");
        ensure!(
            self.rate.is_finite() && (1e-3..=1e9).contains(&self.rate),
            "the rate must be 0.001 to 1e9 requests per second, not {}",
            self.rate
        );
        ensure!(
            (0.0..=10.0).contains(&self.batch.marginal),
            "the cost of a further request in a batch is a share from 0 to 10"
        );
        ensure!((0.0..1.0).contains(&self.warm_up), "the warm-up is a share below 1");
        ensure!(self.requests >= 1, "nothing arrives");
        if let Some(instants) = &self.instants {
            ensure!(
                instants.len() as u64 >= self.requests && instants.is_sorted(),
                "fewer instants than requests, or out of order"
            );
        }
        if let Some(quota) = self.quota {
            let share = quota.share();
            ensure!((0.001..=1.0).contains(&share), "a quota of {share} CPUs");
            ensure!(self.threads == 1, "a quota is simulated for one executor a worker");
        }
        ensure!(self.limits.attempts >= 1, "every request needs an attempt");
        self.check_trouble()
    }

    /// Refuses faults that cannot be simulated.
    fn check_trouble(&self) -> Result<()> {
        if let Some((count, factor)) = self.slow {
            ensure!(count <= self.workers, "{count} slow workers of {}", self.workers);
            ensure!((1e-3..=1e3).contains(&factor), "a slowness from 0.001 to 1000");
        }
        if let Some(crashes) = self.crashes {
            ensure!(!crashes.every.is_zero(), "the time before a crash must not be zero");
            let expected = self.expected_crashes();
            ensure!(
                expected <= MAX_CRASHES,
                "{expected:.0} crashes are to be expected; {MAX_CRASHES:.0} are the most that are simulated"
            );
        }
        Ok(())
    }

    /// Refuses a fleet that cannot grow and shrink as configured.
    fn check_sizes(&self) -> Result<()> {
        if let Some(elastic) = self.elastic {
            let range = elastic.range.min..=elastic.range.max;
            ensure!(
                elastic.range.max <= MAX_WORKERS && range.contains(&self.workers),
                "a fleet that follows its load begins with a size of its range, of at most {MAX_WORKERS}"
            );
            ensure!(
                self.scaling.is_none(),
                "either the balancer resizes the fleet or an autoscaler"
            );
            ensure!(!elastic.shrink_after.is_zero(), "shrink-after must be longer than 0");
        }
        if let Some(scaling) = self.scaling {
            let range = scaling.min..=scaling.max;
            ensure!(
                scaling.min >= 1 && scaling.max <= MAX_WORKERS && range.contains(&self.workers),
                "autoscaling needs 1 <= min <= workers <= max <= {MAX_WORKERS}"
            );
            ensure!((0.05..=1.0).contains(&scaling.target), "a target utilisation of 0.05 to 1");
            ensure!(!scaling.every.is_zero(), "the scaling interval must not be zero");
        }
        Ok(())
    }
}
