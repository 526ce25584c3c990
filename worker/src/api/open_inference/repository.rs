//! The model repository extension: what there is, and load and unload by order.

use super::Named;
use crate::api::{App, Problem};
use crate::serving::loader::{Order, OrderError, Reply};
use crate::serving::{Snapshot, State as VersionState};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::oneshot;
use wire::ModelIndexEntry;

#[derive(Debug, Default, Deserialize)]
struct Filter {
    #[serde(default)]
    ready: bool,
}

/// `POST /v2/repository/index`, with `{"ready": true}` only what answers.
pub(super) async fn index(
    State(app): State<Arc<App>>,
    body: Bytes,
) -> Result<Json<Vec<ModelIndexEntry>>, Problem> {
    let filter = if body.is_empty() {
        Filter::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| Problem::Malformed(format!("the request does not parse: {error}")))?
    };
    let mut entries = entries(&app.snapshot.load());
    entries.retain(|entry| !filter.ready || entry.state == "READY");
    Ok(Json(entries))
}

/// `POST /v2/repository/models/{model}/load`.
pub(super) async fn load(
    State(app): State<Arc<App>>,
    Path(named): Path<Named>,
) -> Result<Json<Value>, Problem> {
    order(&app, named.model, Order::Load).await
}

/// `POST /v2/repository/models/{model}/unload`: answers at once; open requests still finish.
pub(super) async fn unload(
    State(app): State<Arc<App>>,
    Path(named): Path<Named>,
) -> Result<Json<Value>, Problem> {
    order(&app, named.model, Order::Unload).await
}

async fn order(
    app: &App,
    model: String,
    order: fn(String, Reply) -> Order,
) -> Result<Json<Value>, Problem> {
    let leaving = || Problem::Unavailable("the worker is leaving".to_owned());
    let Some(orders) = &app.orders else {
        return Err(Problem::Forbidden("this worker takes no orders to load or unload".to_owned()));
    };
    let (reply, outcome) = oneshot::channel();
    orders.send(order(model.clone(), reply)).map_err(|_| leaving())?;
    match outcome.await {
        Ok(Ok(())) => Ok(Json(json!({}))),
        Ok(Err(OrderError::NoModel)) => {
            Err(Problem::NotFound(format!("no model {model:?} in the repository")))
        }
        Ok(Err(OrderError::Broken(reason))) => {
            Err(Problem::Malformed(format!("model {model:?} does not load: {reason}")))
        }
        Err(_) => Err(leaving()),
    }
}

fn entries(snapshot: &Snapshot) -> Vec<ModelIndexEntry> {
    let versions = snapshot.models.iter().flat_map(|(name, entry)| {
        entry.states.iter().map(move |(number, status)| (name, entry, number, status))
    });
    versions
        .map(|(name, entry, number, status)| ModelIndexEntry {
            name: name.clone(),
            version: number.to_string(),
            state: state_name(status.state).to_owned(),
            reason: status.reason.clone(),
            labels: entry.labels_of(*number),
        })
        .collect()
}

fn state_name(state: VersionState) -> &'static str {
    match state {
        VersionState::Loading => "LOADING",
        VersionState::Ready => "READY",
        VersionState::Unloading => "UNLOADING",
        VersionState::Unavailable => "UNAVAILABLE",
    }
}
