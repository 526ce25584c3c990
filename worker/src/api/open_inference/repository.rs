//! The model repository extension: the index, `load` and `unload`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use wire::ModelIndexEntry;

use super::Named;
use super::request::Parameters;
use crate::api::problem::quoted;
use crate::api::{App, Arrival, Problem};
use crate::serving::loader::{Order, OrderError, Reply};
use crate::serving::{Snapshot, State as VersionState};

/// What a `load` or `unload` may specify besides the model.
#[derive(Debug, Default, Deserialize)]
struct Change {
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Debug, Default, Deserialize)]
struct Filter {
    #[serde(default)]
    ready: bool,
}

/// `POST /v2/repository/index`; `{"ready": true}` limits it to what is ready.
pub(super) async fn index(
    State(app): State<Arc<App>>,
    Extension(arrival): Extension<Arrival>,
    body: Bytes,
) -> Result<Json<Vec<ModelIndexEntry>>, Problem> {
    let (size, deadline) = (body.len(), arrival.deadline);
    let filter: Filter = app.parse(size, deadline, move || read_body(&body)).await?;
    let mut entries = entries(&app.snapshot.load());
    entries.retain(|entry| !filter.ready || entry.state == "READY");
    Ok(Json(entries))
}

/// `POST /v2/repository/models/{model}/load`.
pub(super) async fn load(
    State(app): State<Arc<App>>,
    Extension(arrival): Extension<Arrival>,
    named: Named,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    if read_change(&app, body, arrival.deadline).await?.parameters.model {
        return Err(Problem::Malformed(
            "load takes no config and no files: models come from the model repository".to_owned(),
        ));
    }
    order(&app, named.into_name(), Order::Load, arrival.deadline).await
}

/// `POST /v2/repository/models/{model}/unload`: responds before open requests have finished.
pub(super) async fn unload(
    State(app): State<Arc<App>>,
    Extension(arrival): Extension<Arrival>,
    named: Named,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    read_change(&app, body, arrival.deadline).await?;
    order(&app, named.into_name(), Order::Unload, arrival.deadline).await
}

/// The body of a `load` or `unload`; anything but a JSON object is ignored.
async fn read_change(app: &App, body: Bytes, deadline: Instant) -> Result<Change, Problem> {
    let is_object = |body: &[u8]| body.trim_ascii_start().starts_with(b"{");
    let size = body.len();
    let read = move || if is_object(&body) { read_body(&body) } else { Ok(Change::default()) };
    app.parse(size, deadline, read).await
}

/// The body of a request, which may be empty.
fn read_body<T: Default + DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    serde_json::from_slice(body)
        .map_err(|error| Problem::Malformed(format!("the request does not parse: {error}")))
}

async fn order(
    app: &App,
    model: String,
    order: fn(String, Reply) -> Order,
    deadline: Instant,
) -> Result<Json<Value>, Problem> {
    let leaving = || Problem::Unavailable("the worker is leaving".to_owned());
    let Some(orders) = &app.orders else {
        return Err(Problem::Forbidden(
            "this worker loads and unloads nothing on request: --no-model-control".to_owned(),
        ));
    };
    let (reply, outcome) = oneshot::channel();
    orders.send(order(model.clone(), reply)).map_err(|_| leaving())?;
    let Ok(outcome) = timeout_at(deadline, outcome).await else { return Err(Problem::Deadline) };
    match outcome {
        Ok(Ok(())) => Ok(Json(json!({}))),
        Ok(Err(OrderError::NoModel)) => {
            Err(Problem::NotFound(format!("no model {} in the repository", quoted(&model))))
        }
        Ok(Err(OrderError::Broken(reason))) => {
            Err(Problem::Malformed(format!("model {model:?} does not load: {reason}")))
        }
        Ok(Err(OrderError::Unreadable)) => {
            Err(Problem::Unavailable("the model repository cannot be read".to_owned()))
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
            takes_images: entry.takes_images(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_bodies_wait_for_their_turn_to_be_read() {
        let app = Arc::new(App::with_defaults(None));
        let _turn = app.heavy.try_acquire().unwrap();
        for (size, waits) in [(10, false), (1 << 20, true)] {
            let body = Bytes::from(format!("{{\"ready\": true{}}}", " ".repeat(size)));
            let (state, arrival) = (State(Arc::clone(&app)), Extension(app.arrival()));
            let index = index(state, arrival, body.clone()).await;
            assert_eq!(index.is_err(), waits);
            let change = read_change(&app, body, app.arrival().deadline).await;
            assert_eq!(change.is_err(), waits);
        }
    }
}
