//! The set of endpoints, and the one place that changes it.
//!
//! Readers take a [`Snapshot`]: immutable, complete, found behind one pointer. Every event that
//! changes who is available builds a new one under a lock that no request ever waits for.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;
use wire::ModelIndexEntry;

use crate::admission::AdmissionQueue;
use crate::change::{Changes, What};
use crate::endpoint::{Endpoint, EndpointId, Waiters};
use crate::snapshot::Snapshot;
use crate::state::{Availability, Cause, Event, Limits, Outlier, Probe, State};

/// The settings of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Limits of the state transitions.
    pub limits: Limits,
    /// Below this share of available endpoints, ejections are ignored.
    pub panic_percent: usize,
    /// How long an endpoint that came back takes less than its share.
    pub slow_start: Duration,
    /// Whether a new endpoint must pass a probe first.
    pub is_probed: bool,
    /// Whether probes query a worker's own readiness, where 503 means that it should get no more
    /// requests. From other servers 503 may also mean that they are full.
    pub asks_readiness: bool,
    /// Requests that may wait while every endpoint is full.
    pub queue: usize,
    /// How long they may wait.
    pub queue_time: Duration,
    /// Requests that each endpoint takes concurrently; 0 if that is learnt from the endpoint.
    pub in_flight: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            panic_percent: 50,
            slow_start: Duration::from_secs(10),
            is_probed: true,
            asks_readiness: true,
            queue: 1024,
            queue_time: Duration::from_secs(2),
            in_flight: 0,
        }
    }
}

/// Announces an endpoint whose name is not known yet; see [`Pool::expect`].
pub const ANY_NAME: &str = "";

/// The set of endpoints.
#[derive(Debug)]
pub struct Pool {
    current: Arc<ArcSwap<Snapshot>>,
    queue: Arc<AdmissionQueue>,
    settings: Settings,
    next_id: AtomicU32,
    /// Held while a new snapshot is made.
    writer: Mutex<Absent>,
    changed: watch::Sender<u64>,
    panics: AtomicU64,
    born: Instant,
}

impl Pool {
    /// An empty pool, made at `now`.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let current: Arc<ArcSwap<Snapshot>> = Arc::default();
        let pool = Arc::downgrade(&current);
        Self {
            queue: Arc::new(AdmissionQueue::new(settings.queue, settings.queue_time, pool)),
            current,
            settings,
            next_id: AtomicU32::new(0),
            writer: Mutex::default(),
            changed: watch::Sender::new(0),
            panics: AtomicU64::new(0),
            born: now,
        }
    }

    /// The pointer to the current snapshot.
    pub fn current(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.current)
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The queue of requests that wait for an endpoint.
    #[inline]
    pub fn queue(&self) -> &Arc<AdmissionQueue> {
        &self.queue
    }

    /// The settings that it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Number of times that panic mode has begun.
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    /// Notifies of every new snapshot.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Replaces the list by `wanted` (names and addresses, in order). Endpoints that stay keep
    /// their counters and their state; operator settings are kept for those that return.
    pub fn replace(&self, wanted: &[(String, SocketAddr)], now: Instant) -> Changes {
        let mut absent = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Changes::default();
        let before = self.snapshot();
        let known: HashMap<_, _> =
            before.all().iter().map(|one| ((one.name(), one.address()), one)).collect();
        let mut all: Vec<Arc<Endpoint>> = Vec::with_capacity(wanted.len());
        let mut left_out = Vec::new();
        let mut names: HashMap<&str, usize> = HashMap::new();
        let mut addresses: HashMap<SocketAddr, usize> = HashMap::new();
        let mut new = Vec::new();
        for (name, address) in wanted {
            let twin = names.get(&**name).or_else(|| addresses.get(address));
            if let Some(position) = twin.copied() {
                left_out.extend(reason_against(&all[position], name, *address));
                continue;
            }
            names.insert(&**name, all.len());
            addresses.insert(*address, all.len());
            if let Some(kept) = known.get(&(&**name, *address)) {
                all.push(Arc::clone(kept));
            } else {
                new.push(all.len());
                all.push(self.make(name, *address, !before.all().is_empty(), now));
                changes.push(name, What::Added(*address));
            }
        }
        let stays = |one: &Endpoint| {
            let position = names.get(one.name());
            position.is_some_and(|position| all[*position].id() == one.id())
        };
        for gone in before.all().iter().filter(|one| !stays(one)) {
            changes.push(gone.name(), What::Removed);
            absent.remember(gone);
        }
        for &position in &new {
            absent.restore(&all[position], now, &self.settings.limits, &mut changes);
        }
        absent.tell_left_out(left_out, &mut changes);
        let come: Vec<_> = new.into_iter().map(|position| Arc::clone(&all[position])).collect();
        self.publish(all, &mut changes);
        for endpoint in &come {
            self.has_come(endpoint);
        }
        drop(absent);
        changes
    }

    fn make(&self, name: &str, address: SocketAddr, is_late: bool, now: Instant) -> Arc<Endpoint> {
        let id = EndpointId(self.next_id.fetch_add(1, Relaxed));
        let state = if self.settings.is_probed { State::new() } else { State::up() };
        let queue: Arc<dyn Waiters> = Arc::<AdmissionQueue>::clone(&self.queue);
        let endpoint = Endpoint::with_queue(id, name, address, state, now, Some(queue));
        if self.settings.in_flight > 0 {
            endpoint.set_limit(self.settings.in_flight);
        }
        if is_late && state.is_available() {
            endpoint.come_back(now, self.settings.slow_start);
        }
        Arc::new(endpoint)
    }

    /// Applies an event to an endpoint, and publishes what it changed.
    pub fn apply(&self, endpoint: &Endpoint, event: Event, now: Instant) -> Changes {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.change(endpoint, event, "its process exited", now);
        drop(writer);
        changes
    }

    /// Notes a failed probe as this `event`, and whether the endpoint `is_mute`, that is, its
    /// probes get no sign of life.
    pub fn record_failed_probe(
        &self,
        endpoint: &Endpoint,
        event: Event,
        is_mute: bool,
        reason: &str,
        now: Instant,
    ) -> Changes {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let was_silent = endpoint.is_silent();
        endpoint.set_mute(is_mute);
        let mut changes = self.change(endpoint, event, reason, now);
        // An endpoint that was down or drained before is as available as it was, but its requests
        // must still look for another.
        if changes.is_empty() && !was_silent && endpoint.is_silent() {
            self.publish(self.current.load().all().to_vec(), &mut changes);
        }
        drop(writer);
        changes
    }

    /// Records a failed request, and ejects the endpoint if it is due and the pool can spare it.
    /// Calls are serialised, so that two threads do not eject the last two endpoints.
    pub fn record_failure(
        &self,
        endpoint: &Endpoint,
        cause: Cause,
        reason: &str,
        now: Instant,
    ) -> Changes {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.current.load();
        let states = snapshot.all().iter().filter(|one| one.weight() > 0).map(|one| one.state());
        let in_service =
            |state: &State| !state.is_withdrawn() && matches!(state.probe, Probe::Up { .. });
        let outliers: Vec<Outlier> = states.filter(in_service).map(|state| state.outlier).collect();
        let is_out = |outlier: &&Outlier| matches!(outlier, Outlier::Ejected { .. });
        let out = outliers.iter().filter(is_out).count();
        // Never more than half, and so never the last one.
        let may_eject = (out + 1) * 2 <= outliers.len();
        let changes = self.change(endpoint, Event::Failed { cause, may_eject }, reason, now);
        // Is it still there? If it is ejected and gone, it comes back as another process.
        let is_ejected = matches!(endpoint.state().outlier, Outlier::Ejected { .. });
        if cause == Cause::Connection || is_ejected {
            endpoint.doubt();
        }
        drop(writer);
        changes
    }

    /// Announces that the endpoint `name` should take requests by `until`; with `None` it is no
    /// longer waited for. [`ANY_NAME`] stands for the first endpoint that takes requests from then
    /// on. If an endpoint is expected back, call this before it goes: requests in between would
    /// find neither.
    pub fn expect(&self, name: &str, until: Option<Instant>) {
        self.queue.expect(name, until);
    }

    /// Whether an endpoint is expected that is not there yet.
    pub fn expects(&self, now: Instant) -> bool {
        self.queue.expects(now)
    }

    /// Sets an endpoint's share under the weighted policy; 0 keeps requests away under every policy.
    pub fn set_weight(&self, endpoint: &Endpoint, weight: u32) -> Changes {
        endpoint.set_weight(weight);
        self.refresh()
    }

    /// Notes the models that an endpoint serves; `None` if they are unchanged. Endpoints that serve
    /// the same models share one list, so that many of them cost a snapshot little more than one.
    pub fn learn_models(
        &self,
        endpoint: &Endpoint,
        models: Vec<ModelIndexEntry>,
    ) -> Option<Changes> {
        let shared = self.current.load().listed(&models);
        endpoint.learn_models(shared.unwrap_or_else(|| Arc::new(models))).then(|| self.refresh())
    }

    /// Applies an event. The caller holds `writer`.
    fn change(&self, endpoint: &Endpoint, event: Event, reason: &str, now: Instant) -> Changes {
        let mut changes = Changes::default();
        let (before, after) = endpoint.apply(event, now, &self.settings.limits);
        let (was, is) = (before.availability(), after.availability());
        if was == is {
            return changes;
        }
        let is_ejected = |state: &State| matches!(state.outlier, Outlier::Ejected { .. });
        if is_ejected(&after) && !is_ejected(&before) {
            endpoint.counters().ejections.fetch_add(1, Relaxed);
        }
        if after.is_available() {
            // When all endpoints start together, none carries more than its share.
            let is_start = was == Availability::New
                && now.saturating_duration_since(self.born) <= self.settings.slow_start;
            let slow_start = if is_start { Duration::ZERO } else { self.settings.slow_start };
            endpoint.come_back(now, slow_start);
        }
        let reason = match (event, is) {
            (_, Availability::Available) => "",
            (Event::Drain, _) => "an operator drained it",
            (Event::Leave, _) => "its worker is no longer needed and stops",
            // It has not been looked at since: what was wrong before may still be.
            (Event::Undrain, _) => "it was drained, and is not available yet",
            (Event::ProbePassed, _) => "it was down, and is still ejected",
            _ => reason,
        };
        changes.push(endpoint.name(), what_became(was, &after, now, reason));
        endpoint.set_reason(reason, now);
        self.publish(self.current.load().all().to_vec(), &mut changes);
        self.has_come(endpoint);
        changes
    }

    /// Stops expecting an endpoint that takes requests, but not before the snapshot contains it: a
    /// request must find either the endpoint or the expectation.
    fn has_come(&self, endpoint: &Endpoint) {
        let snapshot = self.current.load();
        if snapshot.available().iter().any(|one| one.id() == endpoint.id()) {
            self.queue.expect(endpoint.name(), None);
            self.queue.expect(ANY_NAME, None);
        }
    }

    /// Ends the ejections that are over, and ejects endpoints that answer no request at all.
    pub fn tick(&self, now: Instant) -> Changes {
        let mut all = Changes::default();
        for endpoint in self.current.load().all() {
            if matches!(endpoint.state().outlier, Outlier::Ejected { .. }) {
                all.append(self.apply(endpoint, Event::Tick, now));
            } else if endpoint.hangs(&self.settings.limits) {
                let reason = "no answer to any request until its client gave up";
                all.append(self.record_failure(endpoint, Cause::Silence, reason, now));
            }
        }
        all
    }

    /// Publishes a new snapshot of the same endpoints.
    pub fn refresh(&self) -> Changes {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Changes::default();
        self.publish(self.current.load().all().to_vec(), &mut changes);
        drop(writer);
        changes
    }

    fn publish(&self, all: Vec<Arc<Endpoint>>, changes: &mut Changes) {
        let was_panicking = self.current.load().is_panicking();
        let generation = self.current.load().generation() + 1;
        let snapshot = Snapshot::new(all, self.settings.panic_percent, generation);
        let had_traffic =
            snapshot.all().iter().any(|endpoint| endpoint.state().probe != Probe::New);
        if snapshot.is_panicking() && !was_panicking && had_traffic {
            self.panics.fetch_add(1, Relaxed);
            let (available, all) = (snapshot.available().len(), snapshot.all().len());
            changes.push("", What::PanicMode { available, all });
        }
        self.current.store(Arc::new(snapshot));
        self.changed.send_modify(|generation| *generation += 1);
    }
}

/// What is remembered of endpoints that are not in the list. A drained one that returns, perhaps at
/// another address, is still drained.
#[derive(Debug, Default)]
struct Absent {
    settings: BTreeMap<Box<str>, Setting>,
    /// Workers that were left out of the list, and why, as last reported to operators.
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

    fn tell_left_out(&mut self, left_out: Vec<String>, changes: &mut Changes) {
        for worker in left_out.iter().filter(|worker| !self.left_out.contains(worker)) {
            changes.push("", What::LeftOut(worker.as_str().into()));
        }
        self.left_out = left_out;
    }

    fn restore(
        &mut self,
        endpoint: &Endpoint,
        now: Instant,
        limits: &Limits,
        changes: &mut Changes,
    ) {
        let Some(setting) = self.settings.remove(endpoint.name()) else { return };
        let Setting { is_draining, weight } = setting;
        endpoint.set_weight(weight);
        if is_draining {
            endpoint.apply(Event::Drain, now, limits);
        }
        changes.push(endpoint.name(), What::Restored { is_draining, weight });
    }
}

/// Why a worker is left out; `None` if it is merely listed twice. Operators could not tell two with
/// the same name apart; two with the same address are one worker that would get two shares.
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

/// How the availability of an endpoint changed, for operators.
fn what_became(was: Availability, state: &State, now: Instant, reason: &str) -> What {
    match (state.availability(), state.outlier) {
        (Availability::Down, _) => What::Down(reason.into()),
        // An endpoint that was down or drained had been ejected before.
        (Availability::Ejected, Outlier::Ejected { until, .. })
            if was == Availability::Available =>
        {
            What::Ejected { reason: reason.into(), time: until.saturating_duration_since(now) }
        }
        (Availability::Available, _) if was == Availability::Ejected => What::Readmitted,
        (Availability::Available, _) => What::Up,
        (is, _) => What::Other(is.as_str()),
    }
}

#[cfg(test)]
mod tests;
