//! Adapts the number of workers to the load: measures it, and acts on it.
//!
//! [`fleet::elastic`] decides, based on how busy the workers were in each half second and how many
//! requests waited.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use fleet::Endpoint;
use fleet::elastic::{Decision, Meter, Observation, Reason, Rules, SAMPLE, Scaler, WorkerRange};
use fleet::state::Probe;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::slot::{Stage, WorkerState};
use super::{LONG_START, Stop, Supervisor, name, stopped};

/// The state of a fleet whose size follows the load, for operators.
#[derive(Debug, Clone, Copy)]
pub struct Elasticity {
    /// The allowed number of workers.
    pub range: WorkerRange,
    /// The latest observation.
    pub seen: Observation,
    /// The fraction of time in which workers were busy.
    pub utilisation: f64,
    /// Why there are this many workers, once that has been decided.
    pub reason: Option<Reason>,
    /// Workers started because of the load so far.
    pub started: u64,
    /// Workers stopped for lack of load so far.
    pub stopped: u64,
}

/// The decisions so far.
#[derive(Debug, Default)]
pub(super) struct Course {
    seen: Observation,
    reason: Option<Reason>,
    started: u64,
    stopped: u64,
}

impl Supervisor {
    /// How the number of workers follows the load; `None` if it is fixed.
    pub fn elasticity(&self) -> Option<Elasticity> {
        let range = Some(self.spawn.range).filter(|range| !range.is_fixed())?;
        let &Course { seen, reason, started, stopped } =
            &*self.course.lock().unwrap_or_else(PoisonError::into_inner);
        let utilisation = seen.utilisation(self.spawn.threads);
        Some(Elasticity { range, seen, utilisation, reason, started, stopped })
    }

    /// The workers by stage, and the endpoints of those that take requests.
    fn census(&self, now: Instant) -> Census {
        let snapshot = self.pool.snapshot();
        let known: HashMap<&str, &Arc<Endpoint>> =
            snapshot.all().iter().map(|one| (one.name(), one)).collect();
        let mut census = Census::default();
        for (number, stage) in self.slots().stages(now) {
            let endpoint = known.get(&*name(number));
            census.add(number, stage, endpoint.copied());
        }
        census
    }
}

/// Workers by stage.
#[derive(Debug, Default)]
struct Census {
    seen: Observation,
    available: Vec<Arc<Endpoint>>,
    /// Numbers of workers that take requests, and of those that do not and are not about to.
    taking: Vec<usize>,
    idle: Vec<usize>,
}

impl Census {
    fn add(&mut self, number: usize, stage: Stage, endpoint: Option<&Arc<Endpoint>>) {
        let is_available = endpoint.is_some_and(|endpoint| endpoint.state().is_available());
        let was_up = endpoint.is_some_and(|endpoint| endpoint.state().probe != Probe::New);
        match stage {
            Stage::Stopping => self.seen.stopping += 1,
            Stage::Starting => self.seen.starting += 1,
            Stage::Listening { .. } if is_available => {
                self.seen.available += 1;
                self.taking.push(number);
                self.available.extend(endpoint.cloned());
            }
            Stage::Listening { age } if !was_up && age < LONG_START => self.seen.starting += 1,
            Stage::Listening { .. } if was_up => {
                self.seen.out += 1;
                self.idle.push(number);
            }
            Stage::Listening { .. } | Stage::Failing => {
                self.seen.failing += 1;
                self.idle.push(number);
            }
        }
    }

    /// The worker that can best be spared.
    fn spare(&self) -> Option<usize> {
        self.idle.last().or(self.taking.last()).copied()
    }
}

/// Starts and stops workers with the load, until the balancer stops.
pub(super) async fn follow_load(
    supervisor: &Arc<Supervisor>,
    workers: &mut JoinSet<()>,
    stop: &mut Stop,
) {
    let spawn = &supervisor.spawn;
    let (range, threads, latency) = (spawn.range, spawn.threads, spawn.latency);
    let rules = Rules { range, threads, shrink_after: spawn.shrink_after, latency };
    let mut scaler = Scaler::default();
    let mut meter = Meter::new(threads, latency.is_some());
    let mut ticks = interval(SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut census = supervisor.census(Instant::now());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped(stop) => return,
            // A worker that was stopped.
            Some(_) = workers.join_next() => continue,
        }
        if meter.sample(&census.available, supervisor.pool.queue().waiting()) {
            let now = Instant::now();
            census = supervisor.census(now);
            let seen = meter.read(&census.available, census.seen);
            let (next, decision) = scaler.next(&seen, &rules, now);
            scaler = next;
            supervisor.follow(decision, &census, workers, stop);
            supervisor.note(seen, decision);
        }
    }
}

impl Supervisor {
    /// Carries out a decision.
    fn follow(
        self: &Arc<Self>,
        decision: Decision,
        census: &Census,
        workers: &mut JoinSet<()>,
        stop: &Stop,
    ) {
        let size = census.seen.size();
        match decision {
            Decision::Keep(_) => {}
            Decision::Grow(count, reason) => {
                tracing::info!(workers = size, more = count, %reason, "starting more workers");
                let vacant: Vec<usize> = self.slots().vacant().take(count).collect();
                for number in vacant {
                    self.set_place(number, WorkerState::Starting);
                    workers.spawn(Arc::clone(self).keep_alive(number, stop.clone()));
                }
            }
            Decision::Shrink(reason) => {
                let Some(number) = census.spare() else { return };
                let worker = name(number);
                tracing::info!(workers = size, worker, %reason, "stopping a worker");
                self.slots().set_leaving(number);
                self.leaves[number].notify_one();
            }
        }
    }

    /// Records the observation and the decision for operators.
    fn note(&self, seen: Observation, decision: Decision) {
        let mut course = self.course.lock().unwrap_or_else(PoisonError::into_inner);
        (course.seen, course.reason) = (seen, Some(*decision.reason()));
        match decision {
            Decision::Keep(_) => {}
            Decision::Grow(count, _) => course.started += count as u64,
            Decision::Shrink(_) => course.stopped += 1,
        }
    }
}
