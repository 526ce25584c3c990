//! The balancer's side: its own endpoints, states and policies, run on virtual time.
//!
//! Nothing here decides: the policy picks, the endpoint counts, the state machine ejects and
//! readmits. All three are the balancer's code. What is rebuilt is only the list of those that are
//! available, because the balancer's own is made for threads that share it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use balancer::policy::{Kind, Occasion, Policy};
use balancer::upstream::{Cause, Endpoint, EndpointId, Event, InFlight, Limits, State};
use rand::Rng;
use tokio::time::Instant;

/// Below this share of available endpoints, ejections are not trusted.
const PANIC_PERCENT: usize = 50;

/// Every endpoint, and those that may be picked.
#[derive(Debug)]
pub(crate) struct Fleet {
    policy: Arc<dyn Policy>,
    all: Vec<Arc<Endpoint>>,
    available: Vec<Arc<Endpoint>>,
    limits: Limits,
    slow_start: Duration,
    in_flight: u32,
    ejections: u64,
}

/// What a pick found.
#[derive(Debug)]
pub(crate) enum Pick {
    /// The request is counted on this endpoint.
    Taken(InFlight),
    /// Every endpoint has as many requests as it takes.
    Full,
    /// There is no endpoint.
    Nobody,
}

impl Fleet {
    pub(crate) fn new(policy: Kind, slow_start: Duration, in_flight: u32) -> Self {
        Self {
            policy: policy.build(),
            all: Vec::new(),
            available: Vec::new(),
            limits: Limits::default(),
            slow_start,
            in_flight,
            ejections: 0,
        }
    }

    /// Adds an endpoint, the next in number; a cold one starts slowly. It serves after
    /// [`Fleet::refresh`].
    pub(crate) fn add(&mut self, now: Instant, is_cold: bool) {
        let number = u32::try_from(self.all.len()).expect("at most MAX_WORKERS");
        let address = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 8501));
        let name = format!("server{}", number + 1);
        let endpoint = Endpoint::new(EndpointId(number), &name, address, State::up(), now);
        endpoint.set_limit(self.in_flight);
        if is_cold {
            endpoint.come_back(now, self.slow_start);
        }
        self.all.push(Arc::new(endpoint));
    }

    /// How often an endpoint was ejected.
    pub(crate) fn ejections(&self) -> u64 {
        self.ejections
    }

    /// Chooses an endpoint, another one than `avoided`, as the balancer does.
    pub(crate) fn pick(
        &self,
        avoided: Option<EndpointId>,
        now: Instant,
        rng: &mut dyn Rng,
    ) -> Pick {
        if self.available.is_empty() {
            return Pick::Nobody;
        }
        if avoided.is_none() {
            let chosen = self.choose(&self.available, now, rng);
            if chosen.has_room() {
                return Pick::Taken(chosen.begin(now));
            }
        }
        let others: Vec<Arc<Endpoint>> = self
            .available
            .iter()
            .filter(|endpoint| endpoint.has_room() && Some(endpoint.id()) != avoided)
            .cloned()
            .collect();
        if others.is_empty() {
            return Pick::Full;
        }
        Pick::Taken(self.choose(&others, now, rng).begin(now))
    }

    /// Asks the policy.
    fn choose<'a>(
        &self,
        candidates: &'a [Arc<Endpoint>],
        now: Instant,
        rng: &mut dyn Rng,
    ) -> &'a Arc<Endpoint> {
        let key = Some(rng.next_u64());
        let mut occasion = Occasion { now, key, rng: &mut *rng };
        &candidates[self.policy.pick(candidates, &mut occasion).unwrap_or(0)]
    }

    /// Applies an event to an endpoint and tells whether it came back.
    pub(crate) fn apply(&mut self, worker: u32, event: Event, now: Instant) -> bool {
        let endpoint = &self.all[worker as usize];
        let (before, after) = endpoint.apply(event, now, &self.limits);
        if before.availability() == after.availability() {
            return false;
        }
        self.ejections += u64::from(after.ejections > before.ejections);
        if after.is_available() {
            endpoint.come_back(now, self.slow_start);
        }
        self.refresh();
        after.is_available()
    }

    /// Notes a failed attempt, unless the rest of the fleet could not spare the endpoint.
    pub(crate) fn apply_failure(&mut self, worker: u32, now: Instant) {
        let out = self.all.len() - self.available.len();
        let others = self.available.iter().any(|other| other.id().0 != worker);
        let may_eject = others && (out + 1) * 2 <= self.all.len();
        self.apply(worker, Event::Failed { cause: Cause::Connection, may_eject }, now);
    }

    /// Takes the youngest endpoint that serves out of service.
    pub(crate) fn drain_last(&mut self, now: Instant) {
        let youngest = self.all.iter().rposition(|endpoint| !endpoint.state().draining);
        if let Some(number) = youngest {
            self.apply(u32::try_from(number).expect("at most MAX_WORKERS"), Event::Drain, now);
        }
    }

    /// Endpoints that are not drained.
    pub(crate) fn active(&self) -> usize {
        self.all.iter().filter(|endpoint| !endpoint.state().draining).count()
    }

    /// Lists anew who may be picked.
    pub(crate) fn refresh(&mut self) {
        let states: Vec<State> = self.all.iter().map(|endpoint| endpoint.state()).collect();
        let sound = states.iter().filter(|state| state.is_available()).count();
        let wanted = states.iter().filter(|state| !state.draining).count();
        let panics = sound * 100 < wanted * PANIC_PERCENT;
        let serves = |state: &State| state.is_available() || (panics && !state.draining);
        let chosen = self.all.iter().zip(&states).filter(|(_, state)| serves(state));
        self.available = chosen.map(|(endpoint, _)| Arc::clone(endpoint)).collect();
    }
}
