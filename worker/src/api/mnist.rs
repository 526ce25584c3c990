//! `/mnist`: the digit route of the App Engine project.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use message::Model;

use super::images::Viewer;
use super::stages::server_timing;
use super::{App, Arrival, Problem, form};
use crate::model::rank;

/// The model that this route uses.
const MODEL: &str = "mnist";

/// `POST /mnist`: a raw image, or a form with the part `image`.
pub(super) async fn mnist(
    State(app): State<Arc<App>>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let upload = form::read(None, &headers, &body)?;
    let served = app.served(&Model::latest(MODEL))?;
    let image = app.file(upload.image, &arrival).await?;
    let viewer = Viewer::One(Arc::clone(&served));
    let (prepared, output, stages) = app.look(&viewer, image, &arrival).await?;
    let label = &rank(&served.version.labels, output.values, 1)[0].label;
    let (width, height) = (prepared.width, prepared.height);
    let message = format!("Image received. Size={width}x{height}. label={label}");
    let answer = Json(wire::MnistAnswer { message });
    Ok((server_timing(&stages.timings(&arrival)), answer).into_response())
}
