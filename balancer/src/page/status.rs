//! The status of the fleet for open pages, as in `/status.json`.
//!
//! Models are public. Everything about workers, even their number, is left out if the fleet is not
//! public.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering::Relaxed;

use fleet::policy::Kind;
use fleet::{Endpoint, EndpointId, Fleet, Snapshot};
use serde_json::{Value, json};

use crate::config::{Config, DefaultModel};

/// Maximum number of workers listed individually: as many as a page can show.
const MAX_TOLD: usize = 32;

/// The current status.
pub fn status(fleet: &Fleet, config: &Config, is_ready: bool) -> Value {
    let snapshot = fleet.pool.snapshot();
    let is_public = config.is_fleet_public;
    let default = config.default_model.as_ref().map(DefaultModel::name);
    let mut status = of_snapshot(&snapshot, is_public, default);
    status["ready"] = Value::from(is_ready);
    if is_public {
        let kind = fleet.policy.load().kind;
        status["policy"] = Value::from(kind.as_str());
        status["endpoints"] = endpoints(&snapshot, kind);
    }
    status
}

/// The part given by a snapshot, with the model for requests that name none (`default` if set).
pub(super) fn of_snapshot(snapshot: &Snapshot, is_public: bool, default: Option<&str>) -> Value {
    let images = image_models(snapshot);
    let (images, tables): (Vec<&str>, Vec<&str>) =
        snapshot.models().into_iter().partition(|model| images.contains(*model));
    let mut status = json!({
        "ready": !snapshot.available().is_empty(),
        "models": images,
        "tables": tables,
        "default_model": default.or(snapshot.default_model()),
    });
    if is_public {
        status["workers"] = Value::from(snapshot.all().len());
        status["available"] = Value::from(snapshot.available().len());
    }
    status
}

/// Names and states of the workers that are listed individually.
pub(super) fn workers(snapshot: &Snapshot, is_public: bool) -> Value {
    let told = snapshot.all().iter().take(if is_public { MAX_TOLD } else { 0 });
    told.map(|endpoint| {
        json!({
            "name": endpoint.name(),
            "state": endpoint.state().availability().as_str(),
        })
    })
    .collect()
}

/// Names of the models that accept images.
fn image_models(snapshot: &Snapshot) -> BTreeSet<String> {
    let told = snapshot.all().iter().filter_map(|endpoint| endpoint.models());
    let images = |models: &Vec<wire::ModelIndexEntry>| {
        let takes = models.iter().filter(|model| model.takes_images);
        takes.map(|model| model.name.clone()).collect::<Vec<_>>()
    };
    told.flat_map(|models| images(&models)).collect()
}

fn endpoints(snapshot: &Snapshot, kind: Kind) -> Value {
    let all = snapshot.all();
    let shares = shares(snapshot, kind);
    let told = all.iter().zip(shares).take(MAX_TOLD);
    told.map(|(endpoint, share)| {
        let counters = endpoint.counters();
        json!({
            "name": endpoint.name(),
            "state": endpoint.state().availability().as_str(),
            "in_flight": endpoint.in_flight(),
            "answered": counters.succeeded.load(Relaxed),
            "failed": counters.failed.load(Relaxed),
            "share": share,
        })
    })
    .collect()
}

/// The share of the picks that each endpoint can expect while all are alike: the same for all,
/// except under the policy that uses weights. `None` if it depends on the requests.
pub(crate) fn shares(snapshot: &Snapshot, kind: Kind) -> Vec<Option<f64>> {
    let weight = |endpoint: &Endpoint| match kind {
        Kind::Weighted => f64::from(endpoint.weight()),
        Kind::Random
        | Kind::RoundRobin
        | Kind::LeastRequests
        | Kind::P2c
        | Kind::PeakEwma
        | Kind::Hash
        | Kind::Inference => 1.0,
    };
    let available: HashSet<EndpointId> =
        snapshot.available().iter().map(|endpoint| endpoint.id()).collect();
    let is_taking = |endpoint: &Endpoint| available.contains(&endpoint.id());
    let weights: Vec<f64> = snapshot
        .all()
        .iter()
        .map(|endpoint| if is_taking(endpoint) { weight(endpoint) } else { 0.0 })
        .collect();
    let whole: f64 = weights.iter().sum();
    let share = |weight: &f64| (kind != Kind::Hash && whole > 0.0).then(|| weight / whole);
    weights.iter().map(share).collect()
}
