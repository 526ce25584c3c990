//! The set of endpoints, and the one place that changes it.
//!
//! Readers take a [`Snapshot`]: immutable, complete, found behind one pointer. Every event that
//! changes who is available builds a new one under a lock that no request ever waits for. What a
//! snapshot offers for a request are [`Candidates`]: the available endpoints that serve the model,
//! in the order of the list, so that "the first k endpoints" is a prefix. Models that the same
//! endpoints serve share one set, so there are as many sets as the fleet has and never as many as
//! clients have names for.

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

/// Requests that any endpoint of one set is equally good for: the first so many of the set. The
/// numbers mean something in the snapshot that gave them only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// The set.
    pub set: usize,
    /// How many of its endpoints take part, counted from the first; never 0.
    pub first: usize,
}

/// Who may take a request.
#[derive(Debug)]
pub enum Candidates<'a> {
    /// These; never empty.
    Some(Class, &'a [Arc<Endpoint>]),
    /// These serve the model, and no probe has heard of the version. It may be a moment old; they
    /// know how to say no. Not worth waiting for.
    Unheard(&'a [Arc<Endpoint>]),
    /// Nobody right now.
    Nobody,
    /// Somebody serves the model soon: it is loading, or its endpoints are out.
    Loading,
    /// Nobody has the model.
    UnknownModel,
}

/// The pool as it was at one moment.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    all: Vec<Arc<Endpoint>>,
    /// Every set of available endpoints that some request may go to; the first is all of them, the
    /// second those that have not told their models.
    sets: Vec<Group>,
    /// The set that serves a model, by `name`, `name/version` and `name/label`.
    models: HashMap<Box<str>, usize>,
    default_model: Option<Box<str>>,
    is_panicking: bool,
}

/// The set of all available endpoints.
const AVAILABLE: usize = 0;
/// The set of those that have not told their models.
const UNTOLD: usize = 1;

/// Models that `/predict` falls back to, the preferred one first; as the workers do it.
const DEFAULT_MODELS: [&str; 2] = ["mobilenet_v2", "mnist"];

impl Default for Snapshot {
    fn default() -> Self {
        Self::new(Vec::new(), 0, 0)
    }
}

impl Snapshot {
    fn new(all: Vec<Arc<Endpoint>>, panic_percent: usize, generation: u64) -> Self {
        let states: Vec<State> = all.iter().map(|endpoint| endpoint.state()).collect();
        // What an operator keeps requests away from says nothing about the others.
        let is_offered = |position: usize| !states[position].draining && all[position].weight() > 0;
        let is_available = |position: &usize| states[*position].is_available();
        let offered = (0..all.len()).filter(|position| is_offered(*position));
        let available = offered.clone().filter(is_available).count();
        let is_panicking = available * 100 < offered.count() * panic_percent;
        let is_taking = |position: usize| {
            let is_up = matches!(states[position].probe, Probe::Up { .. });
            is_offered(position) && (is_available(&position) || is_panicking && is_up)
        };
        let mut sets = vec![Group::default(), Group::default()];
        let mut models: HashMap<Box<str>, Group> = HashMap::new();
        for (position, endpoint) in all.iter().enumerate() {
            let is_taking = is_taking(position);
            if is_taking {
                sets[AVAILABLE].push(position, endpoint);
            }
            if is_taking && endpoint.models().is_none() {
                sets[UNTOLD].push(position, endpoint);
            }
            add_models(&mut models, position, endpoint, is_taking);
        }
        let serves =
            |name: &&str| models.get(*name).is_some_and(|group| !group.endpoints.is_empty());
        let default_model = DEFAULT_MODELS.into_iter().find(serves).map(Box::from);
        let models = share_sets(&mut sets, models);
        Self { generation, all, sets, models, default_model, is_panicking }
    }

    /// Every endpoint, in the order of the list.
    pub fn all(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    /// The endpoints that may be picked.
    pub fn available(&self) -> &[Arc<Endpoint>] {
        &self.sets[AVAILABLE].endpoints
    }

    /// Grows with every snapshot of a pool.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The endpoints of a set.
    pub fn set(&self, set: usize) -> &[Arc<Endpoint>] {
        self.sets.get(set).map_or(&[], |set| &set.endpoints)
    }

    /// Whether ejected endpoints are used as well, because too few others are left.
    pub fn is_panicking(&self) -> bool {
        self.is_panicking
    }

    /// Names of the models that some available endpoint serves, the default first.
    pub fn models(&self) -> Vec<&str> {
        let served = self.models.iter().filter(|(_, set)| !self.set(**set).is_empty());
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
        let Some(model) = model else { return self.first_of(AVAILABLE, count) };
        if let Some(set) = self.models.get(model) {
            if self.set(*set).is_empty() {
                return Candidates::Loading;
            }
            return self.first_of(*set, count);
        }
        let of_model = model.split_once('/').and_then(|(name, _)| self.models.get(name));
        if let Some(set) = of_model {
            return match self.sets[*set].first(count) {
                [] if self.set(*set).is_empty() => Candidates::Loading,
                [] => Candidates::Nobody,
                some => Candidates::Unheard(some),
            };
        }
        if !self.available().is_empty() && self.set(UNTOLD).is_empty() {
            return Candidates::UnknownModel;
        }
        self.first_of(UNTOLD, count)
    }

    fn first_of(&self, set: usize, count: usize) -> Candidates<'_> {
        match self.sets[set].first(count) {
            [] => Candidates::Nobody,
            some => Candidates::Some(Class { set, first: some.len() }, some),
        }
    }
}

/// Adds an endpoint to the groups of the models that it serves.
fn add_models(
    groups: &mut HashMap<Box<str>, Group>,
    position: usize,
    endpoint: &Arc<Endpoint>,
    is_taking: bool,
) {
    let Some(models) = endpoint.models() else { return };
    // A version that is broken or leaving is nobody's.
    let served = |entry: &&ModelIndexEntry| matches!(&*entry.state, "READY" | "LOADING");
    for entry in models.iter().filter(served) {
        let names = std::iter::once(&entry.version).chain(&entry.labels);
        let versions = names.map(|version| format!("{}/{version}", entry.name));
        for key in std::iter::once(entry.name.clone()).chain(versions) {
            let group = groups.entry(key.into()).or_default();
            let is_new = group.positions.last() != Some(&position);
            if is_taking && entry.state == "READY" && is_new {
                group.push(position, endpoint);
            }
        }
    }
}

/// Has groups of the same endpoints share one set; tells which.
fn share_sets(sets: &mut Vec<Group>, groups: HashMap<Box<str>, Group>) -> HashMap<Box<str>, usize> {
    let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
    known.insert(sets[AVAILABLE].positions.clone(), AVAILABLE);
    let mut models = HashMap::with_capacity(groups.len());
    for (name, group) in groups {
        let set = *known.entry(group.positions.clone()).or_insert_with(|| {
            sets.push(group);
            sets.len() - 1
        });
        models.insert(name, set);
    }
    models
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
        let generation = self.current.load().generation + 1;
        let snapshot = Snapshot::new(all, self.settings.panic_percent, generation);
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
