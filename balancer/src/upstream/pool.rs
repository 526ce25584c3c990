//! The set of endpoints, and the one place that changes it.
//!
//! Readers take a [`Snapshot`]: immutable, complete, found behind one pointer. Every event that
//! changes who is available builds a new one under a lock that no request ever waits for. What a
//! snapshot offers for a request are [`Candidates`]: the available endpoints that serve the model,
//! in the order of the list, so that "the first k endpoints" is a prefix.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;
use wire::ModelIndexEntry;

use super::endpoint::{Endpoint, EndpointId};
use super::state::{Event, Limits, Outlier, Probe, State};

/// Endpoints in the order of the list, with their positions in it.
#[derive(Debug, Default)]
struct Group {
    endpoints: Vec<Arc<Endpoint>>,
    positions: Vec<usize>,
}

impl Group {
    fn push(&mut self, position: usize, endpoint: &Arc<Endpoint>) {
        self.endpoints.push(Arc::clone(endpoint));
        self.positions.push(position);
    }

    /// Those among the first `count` endpoints of the list.
    fn first(&self, count: usize) -> &[Arc<Endpoint>] {
        let end = self.positions.partition_point(|position| *position < count);
        &self.endpoints[..end]
    }
}

/// Who may take a request.
#[derive(Debug)]
pub enum Candidates<'a> {
    /// These; never empty.
    Some(&'a [Arc<Endpoint>]),
    /// Nobody right now.
    Nobody,
    /// Somebody serves the model soon: it is loading, or its endpoints are out.
    Loading,
    /// Nobody has the model.
    UnknownModel,
}

/// The pool as it was at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    all: Vec<Arc<Endpoint>>,
    available: Group,
    /// Who serves a model, by `name`, `name/version` and `name/label`. Empty while no endpoint told
    /// its models.
    models: HashMap<Box<str>, Group>,
    default_model: Option<Box<str>>,
    is_panicking: bool,
}

/// Models that `/predict` falls back to, the preferred one first; as the workers do it.
const DEFAULT_MODELS: [&str; 2] = ["mobilenet_v2", "mnist"];

impl Snapshot {
    fn new(all: Vec<Arc<Endpoint>>, panic_percent: usize) -> Self {
        let states: Vec<State> = all.iter().map(|endpoint| endpoint.state()).collect();
        let available = states.iter().filter(|state| state.is_available()).count();
        let is_panicking = available * 100 < all.len() * panic_percent;
        let mut snapshot = Self { is_panicking, ..Self::default() };
        for (position, (endpoint, state)) in all.iter().zip(&states).enumerate() {
            let trusted_in_panic =
                matches!(state.probe, Probe::Up { .. }) && !state.draining && is_panicking;
            if state.is_available() || trusted_in_panic {
                snapshot.available.push(position, endpoint);
            }
            snapshot.add_models(position, endpoint, state.is_available() || trusted_in_panic);
        }
        let serves = |name: &&str| {
            snapshot.models.get(*name).is_some_and(|group| !group.endpoints.is_empty())
        };
        snapshot.default_model = DEFAULT_MODELS.into_iter().find(serves).map(Box::from);
        snapshot.all = all;
        snapshot
    }

    fn add_models(&mut self, position: usize, endpoint: &Arc<Endpoint>, available: bool) {
        let Some(models) = endpoint.models() else { return };
        // A version that is broken or leaving is nobody's.
        let served = |entry: &&ModelIndexEntry| matches!(&*entry.state, "READY" | "LOADING");
        for entry in models.iter().filter(served) {
            let names = std::iter::once(&entry.version).chain(&entry.labels);
            let versions = names.map(|version| format!("{}/{version}", entry.name));
            for key in std::iter::once(entry.name.clone()).chain(versions) {
                let group = self.models.entry(key.into()).or_default();
                let is_new = group.positions.last() != Some(&position);
                if available && entry.state == "READY" && is_new {
                    group.push(position, endpoint);
                }
            }
        }
    }

    /// Every endpoint, in the order of the list.
    pub fn all(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    /// The endpoints that may be picked.
    pub fn available(&self) -> &[Arc<Endpoint>] {
        &self.available.endpoints
    }

    /// Whether ejected endpoints are used as well, because too few others are left.
    pub fn is_panicking(&self) -> bool {
        self.is_panicking
    }

    /// Names of the models that some available endpoint serves, the default first.
    pub fn models(&self) -> Vec<&str> {
        let served = self.models.iter().filter(|(_, group)| !group.endpoints.is_empty());
        let mut names: Vec<&str> =
            served.map(|(name, _)| &**name).filter(|name| !name.contains('/')).collect();
        let rank = |name: &str| DEFAULT_MODELS.iter().position(|known| *known == name);
        names.sort_by_key(|name| (rank(name).unwrap_or(DEFAULT_MODELS.len()), *name));
        names
    }

    /// Every version that some endpoint has, as the probes have heard; one that answers counts for
    /// all. Empty while no endpoint told its models.
    pub fn index(&self) -> Vec<ModelIndexEntry> {
        let mut versions: BTreeMap<(String, String), ModelIndexEntry> = BTreeMap::new();
        let told = self.all.iter().filter_map(|endpoint| endpoint.models());
        for entry in told.flat_map(|models| models.to_vec()) {
            let known = versions.entry((entry.name.clone(), entry.version.clone()));
            let known = known.or_insert_with(|| entry.clone());
            if known.state != "READY" && entry.state == "READY" {
                *known = entry;
            }
        }
        versions.into_values().collect()
    }

    /// Who may take a request for `model` (`name`, `name/version` or `name/label`; the default model
    /// for an empty name, any endpoint for `None`) among the first `count` endpoints.
    pub fn candidates(&self, model: Option<&str>, count: usize) -> Candidates<'_> {
        let model = match model {
            Some("") => self.default_model.as_deref(),
            other => other,
        };
        let group = match model {
            Some(model) if !self.models.is_empty() => match self.group(model) {
                Some(group) if group.endpoints.is_empty() => return Candidates::Loading,
                Some(group) => group,
                None if self.knows_all_models() => return Candidates::UnknownModel,
                None => &self.available,
            },
            Some(_) | None => &self.available,
        };
        match group.first(count) {
            [] => Candidates::Nobody,
            some => Candidates::Some(some),
        }
    }

    /// Who serves a model or a version. A version that no probe has told of may be a moment old, so
    /// whoever has the model is asked; it knows how to say no.
    fn group(&self, wanted: &str) -> Option<&Group> {
        let by_model = || self.models.get(wanted.split_once('/')?.0);
        self.models.get(wanted).or_else(by_model)
    }

    fn knows_all_models(&self) -> bool {
        self.all.iter().all(|endpoint| endpoint.models().is_some())
    }
}

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
    writer: Mutex<()>,
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
            writer: Mutex::new(()),
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
    /// counters and their state.
    pub fn replace(&self, wanted: &[(String, SocketAddr)]) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        let now = Instant::now();
        let mut all: Vec<Arc<Endpoint>> = Vec::with_capacity(wanted.len());
        for (name, address) in wanted {
            let same = |known: &&Arc<Endpoint>| known.name() == name && known.address() == *address;
            if all.iter().any(|endpoint| same(&endpoint)) {
                continue;
            }
            let kept = before.all.iter().find(same).map(Arc::clone);
            all.push(kept.unwrap_or_else(|| self.make(name, *address, now)));
        }
        for gone in before.all.iter().filter(|old| !all.iter().any(|new| new.id() == old.id())) {
            tracing::info!(endpoint = gone.name(), "removed");
        }
        self.publish(all);
        drop(writer);
    }

    fn make(&self, name: &str, address: SocketAddr, now: Instant) -> Arc<Endpoint> {
        let id = EndpointId(self.next_id.fetch_add(1, Relaxed));
        let state = if self.settings.is_probed { State::new() } else { State::up() };
        tracing::info!(endpoint = name, %address, "added");
        Arc::new(Endpoint::new(id, name, address, state, now))
    }

    /// Applies an event to an endpoint, and publishes what it changed.
    pub fn apply(&self, endpoint: &Endpoint, event: Event) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(endpoint, event);
        drop(writer);
    }

    /// Notes a failed request, unless the rest of the pool could not spare the endpoint. Two threads
    /// must not eject the last two endpoints at once, so one looks after the other.
    pub fn apply_failure(&self, endpoint: &Endpoint) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.current.load();
        let ejected =
            |endpoint: &&Arc<Endpoint>| matches!(endpoint.state().outlier, Outlier::Ejected { .. });
        let out = snapshot.all.iter().filter(ejected).count();
        let others = snapshot.available().iter().any(|other| other.id() != endpoint.id());
        let may_eject = others && (out + 1) * 2 <= snapshot.all.len();
        self.change(endpoint, Event::Failed { may_eject });
        drop(writer);
    }

    /// Applies an event. Only for who holds `writer`.
    fn change(&self, endpoint: &Endpoint, event: Event) {
        let now = Instant::now();
        let (before, after) = endpoint.apply(event, now, &self.settings.limits);
        let (was, is) = (before.availability(), after.availability());
        if was == is {
            return;
        }
        if matches!(after.outlier, Outlier::Ejected { .. })
            && !matches!(before.outlier, Outlier::Ejected { .. })
        {
            endpoint.counters().ejections.fetch_add(1, Relaxed);
        }
        if after.is_available() && now.duration_since(self.born) > self.settings.slow_start {
            endpoint.warm_up_from(now);
        }
        tracing::info!(endpoint = endpoint.name(), was = was.as_str(), is = is.as_str(), "state");
        self.publish(self.current.load().all.clone());
    }

    /// Ends the ejections that are over.
    pub fn tick(&self) {
        for endpoint in self.current.load().all() {
            if matches!(endpoint.state().outlier, Outlier::Ejected { .. }) {
                self.apply(endpoint, Event::Tick);
            }
        }
    }

    /// Publishes a new snapshot of the same endpoints.
    pub fn refresh(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.publish(self.current.load().all.clone());
        drop(writer);
    }

    fn publish(&self, all: Vec<Arc<Endpoint>>) {
        let was_panicking = self.current.load().is_panicking;
        let snapshot = Snapshot::new(all, self.settings.panic_percent);
        let had_traffic = snapshot.all.iter().any(|endpoint| endpoint.state().probe != Probe::New);
        if snapshot.is_panicking && !was_panicking && had_traffic {
            self.panics.fetch_add(1, Relaxed);
            let (available, all) = (snapshot.available().len(), snapshot.all.len());
            tracing::warn!(available, all, "panic mode: ejected endpoints are used again");
        }
        self.current.store(Arc::new(snapshot));
        self.changed.send_modify(|generation| *generation += 1);
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
