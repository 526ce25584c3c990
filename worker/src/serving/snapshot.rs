//! An immutable view of what is served, and how a request finds its version in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use message::Version;

use super::Served;
use crate::repository::Resize;

/// Everything that is served at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The models by name.
    pub models: BTreeMap<String, Entry>,
    /// Whether the first scan of the repository is complete.
    pub settled: bool,
}

/// One model at one moment.
#[derive(Debug, Default)]
pub struct Entry {
    /// Versions that are ready to serve.
    pub ready: BTreeMap<u64, Arc<Served>>,
    /// Names of versions.
    pub labels: BTreeMap<String, u64>,
    /// Every version that is known, ready or not.
    pub states: BTreeMap<u64, Status>,
}

/// The status of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The stage of its life cycle.
    pub state: State,
    /// Why it is unavailable, or serves what its files held before; empty otherwise.
    pub reason: String,
}

/// The life cycle of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Being read and warmed up; serves nothing yet.
    Loading,
    /// Serves requests.
    Ready,
    /// Finishes what it had accepted, takes nothing new.
    Unloading,
    /// Cannot be loaded.
    Unavailable,
}

/// Which version a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector<'a> {
    /// The newest ready version.
    Latest,
    /// The version with this number.
    Number(u64),
    /// The version with this label.
    Label(&'a str),
}

/// Why there is no version for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// No such model.
    Model,
    /// No such version of it.
    Version,
    /// No version with that label.
    Label,
    /// It is being loaded.
    Loading,
}

impl Snapshot {
    /// The version that serves a request.
    pub fn find(&self, model: &str, selector: Selector<'_>) -> Result<&Arc<Served>, Missing> {
        let Some(entry) = self.models.get(model) else {
            return Err(if self.settled { Missing::Model } else { Missing::Loading });
        };
        let number = match selector {
            Selector::Latest => {
                let newest = entry.ready.values().next_back();
                return newest.ok_or_else(|| entry.why_none(None));
            }
            Selector::Number(number) => number,
            Selector::Label(label) => *entry.labels.get(label).ok_or(Missing::Label)?,
        };
        entry.ready.get(&number).ok_or_else(|| entry.why_none(Some(number)))
    }

    /// The model for requests that name none, see [`message::preference`]. It is unknown until
    /// every model has been looked at: a picture must not go to the only one ready so far.
    pub fn default_model(&self) -> Option<&str> {
        if !self.settled {
            return None;
        }
        let ready = self.models.iter().filter(|(_, entry)| !entry.ready.is_empty());
        message::default_model(ready.map(|(name, entry)| (name.as_str(), entry.takes_images())))
    }

    /// The model for photos that requests fall back to.
    pub fn photo_model(&self) -> Option<Arc<Served>> {
        self.model_by(|resize| resize != Resize::Digit)
    }

    /// The model for handwritten digits that requests fall back to.
    pub fn digit_model(&self) -> Option<Arc<Served>> {
        self.model_by(|resize| resize == Resize::Digit)
    }

    /// The newest version of the first model whose pictures are prepared this way.
    fn model_by(&self, is_meant: impl Fn(Resize) -> bool) -> Option<Arc<Served>> {
        let newest = |(name, entry): (_, &Entry)| {
            let served = Arc::clone(entry.ready.values().next_back()?);
            let input = served.version.manifest.input.as_ref()?;
            is_meant(input.resize).then_some((name, served))
        };
        let meant = self.models.iter().filter_map(newest);
        let first = meant.min_by_key(|(name, _): &(&String, _)| message::preference(name, true));
        first.map(|(_, served)| served)
    }

    /// Whether the worker is ready for requests.
    pub fn is_ready(&self) -> bool {
        self.default_model().is_some()
    }

    /// Rows that the worker can take at a time: the most that any model takes.
    pub fn concurrency(&self) -> usize {
        let ready = self.models.values().flat_map(|entry| entry.ready.values());
        ready.map(|served| served.concurrency()).max().unwrap_or(0)
    }

    /// Number of rows waiting for any model.
    pub fn queued(&self) -> usize {
        self.models.values().flat_map(|entry| entry.ready.values()).map(|v| v.queued()).sum()
    }
}

impl<'a> Selector<'a> {
    /// The selector for the version that a request names.
    pub fn of(version: &'a Version<'_>) -> Self {
        match version {
            Version::Latest => Self::Latest,
            Version::Number(number) => Self::Number(*number),
            Version::Label(label) => Self::Label(label),
        }
    }
}

impl Entry {
    /// Whether any ready version takes images.
    pub fn takes_images(&self) -> bool {
        self.ready.values().any(|served| served.version.manifest.input.is_some())
    }

    /// The labels that point at a version.
    pub fn labels_of(&self, number: u64) -> Vec<String> {
        let points_here = |(_, labelled): &(&String, &u64)| **labelled == number;
        self.labels.iter().filter(points_here).map(|(label, _)| label.clone()).collect()
    }

    fn why_none(&self, number: Option<u64>) -> Missing {
        let is_loading = |(known, status): (&u64, &Status)| {
            status.state == State::Loading && number.is_none_or(|wanted| wanted == *known)
        };
        if self.states.iter().any(is_loading) {
            return Missing::Loading;
        }
        if number.is_some() { Missing::Version } else { Missing::Model }
    }
}
