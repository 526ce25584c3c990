//! Whether the process lives and is ready, what it serves, and what it counted.

use super::App;
use crate::serving::{Snapshot, State as VersionState};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::Arc;
use wire::ModelIndexEntry;

/// `GET /v2/health/live`.
pub(super) async fn live() -> Response {
    Json(json!({"live": true})).into_response()
}

/// `GET /v2/health/ready`: 503 while models load and while the worker drains.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let ready = app.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": ready, "live": true}))).into_response()
}

/// `GET /metrics`.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let kind = HeaderValue::from_static(TYPE);
    ([(header::CONTENT_TYPE, kind)], app.metrics.text()).into_response()
}

/// `POST /v2/repository/index`.
pub(super) async fn index(State(app): State<Arc<App>>) -> Json<Vec<ModelIndexEntry>> {
    Json(entries(&app.snapshot.load()))
}

fn entries(snapshot: &Snapshot) -> Vec<ModelIndexEntry> {
    let versions = snapshot.models.iter().flat_map(|(name, entry)| {
        entry.states.iter().map(move |(number, status)| (name, number, status))
    });
    versions
        .map(|(name, number, status)| ModelIndexEntry {
            name: name.clone(),
            version: number.to_string(),
            state: state_name(status.state).to_owned(),
            reason: status.reason.clone(),
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
