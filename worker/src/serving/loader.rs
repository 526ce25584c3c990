//! The thread that keeps what is served in step with the model repository.
//!
//! It scans every second and on request. A new version is loaded and warmed up before it replaces
//! the old one. If it does not load, that is reported while the old one keeps serving, and it is
//! retried when its files change, or after a while if the system failed rather than the files. The
//! same holds for a version whose files change under its number: their contents decide, while their
//! times and lengths only determine whether they are read again. A retired version ends when its
//! last request has its answer. A label moves to another version once that version runs. What
//! cannot be read stays as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Entry, Served, Snapshot, State, Status};
use crate::batcher::Executor;
use crate::metrics::Metrics;
use crate::repository::file::Digest;
use crate::repository::{Found, FoundVersion, ModelSettings, Survey, Version, survey};
use crate::{Error, model};

/// Time until files that the system failed to read or load are tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Where the outcome of an order goes.
pub type Reply = oneshot::Sender<Result<(), OrderError>>;

/// An order to the loader.
#[derive(Debug)]
pub enum Order {
    /// Look at the repository now.
    Rescan,
    /// Serve a model again, and report whether that worked.
    Load(String, Reply),
    /// Stop serving a model.
    Unload(String, Reply),
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderError {
    /// No such model in the repository.
    NoModel,
    /// It does not load.
    Broken(String),
    /// Unknown: the repository cannot be read.
    Unreadable,
}

/// Owns the life cycle of every version.
#[derive(Debug)]
pub struct Loader {
    root: PathBuf,
    options: engine::Options,
    metrics: Arc<Metrics>,
    published: Arc<ArcSwap<Snapshot>>,
    models: BTreeMap<String, Kept>,
    /// Models that were unloaded by order.
    held: BTreeSet<String>,
    /// Why folders could not be read in the last scan.
    unreadable: BTreeMap<String, String>,
    /// Bytes that the weights and the largest batch of a version may take.
    memory: u64,
    settled: bool,
}

/// One model and everything known about its versions.
#[derive(Debug, Default)]
struct Kept {
    settings: ModelSettings,
    /// Why the settings on disk are not in force.
    settings_error: Option<String>,
    /// The versions that labels point to; they differ from the settings until those versions run.
    labels: BTreeMap<String, u64>,
    running: BTreeMap<u64, Running>,
    loading: Option<u64>,
    retiring: Vec<(u64, Executor)>,
    broken: BTreeMap<u64, Broken>,
}

#[derive(Debug)]
struct Running {
    served: Arc<Served>,
    thread: Executor,
    /// Digests of the files that it was loaded from.
    digests: Vec<Digest>,
    /// The files when they were last compared with `digests`; `None` forces a new comparison.
    seen: Option<FoundVersion>,
    /// Why the current contents of the files do not load.
    refused: Option<String>,
    /// When to try again even if they have not changed.
    again: Option<Instant>,
}

#[derive(Debug)]
struct Broken {
    found: FoundVersion,
    reason: String,
    /// When to try again even if the files have not changed.
    again: Option<Instant>,
}

impl Loader {
    /// A loader that publishes to `published`.
    pub fn new(
        (root, options): (PathBuf, engine::Options),
        metrics: Arc<Metrics>,
        published: Arc<ArcSwap<Snapshot>>,
    ) -> Self {
        Self {
            root,
            options,
            metrics,
            published,
            models: BTreeMap::new(),
            held: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            memory: model::MAX_MEMORY,
            settled: false,
        }
    }

    /// The same with this limit for the weights and the largest batch of a version.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        Self { memory: bytes, ..self }
    }

    /// Carries out orders and scans every `poll`, until all senders of orders are gone.
    pub fn run(mut self, orders: &Receiver<Order>, poll: Option<Duration>) {
        let poll = poll.unwrap_or(Duration::MAX);
        loop {
            match orders.recv_timeout(poll) {
                Ok(Order::Rescan) | Err(RecvTimeoutError::Timeout) => self.rescan(),
                // The caller no longer waits for it.
                Ok(Order::Load(_, reply)) if reply.is_closed() => {}
                Ok(Order::Load(model, reply)) => drop(reply.send(self.load(&model))),
                Ok(Order::Unload(model, reply)) => drop(reply.send(self.unload(&model))),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Scans the repository once and applies what has changed.
    pub fn rescan(&mut self) {
        // A failure is logged, and everything served stays.
        let _looked = self.look();
    }

    fn look(&mut self) -> Result<(), OrderError> {
        let Survey { models: mut found, unreadable } = survey(&self.root).map_err(|error| {
            tracing::warn!(root = %self.root.display(), %error, "cannot read the repository");
            OrderError::Unreadable
        })?;
        for (name, reason) in &unreadable {
            if self.unreadable.get(name) != Some(reason) {
                tracing::warn!(model = name, reason, "folder skipped");
            }
        }
        self.unreadable = unreadable;
        found.retain(|name, _| !self.held.contains(name));
        let known: BTreeSet<String> = self.models.keys().chain(found.keys()).cloned().collect();
        for name in known {
            let found = found.remove(&name);
            if !self.unreadable.contains_key(&name) || self.held.contains(&name) {
                self.reconcile(&name, found, Instant::now());
            }
        }
        self.models.retain(|_, kept| !kept.is_forgotten());
        self.settled = true;
        self.publish();
        Ok(())
    }

    fn load(&mut self, model: &str) -> Result<(), OrderError> {
        self.held.remove(model);
        if let Some(kept) = self.models.get_mut(model) {
            kept.compare_again();
        }
        self.look()?;
        if let Some(reason) = self.unreadable.get(model) {
            return Err(OrderError::Broken(reason.clone()));
        }
        let kept = self.models.get(model).ok_or(OrderError::NoModel)?;
        kept.trouble().map_or(Ok(()), |reason| Err(OrderError::Broken(reason)))
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

    /// Brings one model in line with what is on disk.
    fn reconcile(&mut self, name: &str, found: Option<Found>, now: Instant) {
        let kept = self.models.entry(name.to_owned()).or_default();
        kept.retiring.retain(|(_, thread)| !thread.is_finished());
        let versions = match found {
            Some(found) => {
                kept.take_settings(name, found.settings);
                found.versions
            }
            None => BTreeMap::new(),
        };
        kept.broken.retain(|number, broken| {
            versions.get(number) == Some(&broken.found) && !is_due(broken.again, now)
        });
        for running in kept.running.values_mut() {
            if is_due(running.again, now) {
                (running.seen, running.again) = (None, None);
            }
        }
        while let Some((number, found)) = self.models[name].next_to_load(&versions) {
            self.load_version(name, number, found);
        }
        self.retire(name, &versions);
        self.metrics.broken(name, self.models[name].broken_versions(&versions));
    }

    /// Loads a version that is new, or whose files may differ from what runs.
    fn load_version(&mut self, name: &str, number: u64, found: FoundVersion) {
        let digests = Version::digests(&found.folder);
        if let (Some(running), Ok(digests)) = (self.kept(name).running.get_mut(&number), &digests)
            && running.digests == *digests
        {
            (running.seen, running.refused, running.again) = (Some(found), None, None);
            return;
        }
        self.kept(name).loading = Some(number);
        self.publish();
        let loaded = digests.and_then(|digests| {
            let (served, thread) = self.load_files(name, number, &found.folder)?;
            if FoundVersion::look(found.folder.clone()) != found
                && Version::digests(&found.folder).ok().as_ref() != Some(&digests)
            {
                let reason = "the files changed while they were read".to_owned();
                return Err(Error::Invalid(reason));
            }
            let (served, seen) = (Arc::new(served), Some(found.clone()));
            Ok(Running { served, thread, digests, seen, refused: None, again: None })
        });
        self.kept(name).loading = None;
        match loaded {
            Ok(running) => self.take_over(name, number, running),
            Err(error) => self.refuse(name, number, found, &error),
        }
        self.publish();
    }

    fn load_files(
        &self,
        name: &str,
        number: u64,
        folder: &Path,
    ) -> Result<(Served, Executor), Error> {
        let version = Version::read(folder)?;
        model::check_memory(&version, self.options.threads, self.memory)?;
        Served::load(name, number, version, (self.options, &self.metrics))
    }

    /// Serves a loaded version, instead of what ran under its number before.
    fn take_over(&mut self, name: &str, number: u64, running: Running) {
        let Some(old) = self.kept(name).running.insert(number, running) else {
            self.metrics.ready(name, number, true);
            tracing::info!(model = name, version = number, "model ready");
            return;
        };
        let Running { served, thread, .. } = old;
        self.kept(name).retiring.push((number, thread));
        // Publish first, as when a version retires.
        self.publish();
        drop(served);
        tracing::info!(model = name, version = number, "model reloaded");
    }

    /// Records why a version does not load; what runs under its number keeps running.
    fn refuse(&mut self, name: &str, number: u64, found: FoundVersion, error: &Error) {
        self.metrics.load_failed(name);
        tracing::error!(model = name, version = number, %error, "model does not load");
        let reason = error.told_below(&self.root);
        let again = error.is_passing().then(|| Instant::now() + RETRY);
        let kept = self.kept(name);
        if let Some(running) = kept.running.get_mut(&number) {
            (running.seen, running.refused, running.again) = (Some(found), Some(reason), again);
        } else {
            kept.broken.insert(number, Broken { found, reason, again });
        }
    }

    /// Retires the versions that the policy no longer names.
    fn retire(&mut self, name: &str, versions: &BTreeMap<u64, FoundVersion>) {
        let kept = self.kept(name);
        let wanted = kept.wanted(versions);
        // If every named version is broken, the old ones keep serving as long as they are on disk.
        // So does a version with the label of a broken one.
        let keep_old = wanted.is_empty() && !kept.broken.is_empty();
        let labelled = kept.versions_with_labels_of_broken_ones();
        let leaving: Vec<u64> = kept
            .running
            .keys()
            .copied()
            .filter(|n| !wanted.contains(n))
            .filter(|n| !(keep_old || labelled.contains(n)) || !versions.contains_key(n))
            .collect();
        for number in leaving {
            if let Some(running) = self.kept(name).running.remove(&number) {
                let Running { served, thread, .. } = running;
                self.kept(name).retiring.push((number, thread));
                // Publish first: once no request can find the version, dropping it here ends it when
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

    fn publish(&mut self) {
        self.models.values_mut().for_each(Kept::move_labels);
        let models = self.models.iter().map(|(name, kept)| (name.clone(), kept.entry())).collect();
        self.published.store(Arc::new(Snapshot { models, settled: self.settled }));
    }
}

fn is_due(again: Option<Instant>, now: Instant) -> bool {
    again.is_some_and(|again| again <= now)
}

impl Kept {
    /// The versions to serve, newest first.
    fn wanted(&self, versions: &BTreeMap<u64, FoundVersion>) -> Vec<u64> {
        let usable: BTreeSet<u64> =
            versions.keys().copied().filter(|n| !self.broken.contains_key(n)).collect();
        self.settings.version_policy.select(&usable)
    }

    /// Number of versions that would be served if all loaded, but do not load as they are now. A
    /// broken version that a newer one has made needless does not count.
    fn broken_versions(&self, versions: &BTreeMap<u64, FoundVersion>) -> usize {
        let is_broken = |&&number: &&u64| {
            let running = self.running.get(&number);
            self.broken.contains_key(&number)
                || running.is_some_and(|running| running.refused.is_some())
        };
        let named = self.settings.version_policy.select(&versions.keys().copied().collect());
        named.iter().filter(is_broken).count()
    }

    /// The newest version to serve that does not run, or whose files look different from when they
    /// were last compared.
    fn next_to_load(&self, versions: &BTreeMap<u64, FoundVersion>) -> Option<(u64, FoundVersion)> {
        let is_settled = |number: &u64| {
            let running = self.running.get(number);
            running.is_some_and(|running| running.seen.as_ref() == versions.get(number))
        };
        let number = self.wanted(versions).into_iter().find(|number| !is_settled(number))?;
        Some((number, versions[&number].clone()))
    }

    /// Points labels to the versions that the settings name, as far as these run. Until then, a
    /// label stays where it is if that version still runs.
    fn move_labels(&mut self) {
        let in_force = |(label, named): (&String, &u64)| {
            let before = self.labels.get(label).filter(|before| {
                !self.running.contains_key(named) && self.running.contains_key(*before)
            });
            (label.clone(), *before.unwrap_or(named))
        };
        self.labels = self.settings.labels.iter().map(in_force).collect();
    }

    /// The versions that labels point to because those that the settings name do not load.
    fn versions_with_labels_of_broken_ones(&self) -> BTreeSet<u64> {
        let labels = self.settings.labels.iter();
        let broken = labels.filter(|(_, named)| self.broken.contains_key(*named));
        broken.filter_map(|(label, _)| self.labels.get(label).copied()).collect()
    }

    /// Forces everything to be compared with the files, even if they look unchanged.
    fn compare_again(&mut self) {
        self.broken.clear();
        for running in self.running.values_mut() {
            running.seen = None;
        }
    }

    fn take_settings(&mut self, model: &str, found: Result<ModelSettings, String>) {
        let error = match found {
            Ok(settings) => {
                self.settings = settings;
                None
            }
            Err(error) => Some(error),
        };
        if let Some(error) =
            error.as_ref().filter(|error| self.settings_error.as_ref() != Some(error))
        {
            tracing::warn!(model, error, "settings not reloaded");
        }
        self.settings_error = error;
    }

    /// Why the newest contents of the files are not served, if they are not.
    fn trouble(&self) -> Option<String> {
        let newest = self.running.last_key_value();
        if let Some((number, broken)) = self.broken.last_key_value()
            && newest.is_none_or(|(running, _)| number > running)
        {
            return Some(match newest {
                Some((running, _)) => {
                    format!("version {number}: {}; version {running} serves", broken.reason)
                }
                None => broken.reason.clone(),
            });
        }
        let refused = |(number, running): (&u64, &Running)| {
            let reason = running.refused.as_ref()?;
            Some(format!("version {number}: {reason}; it serves what it held before"))
        };
        self.running.iter().rev().find_map(refused)
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
        for (number, running) in &self.running {
            let refused = running.refused.as_ref();
            let reason = refused.map(|reason| format!("serves what it held before: {reason}"));
            states.insert(*number, say(State::Ready, &reason.unwrap_or_default()));
        }
        let served = |(number, running): (&u64, &Running)| (*number, Arc::clone(&running.served));
        Entry {
            ready: self.running.iter().map(served).collect(),
            labels: self.labels.clone(),
            states,
        }
    }

    fn is_forgotten(&self) -> bool {
        self.running.is_empty() && self.retiring.is_empty() && self.broken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Result, Write};
    use std::num::NonZeroUsize;
    use std::os::unix::fs::symlink;
    use std::sync::{Mutex, PoisonError};

    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::repository::scan;
    use crate::serving::Selector;

    fn loader(published: &Arc<ArcSwap<Snapshot>>) -> Loader {
        let Command::Serve(args) = Cli::parse_from(["worker", "serve"]).command else {
            unreachable!("the command is serve")
        };
        let options = engine::Options::new(&args.engine, NonZeroUsize::MIN);
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models");
        Loader::new((root, options), Arc::new(Metrics::new()), Arc::clone(published))
    }

    /// The log output.
    #[derive(Debug, Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_warned_of_once_and_again_when_that_changes() {
        let root = tempfile::tempdir().unwrap();
        let mut loader = Loader { root: root.path().to_owned(), ..loader(&Arc::default()) };
        let (log, folder) = (Log::default(), root.path().join("broken"));
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(subscriber.finish(), || {
            let mut looks = |warnings: usize| {
                (0..3).for_each(|_| loader.rescan());
                let text = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let text = String::from_utf8(text).unwrap();
                let is_warning =
                    |line: &&str| line.contains("WARN") && line.contains("folder skipped");
                let warned = text.lines().filter(is_warning);
                assert_eq!(warned.count(), warnings, "{text}");
            };
            looks(0);
            symlink("nowhere", &folder).unwrap();
            looks(1);
            std::fs::remove_file(&folder).unwrap();
            looks(1);
            symlink("nowhere", &folder).unwrap();
            looks(2);
            std::fs::remove_file(&folder).unwrap();
            symlink("broken", &folder).unwrap();
            looks(3);
        });
    }

    #[test]
    fn there_is_no_default_before_every_model_has_been_looked_at() {
        let published = Arc::default();
        let mut loader = loader(&published);
        let found = scan(&loader.root).unwrap().remove("iris_model");
        loader.reconcile("iris_model", found, Instant::now());
        let early = published.load_full();
        assert!(early.find("iris_model", Selector::Latest).is_ok());
        assert_eq!(early.default_model(), None, "it may not be what pictures are for");
        loader.rescan();
        assert_ne!(published.load().default_model(), None);
    }

    #[test]
    fn what_the_system_failed_to_read_is_read_again_in_a_while() {
        let mut loader = loader(&Arc::default());
        let found = scan(&loader.root).unwrap().remove("iris_model");
        let version = found.as_ref().unwrap().versions[&1].clone();
        let fails = || Error::Io(std::io::Error::from_raw_os_error(libc::EIO));
        let soon = Instant::now();
        loader.refuse("iris_model", 1, version.clone(), &fails());
        let later = Instant::now() + RETRY;
        loader.reconcile("iris_model", found.clone(), soon);
        assert!(loader.models["iris_model"].running.is_empty(), "it has only just failed");
        loader.reconcile("iris_model", found.clone(), later);
        assert_eq!(loader.models["iris_model"].trouble(), None);
        // The same for files that have changed under a number.
        let soon = Instant::now();
        loader.refuse("iris_model", 1, version.clone(), &fails());
        let later = Instant::now() + RETRY;
        loader.reconcile("iris_model", found.clone(), soon);
        assert!(loader.models["iris_model"].trouble().is_some());
        loader.reconcile("iris_model", found.clone(), later);
        assert_eq!(loader.models["iris_model"].trouble(), None);
        // A fault in the files lasts until they change.
        loader.refuse("iris_model", 1, version, &Error::Invalid("no labels".to_owned()));
        loader.reconcile("iris_model", found, later + RETRY);
        assert!(loader.models["iris_model"].trouble().is_some());
    }

    #[test]
    fn a_version_that_does_not_load_is_told_of_from_its_first_failure_until_another_serves() {
        let told = |loader: &Loader, count: u32| {
            let text = loader.metrics.text();
            let line = format!("worker_model_broken_versions{{model=\"iris_model\"}} {count}\n");
            assert!(text.contains(&line), "{line} not in\n{text}");
        };
        let mut loader = loader(&Arc::default());
        let found = scan(&loader.root).unwrap().remove("iris_model");
        let version = found.as_ref().unwrap().versions[&1].clone();
        let no_labels = || Error::Invalid("no labels".to_owned());
        // It never loaded, and there is nothing that was counted before.
        loader.refuse("iris_model", 1, version.clone(), &no_labels());
        loader.reconcile("iris_model", found.clone(), Instant::now());
        told(&loader, 1);
        let mut two = found.clone().unwrap();
        two.versions.insert(2, version.clone());
        loader.reconcile("iris_model", Some(two), Instant::now());
        told(&loader, 0);
        loader.reconcile("iris_model", None, Instant::now());
        told(&loader, 0);
        // Its files have changed under its number.
        loader.reconcile("iris_model", found.clone(), Instant::now());
        told(&loader, 0);
        loader.refuse("iris_model", 1, version, &no_labels());
        loader.reconcile("iris_model", found, Instant::now());
        told(&loader, 1);
    }
}
