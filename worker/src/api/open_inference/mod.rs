//! The Open Inference Protocol v2 under `/v2`, as Triton and `KServe` speak it: JSON and binary
//! tensors, the model repository and the statistics.
//!
//! Answers are JSON, with binary tensors behind it if the request asks for them. Every error is
//! `{"error": "…"}` with a non-2xx status, which makes the public clients raise their own
//! exceptions.

mod binary;
mod data;
mod datatype;
mod describe;
mod infer;
mod outputs;
mod repository;
mod request;
mod statistics;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
pub(super) use infer::read_rows;
use message::open_inference::{self, Request};
use message::{Model, Version};

use super::operator::no_pages;
use super::{App, Arrival, Problem};
use crate::serving::{Selector, Served};

/// Header with the length of the JSON before the binary tensors.
pub(super) const JSON_LENGTH: &str = "inference-header-content-length";

/// The routes of the protocol, except the health ones.
pub(super) fn routes() -> Router<Arc<App>> {
    let orders = Router::new()
        .route("/v2/repository/models/{model}/load", post(repository::load))
        .route("/v2/repository/models/{model}/unload", post(repository::unload))
        .route_layer(from_fn(no_pages));
    Router::new()
        .route("/v2", get(describe::server))
        .route("/v2/", get(describe::server))
        .route("/v2/models/stats", get(statistics::all))
        .route("/v2/models/{model}", get(metadata))
        .route("/v2/models/{model}/versions/{version}", get(metadata))
        .route("/v2/models/{model}/ready", get(ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(ready))
        .route("/v2/models/{model}/config", get(config))
        .route("/v2/models/{model}/versions/{version}/config", get(config))
        .route("/v2/models/{model}/stats", get(statistics::one))
        .route("/v2/models/{model}/versions/{version}/stats", get(statistics::one))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
        .route(wire::path::REPOSITORY_INDEX, post(repository::index))
        .merge(orders)
}

/// The model in a path, and its version if the path has one, parsed as in the balancer.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) model: Model<'static>,
}

impl<S: Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, Problem> {
        let path = head.uri.path();
        let model = match open_inference::read(path)? {
            Some(Request::Model(model, _)) => model,
            Some(Request::Control(name)) => Model { name, version: Version::Latest },
            Some(Request::Server | Request::Statistics | Request::Index) | None => {
                return Err(Problem::NotFound(format!("no such path: {path}")));
            }
        };
        Ok(Self { model: model.into_owned() })
    }
}

impl Named {
    /// Finds the version that serves the request.
    pub(super) fn find(&self, app: &App) -> Result<Arc<Served>, Problem> {
        let snapshot = app.snapshot.load();
        let name = &*self.model.name;
        let found = snapshot.find(name, Selector::of(&self.model.version));
        found.map(Arc::clone).map_err(|missing| Problem::missing(name, &missing, &snapshot))
    }

    /// The name alone.
    pub(super) fn into_name(self) -> String {
        self.model.name.into_owned()
    }
}

async fn metadata(State(app): State<Arc<App>>, named: Named) -> Result<Response, Problem> {
    let served = named.find(&app)?;
    let snapshot = app.snapshot.load();
    let versions = snapshot.models.get(&*named.model.name).map(|entry| entry.ready.keys().copied());
    let versions: Vec<u64> = versions.into_iter().flatten().collect();
    Ok(Json(describe::model(&served, &versions)).into_response())
}

async fn config(State(app): State<Arc<App>>, named: Named) -> Result<Response, Problem> {
    Ok(Json(describe::config(&*named.find(&app)?)).into_response())
}

async fn ready(State(app): State<Arc<App>>, named: Named) -> Result<Response, Problem> {
    let (ready, status) = match named.find(&app) {
        Ok(_) => (true, StatusCode::OK),
        Err(Problem::Unavailable(_)) => (false, StatusCode::SERVICE_UNAVAILABLE),
        Err(problem) => return Err(problem),
    };
    let body = serde_json::json!({"name": named.model.name, "ready": ready});
    Ok((status, Json(body)).into_response())
}

async fn infer(
    State(app): State<Arc<App>>,
    Extension(arrival): Extension<Arrival>,
    named: Named,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let served = named.find(&app)?;
    infer::infer(&app, &served, (&headers, body), &arrival).await
}
