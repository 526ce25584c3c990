//! The statistics extension: totals of every version since it was loaded.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use message::Version;
use serde_json::{Value, json};

use super::Named;
use crate::api::{App, Problem};
use crate::batcher::Phase;
use crate::serving::Served;

/// `GET /v2/models/stats`.
pub(super) async fn all(State(app): State<Arc<App>>) -> Json<Value> {
    let snapshot = app.snapshot.load();
    let versions = snapshot.models.values().flat_map(|entry| entry.ready.values());
    Json(json!({"model_stats": versions.map(|served| totals(served)).collect::<Vec<_>>()}))
}

/// `GET /v2/models/{model}/stats`: every ready version, or the one named.
pub(super) async fn one(State(app): State<Arc<App>>, named: Named) -> Result<Json<Value>, Problem> {
    let found = named.find(&app)?;
    if named.model.version != Version::Latest {
        return Ok(Json(json!({"model_stats": [totals(&found)]})));
    }
    let snapshot = app.snapshot.load();
    let versions = snapshot.models.get(&*named.model.name).map(|entry| entry.ready.values());
    let rows: Vec<Value> = versions.into_iter().flatten().map(|served| totals(served)).collect();
    Ok(Json(json!({"model_stats": rows})))
}

fn totals(served: &Served) -> Value {
    let totals = served.statistics.totals();
    let phase = |phase: Phase| json!({"count": phase.count, "ns": phase.nanoseconds});
    json!({
        "name": served.model,
        "version": served.number.to_string(),
        "last_inference": totals.last_unix_ms,
        "inference_count": totals.rows,
        "execution_count": totals.executions,
        "inference_stats": {
            "success": phase(totals.success),
            "fail": phase(totals.fail),
            "queue": phase(totals.queue),
            "compute_input": phase(Phase::default()),
            "compute_infer": phase(totals.compute),
            "compute_output": phase(Phase::default()),
        },
        "batch_stats": [],
    })
}
