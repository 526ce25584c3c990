//! The balancer's side: the `fleet` crate, which the balancer itself runs, on virtual time.
//!
//! All decisions are made there, none in this module.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use fleet::elastic::Observation;
use fleet::policy::Kind;
use fleet::{Changes, Endpoint, Event, Outlier, Pool, RetryBudget, Settings, View, What};
use rand::rngs::Xoshiro256PlusPlus;
use tokio::time::Instant;

use super::clock::VirtualTime;
use super::scenario::Scenario;

/// Share of the active requests that may be retries: the balancer's default.
const RETRY_PERCENT: u32 = 20;

/// Every endpoint, and the balancer's view of them.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) view: View<Xoshiro256PlusPlus, VirtualTime>,
    list: Vec<(String, SocketAddr)>,
    in_flight: u32,
}

impl Fleet {
    /// The workers of a scenario, all up.
    pub(crate) fn new(scenario: &Scenario, rng: Xoshiro256PlusPlus, time: VirtualTime) -> Self {
        let now = fleet::Clock::now(&time);
        let limits = &scenario.limits;
        let settings = Settings {
            slow_start: limits.slow_start,
            is_probed: false,
            queue: limits.balancer_queue,
            queue_time: limits.queue_time,
            ..Settings::default()
        };
        let pool = Arc::new(Pool::new(settings, now));
        let fleet = fleet::Fleet::new(pool, scenario.policy, RetryBudget::new(RETRY_PERCENT));
        let view = View::new(Arc::new(fleet), rng, time);
        let mut fleet = Self { view, list: Vec::new(), in_flight: limits.in_flight };
        fleet.grow(scenario.workers, now);
        fleet
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.view.fleet().pool
    }

    /// The key of a request, for policies that use it. It is drawn under every policy, so that all
    /// of them see the same random numbers.
    pub(crate) fn key(&self) -> u64 {
        self.view.random()
    }

    /// Whether workers report their queues with their answers.
    pub(crate) fn wants_reports(&self) -> bool {
        self.view.policy_kind() == Kind::Inference
    }

    /// Adds the next endpoint, which is subject to slow start.
    pub(crate) fn add(&mut self, now: Instant) {
        self.grow(self.list.len() + 1, now);
    }

    fn grow(&mut self, size: usize, now: Instant) {
        for number in self.list.len()..size {
            let number = u32::try_from(number).expect("at most MAX_WORKERS");
            let address = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 8501));
            self.list.push((format!("server{}", number + 1), address));
        }
        self.pool().replace(&self.list, now).ignore();
        let snapshot = self.pool().snapshot();
        snapshot.all().iter().for_each(|endpoint| endpoint.set_limit(self.in_flight));
    }

    /// Number of ejections of all endpoints together.
    pub(crate) fn ejections(&self) -> u64 {
        let ejections = |endpoint: &Arc<Endpoint>| endpoint.counters().ejections.load(Relaxed);
        self.view.snapshot().all().iter().map(ejections).sum()
    }

    /// Records that a probe of a worker passed or failed.
    pub(crate) fn probed(&self, worker: usize, has_passed: bool, now: Instant) {
        let snapshot = self.view.snapshot();
        let endpoint = &snapshot.all()[worker];
        if has_passed {
            self.pool().apply(endpoint, Event::ProbePassed, now).ignore();
        } else {
            let (event, reason) = (Event::ProbeRefused, "connection refused");
            self.pool().record_failed_probe(endpoint, event, false, reason, now).ignore();
        }
    }

    /// Ends the ejections that are over; returns whether others remain.
    pub(crate) fn tick(&self, now: Instant) -> bool {
        self.pool().tick(now).ignore();
        let is_out = |one: &Arc<Endpoint>| matches!(one.state().outlier, Outlier::Ejected { .. });
        self.view.snapshot().all().iter().any(is_out)
    }

    /// Counts the endpoints that take requests, that do not, and that only finish what they have;
    /// also returns those that take requests.
    pub(crate) fn census(&self) -> (Observation, Vec<Arc<Endpoint>>) {
        let (mut seen, mut available) = (Observation::default(), Vec::new());
        for endpoint in self.view.snapshot().all() {
            let state = endpoint.state();
            if state.leaving {
                seen.stopping += usize::from(endpoint.in_flight() > 0);
            } else if state.is_available() {
                seen.available += 1;
                available.push(Arc::clone(endpoint));
            } else {
                seen.out += 1;
            }
        }
        (seen, available)
    }

    /// Takes an endpoint out of service: one that takes no requests, otherwise the newest.
    pub(crate) fn drain_last(&self, now: Instant) {
        let snapshot = self.view.snapshot();
        let mut serving =
            snapshot.all().iter().rev().filter(|endpoint| !endpoint.state().is_withdrawn());
        let idle = serving.clone().find(|endpoint| !endpoint.state().is_available());
        if let Some(endpoint) = idle.or_else(|| serving.next()) {
            self.pool().apply(endpoint, Event::Leave, now).ignore();
        }
    }

    /// Number of endpoints that are not being drained.
    pub(crate) fn active(&self) -> usize {
        let snapshot = self.view.snapshot();
        snapshot.all().iter().filter(|endpoint| !endpoint.state().is_withdrawn()).count()
    }
}

/// Whether one of the changes is an ejection.
pub(crate) fn has_ejected(changes: &Changes) -> bool {
    changes.iter().any(|change| matches!(change.what, What::Ejected { .. }))
}
