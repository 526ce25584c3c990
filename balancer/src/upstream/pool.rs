//! The set of endpoints, and the one place that changes it.
//!
//! Readers take a [`Snapshot`]: immutable, complete, found behind one pointer. Every event that
//! changes who is available builds a new one under a lock that no request ever waits for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use super::endpoint::{Endpoint, EndpointId};
use super::snapshot::Snapshot;
use super::state::{Availability, Cause, Event, Limits, Outlier, Probe, State};

/// The numbers that a pool works by.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Limits of the state transitions.
    pub limits: Limits,
    /// Below this share of available endpoints, ejections are not trusted.
    pub panic_percent: usize,
    /// How long an endpoint that came back takes less than its share.
    pub slow_start: Duration,
    /// Whether a new endpoint must pass a probe first.
    pub is_probed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            panic_percent: 50,
            slow_start: Duration::from_secs(10),
            is_probed: true,
        }
    }
}

/// The set of endpoints.
#[derive(Debug)]
pub struct Pool {
    current: Arc<ArcSwap<Snapshot>>,
    settings: Settings,
    next_id: AtomicU32,
    /// Held while a new snapshot is made.
    writer: Mutex<Absent>,
    changed: watch::Sender<u64>,
    panics: AtomicU64,
    born: Instant,
}

impl Pool {
    /// An empty pool.
    pub fn new(settings: Settings) -> Self {
        Self {
            current: Arc::default(),
            settings,
            next_id: AtomicU32::new(0),
            writer: Mutex::default(),
            changed: watch::Sender::new(0),
            panics: AtomicU64::new(0),
            born: Instant::now(),
        }
    }

    /// Where the current snapshot is found.
    pub fn current(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.current)
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The numbers it works by.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Times that panic mode began.
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    /// Tells of every new snapshot.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Makes `wanted` (names and addresses, in order) the list. Endpoints that stay keep their
    /// counters and their state; what an operator set is kept for those that return.
    pub fn replace(&self, wanted: &[(String, SocketAddr)]) {
        let mut absent = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        let now = Instant::now();
        let mut all: Vec<Arc<Endpoint>> = Vec::with_capacity(wanted.len());
        let mut left_out = Vec::new();
        for (name, address) in wanted {
            if let Some(other) = twin(&all, name, *address) {
                left_out.extend(reason_against(other, name, *address));
                continue;
            }
            let same = |known: &&Arc<Endpoint>| known.name() == name && known.address() == *address;
            let kept = before.all().iter().find(same).map(Arc::clone);
            all.push(kept.unwrap_or_else(|| self.make(name, *address, &before, now)));
        }
        for gone in before.all().iter().filter(|old| !all.iter().any(|new| new.id() == old.id())) {
            tracing::info!(endpoint = gone.name(), "endpoint removed");
            absent.remember(gone);
        }
        for new in all.iter().filter(|new| !before.all().iter().any(|old| new.id() == old.id())) {
            absent.restore(new, now, &self.settings.limits);
        }
        absent.tell_left_out(left_out);
        self.publish(all);
        drop(absent);
    }

    fn make(
        &self,
        name: &str,
        address: SocketAddr,
        before: &Snapshot,
        now: Instant,
    ) -> Arc<Endpoint> {
        let id = EndpointId(self.next_id.fetch_add(1, Relaxed));
        let state = if self.settings.is_probed { State::new() } else { State::up() };
        tracing::info!(endpoint = name, %address, "endpoint added");
        let endpoint = Endpoint::new(id, name, address, state, now);
        if state.is_available() && !before.all().is_empty() {
            endpoint.come_back(now, self.settings.slow_start);
        }
        Arc::new(endpoint)
    }

    /// Applies an event to an endpoint, and publishes what it changed.
    pub fn apply(&self, endpoint: &Endpoint, event: Event) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(endpoint, event, "its process exited");
        drop(writer);
    }

    /// Notes a failed probe.
    pub fn record_failed_probe(&self, endpoint: &Endpoint, reason: &str) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(endpoint, Event::ProbeFailed, reason);
        drop(writer);
    }

    /// Notes a failed request, unless the rest of the pool could not spare the endpoint. Two threads
    /// must not eject the last two endpoints at once, so one looks after the other.
    pub fn record_failure(&self, endpoint: &Endpoint, cause: Cause, reason: &str) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.current.load();
        let states = snapshot.all().iter().filter(|one| one.weight() > 0).map(|one| one.state());
        let in_service = |state: &State| !state.draining && matches!(state.probe, Probe::Up { .. });
        let outliers: Vec<Outlier> = states.filter(in_service).map(|state| state.outlier).collect();
        let is_out = |outlier: &&Outlier| matches!(outlier, Outlier::Ejected { .. });
        let out = outliers.iter().filter(is_out).count();
        let others = snapshot.available().iter().any(|other| other.id() != endpoint.id());
        let may_eject = others && (out + 1) * 2 <= outliers.len();
        self.change(endpoint, Event::Failed { cause, may_eject }, reason);
        if cause == Cause::Connection {
            endpoint.doubt();
        }
        drop(writer);
    }

    /// Sets an endpoint's share under the weighted policy; 0 keeps requests away under every policy.
    pub fn set_weight(&self, endpoint: &Endpoint, weight: u32) {
        endpoint.set_weight(weight);
        self.refresh();
    }

    /// Applies an event. Only for who holds `writer`.
    fn change(&self, endpoint: &Endpoint, event: Event, reason: &str) {
        let now = Instant::now();
        let (before, after) = endpoint.apply(event, now, &self.settings.limits);
        let (was, is) = (before.availability(), after.availability());
        if was == is {
            return;
        }
        let is_ejected = |state: &State| matches!(state.outlier, Outlier::Ejected { .. });
        if is_ejected(&after) && !is_ejected(&before) {
            endpoint.counters().ejections.fetch_add(1, Relaxed);
        }
        if after.is_available() {
            // When all begin together nobody carries more than its share.
            let is_start = was == Availability::New
                && now.duration_since(self.born) <= self.settings.slow_start;
            let slow_start = if is_start { Duration::ZERO } else { self.settings.slow_start };
            endpoint.come_back(now, slow_start);
        }
        tell(endpoint, was, &after, now, reason);
        self.publish(self.current.load().all().to_vec());
    }

    /// Ends the ejections that are over, and ejects endpoints that say nothing to anybody.
    pub fn tick(&self) {
        for endpoint in self.current.load().all() {
            if matches!(endpoint.state().outlier, Outlier::Ejected { .. }) {
                self.apply(endpoint, Event::Tick);
            } else if endpoint.hangs(&self.settings.limits) {
                let reason = "no answer to any request until its client gave up";
                self.record_failure(endpoint, Cause::Silence, reason);
            }
        }
    }

    /// Publishes a new snapshot of the same endpoints.
    pub fn refresh(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.publish(self.current.load().all().to_vec());
        drop(writer);
    }

    fn publish(&self, all: Vec<Arc<Endpoint>>) {
        let was_panicking = self.current.load().is_panicking();
        let generation = self.current.load().generation() + 1;
        let snapshot = Snapshot::new(all, self.settings.panic_percent, generation);
        let had_traffic =
            snapshot.all().iter().any(|endpoint| endpoint.state().probe != Probe::New);
        if snapshot.is_panicking() && !was_panicking && had_traffic {
            self.panics.fetch_add(1, Relaxed);
            let (available, all) = (snapshot.available().len(), snapshot.all().len());
            tracing::warn!(available, all, "panic mode: ejected endpoints are used again");
        }
        self.current.store(Arc::new(snapshot));
        self.changed.send_modify(|generation| *generation += 1);
    }
}

/// What is not in the list. Above all what operators set for endpoints that have left it, by name: a
/// drained one that returns, perhaps at another address, is still to be left alone.
#[derive(Debug, Default)]
struct Absent {
    settings: BTreeMap<Box<str>, Setting>,
    /// Workers that were left out of the list, and why, as operators were told.
    left_out: Vec<String>,
}

/// What an operator set for an endpoint.
#[derive(Debug, Clone, Copy)]
struct Setting {
    is_draining: bool,
    weight: u32,
}

/// Most endpoints that are remembered.
const MAX_ABSENT: usize = 10_000;

impl Absent {
    fn remember(&mut self, endpoint: &Endpoint) {
        let is_draining = endpoint.state().draining;
        let setting = Setting { is_draining, weight: endpoint.weight() };
        if (is_draining || setting.weight != 1) && self.settings.len() < MAX_ABSENT {
            self.settings.insert(endpoint.name().into(), setting);
        }
    }

    fn tell_left_out(&mut self, left_out: Vec<String>) {
        for worker in left_out.iter().filter(|worker| !self.left_out.contains(worker)) {
            tracing::warn!(worker, "worker left out");
        }
        self.left_out = left_out;
    }

    fn restore(&mut self, endpoint: &Endpoint, now: Instant, limits: &Limits) {
        let Some(setting) = self.settings.remove(endpoint.name()) else { return };
        let Setting { is_draining, weight } = setting;
        endpoint.set_weight(weight);
        if is_draining {
            endpoint.apply(Event::Drain, now, limits);
        }
        tracing::info!(endpoint = endpoint.name(), is_draining, weight, "endpoint is back as set");
    }
}

/// An endpoint of the list that has the name or the address.
fn twin<'a>(all: &'a [Arc<Endpoint>], name: &str, address: SocketAddr) -> Option<&'a Endpoint> {
    all.iter().map(|one| &**one).find(|one| one.name() == name || one.address() == address)
}

/// Why a worker is left out, if it is not just named twice. Two of one name could not be told apart
/// by operators; two of one address are one worker that would get two shares.
fn reason_against(other: &Endpoint, name: &str, address: SocketAddr) -> Option<String> {
    match (other.name() == name, other.address() == address) {
        (true, true) => None,
        (true, false) => Some(format!(
            "{name} at {address}: the name is taken by the worker at {}",
            other.address()
        )),
        (false, _) => Some(format!(
            "{name} at {address}: the address is taken by the worker {}",
            other.name()
        )),
    }
}

/// Tells operators what became of an endpoint.
fn tell(endpoint: &Endpoint, was: Availability, state: &State, now: Instant, reason: &str) {
    let name = endpoint.name();
    match (state.availability(), state.outlier) {
        (Availability::Down, _) => tracing::warn!(endpoint = name, reason, "endpoint down"),
        (Availability::Ejected, Outlier::Ejected { until, .. }) => {
            let seconds = until.saturating_duration_since(now).as_secs();
            tracing::warn!(endpoint = name, reason, seconds, "endpoint ejected");
        }
        (Availability::Available, _) if was == Availability::Ejected => {
            tracing::info!(endpoint = name, "endpoint readmitted");
        }
        (Availability::Available, _) => tracing::info!(endpoint = name, "endpoint up"),
        (is, _) => tracing::info!(endpoint = name, state = is.as_str(), "endpoint changed"),
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
