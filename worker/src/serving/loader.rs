//! The thread that keeps what is served in step with the model repository.
//!
//! It looks every second and when told. A new version is loaded and warmed up before it replaces
//! the old one; one that does not load is reported, and retried when its files change, while the
//! old one keeps serving. A retired version ends when its last request has its answer.

use super::{Entry, Served, Snapshot, State, Status};
use crate::batcher::Executor;
use crate::metrics::Metrics;
use crate::repository::{Found, FoundVersion, ModelSettings, scan};
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Where the outcome of an order goes.
pub type Reply = oneshot::Sender<Result<(), OrderError>>;

/// What the loader is asked to do.
#[derive(Debug)]
pub enum Order {
    /// Look at the repository now.
    Rescan,
    /// Serve a model again, and say whether that worked.
    Load(String, Reply),
    /// Serve a model no more.
    Unload(String, Reply),
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderError {
    /// No such model in the repository.
    NoModel,
    /// It does not load.
    Broken(String),
    /// Nobody knows: the repository cannot be read.
    Unreadable,
}

/// Owns the life of every version.
#[derive(Debug)]
pub struct Loader {
    root: PathBuf,
    options: engine::Options,
    metrics: Arc<Metrics>,
    published: Arc<ArcSwap<Snapshot>>,
    models: BTreeMap<String, Kept>,
    /// Models that were unloaded by order.
    held: BTreeSet<String>,
    settled: bool,
}

/// One model and everything known of its versions.
#[derive(Debug, Default)]
struct Kept {
    settings: ModelSettings,
    running: BTreeMap<u64, Running>,
    loading: Option<u64>,
    retiring: Vec<(u64, Executor)>,
    broken: BTreeMap<u64, Broken>,
}

#[derive(Debug)]
struct Running {
    served: Arc<Served>,
    thread: Executor,
}

#[derive(Debug)]
struct Broken {
    found: FoundVersion,
    reason: String,
}

impl Loader {
    /// A loader that publishes to `published`.
    pub fn new(
        (root, options): (PathBuf, engine::Options),
        metrics: Arc<Metrics>,
        published: Arc<ArcSwap<Snapshot>>,
    ) -> Self {
        let (models, held) = (BTreeMap::new(), BTreeSet::new());
        Self { root, options, metrics, published, models, held, settled: false }
    }

    /// Carries out orders and looks every `poll`, until nobody can give orders any more.
    pub fn run(mut self, orders: &Receiver<Order>, poll: Option<Duration>) {
        let poll = poll.unwrap_or(Duration::MAX);
        loop {
            match orders.recv_timeout(poll) {
                Ok(Order::Rescan) | Err(RecvTimeoutError::Timeout) => self.rescan(),
                Ok(Order::Load(model, reply)) => drop(reply.send(self.load(&model))),
                Ok(Order::Unload(model, reply)) => drop(reply.send(self.unload(&model))),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Looks at the repository once and does what has changed.
    pub fn rescan(&mut self) {
        // The order of a client is told; a look that nobody asked for only logs it.
        drop(self.look());
    }

    fn look(&mut self) -> Result<(), OrderError> {
        let mut found = scan(&self.root).map_err(|error| {
            tracing::warn!(models = %self.root.display(), %error, "model repository unreadable");
            OrderError::Unreadable
        })?;
        found.retain(|name, _| !self.held.contains(name));
        let known: BTreeSet<String> = self.models.keys().chain(found.keys()).cloned().collect();
        for name in known {
            self.reconcile(&name, found.remove(&name));
        }
        self.models.retain(|_, kept| !kept.is_forgotten());
        self.settled = true;
        self.publish();
        Ok(())
    }

    fn load(&mut self, model: &str) -> Result<(), OrderError> {
        self.held.remove(model);
        if let Some(kept) = self.models.get_mut(model) {
            kept.broken.clear();
        }
        self.look()?;
        let kept = self.models.get(model).ok_or(OrderError::NoModel)?;
        match kept.broken.values().next_back() {
            Some(broken) if kept.running.is_empty() => {
                Err(OrderError::Broken(broken.reason.clone()))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn unload(&mut self, model: &str) -> Result<(), OrderError> {
        if !self.models.contains_key(model) {
            return Err(OrderError::NoModel);
        }
        let held_before = !self.held.insert(model.to_owned());
        let looked = self.look();
        if looked.is_err() && !held_before {
            self.held.remove(model);
        }
        looked
    }

    /// Brings one model to what the disk says of it.
    fn reconcile(&mut self, name: &str, found: Option<Found>) {
        let kept = self.models.entry(name.to_owned()).or_default();
        kept.retiring.retain(|(_, thread)| !thread.is_finished());
        let versions = match found {
            Some(found) => {
                match found.settings {
                    Ok(settings) => kept.settings = settings,
                    Err(error) => {
                        tracing::warn!(model = name, %error, "settings kept as they were");
                    }
                }
                found.versions
            }
            None => BTreeMap::new(),
        };
        kept.broken.retain(|number, broken| versions.get(number) == Some(&broken.found));
        while let Some((number, found)) = self.models[name].next_to_load(&versions) {
            self.load_version(name, number, found);
        }
        self.retire(name, &versions);
    }

    fn load_version(&mut self, name: &str, number: u64, found: FoundVersion) {
        self.kept(name).loading = Some(number);
        self.publish();
        let loaded = Served::load(name, number, &found.folder, (self.options, &self.metrics));
        let kept = self.kept(name);
        kept.loading = None;
        match loaded {
            Ok((served, thread)) => {
                kept.running.insert(number, Running { served: Arc::new(served), thread });
                self.metrics.ready(name, number, true);
                tracing::info!(model = name, version = number, "model ready");
            }
            Err(error) => {
                kept.broken.insert(number, Broken { found, reason: error.to_string() });
                self.metrics.load_failed(name);
                tracing::error!(model = name, version = number, %error, "model does not load");
            }
        }
        self.publish();
    }

    /// Lets go of the versions that the policy no longer names.
    fn retire(&mut self, name: &str, versions: &BTreeMap<u64, FoundVersion>) {
        let kept = self.kept(name);
        let wanted = kept.wanted(versions);
        // With every named version broken the old ones keep serving, as long as they are on disk.
        let keep_old = wanted.is_empty() && !kept.broken.is_empty();
        let leaving: Vec<u64> = kept
            .running
            .keys()
            .copied()
            .filter(|n| !wanted.contains(n))
            .filter(|n| !keep_old || !versions.contains_key(n))
            .collect();
        for number in leaving {
            if let Some(Running { served, thread }) = self.kept(name).running.remove(&number) {
                self.kept(name).retiring.push((number, thread));
                // Publish first: once nobody can find the version, dropping it here ends it when
                // its last request does.
                self.publish();
                drop(served);
                self.metrics.ready(name, number, false);
                tracing::info!(model = name, version = number, "model retired");
            }
        }
    }

    fn kept(&mut self, name: &str) -> &mut Kept {
        self.models.entry(name.to_owned()).or_default()
    }

    fn publish(&self) {
        let models = self.models.iter().map(|(name, kept)| (name.clone(), kept.entry())).collect();
        self.published.store(Arc::new(Snapshot { models, settled: self.settled }));
    }
}

impl Kept {
    /// The versions to serve, newest first.
    fn wanted(&self, versions: &BTreeMap<u64, FoundVersion>) -> Vec<u64> {
        let usable: BTreeSet<u64> =
            versions.keys().copied().filter(|n| !self.broken.contains_key(n)).collect();
        self.settings.version_policy.select(&usable)
    }

    fn next_to_load(&self, versions: &BTreeMap<u64, FoundVersion>) -> Option<(u64, FoundVersion)> {
        let wanted = self.wanted(versions);
        let number = wanted.into_iter().find(|number| !self.running.contains_key(number))?;
        Some((number, versions[&number].clone()))
    }

    fn entry(&self) -> Entry {
        let say = |state, reason: &str| Status { state, reason: reason.to_owned() };
        let mut states = BTreeMap::new();
        for (number, broken) in &self.broken {
            states.insert(*number, say(State::Unavailable, &broken.reason));
        }
        for (number, _) in &self.retiring {
            states.insert(*number, say(State::Unloading, ""));
        }
        if let Some(number) = self.loading {
            states.insert(number, say(State::Loading, ""));
        }
        for number in self.running.keys() {
            states.insert(*number, say(State::Ready, ""));
        }
        let served = |(number, running): (&u64, &Running)| (*number, Arc::clone(&running.served));
        Entry {
            ready: self.running.iter().map(served).collect(),
            labels: self.settings.labels.clone(),
            states,
        }
    }

    fn is_forgotten(&self) -> bool {
        self.running.is_empty() && self.retiring.is_empty() && self.broken.is_empty()
    }
}
