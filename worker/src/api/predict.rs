//! `/predict`: one image in, its label out.
//!
//! A client that asks for JSON by name gets the whole [`Prediction`]; any other gets the bare label
//! as a JSON string and a newline, as in the original experiment.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use message::{Model, accept};
use wire::{Candidate, ModelInput, Prediction, Timings};

use super::form::Image;
use super::images::{Prepared, Viewer};
use super::stages::{Stages, server_timing};
use super::{App, Arrival, Problem, form};
use crate::batcher::Output;
use crate::model::rank;
use crate::serving::{Selector, Served};

/// Most pixels of an input to show: 64 per side.
const MOST_SHOWN: usize = 4096;

const HINT: &str = "Please, submit an image with POST method";

/// `GET /predict`.
pub(super) async fn hint() -> Response {
    Json(HINT).into_response()
}

/// `POST /predict`.
pub(super) async fn predict(
    State(app): State<Arc<App>>,
    Extension(arrival): Extension<Arrival>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let upload = form::read(uri.query(), &headers, &body)?;
    let viewer = app.viewer(&upload.model)?;
    let image = app.file(upload.image, &arrival).await?;
    let mut prepared = app.images.prepare(image, &viewer, &arrival).await?;
    let served = Arc::clone(viewer.of(&prepared));
    let input = if upload.shows_input { shown(&prepared.features, &served) } else { None };
    let (output, stages) = app.judge(&viewer, &mut prepared, &arrival).await?;
    let timings = stages.timings(&arrival);
    let endpoint = headers.get(wire::header::ENDPOINT).and_then(|name| name.to_str().ok());
    let best = rank(&served.version.labels, output.values, upload.top_k);
    let answer = if accept::names(&headers, accept::JSON) {
        Json(Prediction { input, ..full(&served, best, endpoint, timings) }).into_response()
    } else {
        bare(&best[0].label)
    };
    Ok((server_timing(&timings), answer).into_response())
}

impl App {
    /// The version that a request names; an empty name means the default model.
    pub(super) fn served(&self, model: &Model<'_>) -> Result<Arc<Served>, Problem> {
        let snapshot = self.snapshot.load();
        let default = if model.name.is_empty() { snapshot.default_model() } else { None };
        let name = default.unwrap_or(&model.name);
        if name.is_empty() {
            let why = if snapshot.settled { "no model is ready" } else { "models are loading" };
            return Err(Problem::Unavailable(why.to_owned()));
        }
        let found = snapshot.find(name, Selector::of(&model.version));
        found.map(Arc::clone).map_err(|missing| Problem::missing(name, &missing, &snapshot))
    }

    /// The version for a picture: the one that the request names or, for `auto`, the model for
    /// pictures of its kind.
    pub(super) fn viewer(&self, model: &Model<'_>) -> Result<Viewer, Problem> {
        if !model.is_auto() {
            return Ok(Viewer::One(self.served(model)?));
        }
        let snapshot = self.snapshot.load();
        match (snapshot.photo_model(), snapshot.digit_model()) {
            (Some(photo), Some(digit)) => Ok(Viewer::ByKind { photo, digit }),
            (Some(only), None) | (None, Some(only)) => Ok(Viewer::One(only)),
            (None, None) => Ok(Viewer::One(self.served(&Model::DEFAULT)?)),
        }
    }

    /// The bytes of an image, fetched if only its address was given.
    pub(super) async fn file(&self, image: Image, arrival: &Arrival) -> Result<Bytes, Problem> {
        match image {
            Image::File(bytes) => Ok(bytes),
            Image::Address(address) => {
                let fetched = self.fetcher.fetch(&address, arrival).await?;
                arrival.memory.bound_by(fetched.len());
                Ok(fetched)
            }
        }
    }

    /// The path that every image takes through a model.
    pub(super) async fn look(
        &self,
        viewer: &Viewer,
        image: Bytes,
        arrival: &Arrival,
    ) -> Result<(Prepared, Output, Stages), Problem> {
        let mut prepared = self.images.prepare(image, viewer, arrival).await?;
        let (output, stages) = self.judge(viewer, &mut prepared, arrival).await?;
        Ok((prepared, output, stages))
    }

    /// Runs the model on a picture, whose features are taken out of `prepared`.
    async fn judge(
        &self,
        viewer: &Viewer,
        prepared: &mut Prepared,
        arrival: &Arrival,
    ) -> Result<(Output, Stages), Problem> {
        let features = std::mem::take(&mut prepared.features);
        let output = self.infer(viewer.of(prepared), features, 1, arrival.deadline).await?;
        let mut stages = Stages::default();
        stages.add_image(prepared);
        stages.add_output(&output);
        Ok((output, stages))
    }
}

/// The model's input, if it is a picture small enough to be drawn at its actual size.
fn shown(features: &[f32], served: &Served) -> Option<ModelInput> {
    let input = served.version.manifest.input.as_ref()?;
    let (area, channels) = (input.width * input.height, input.channels());
    if area > MOST_SHOWN || features.len() != area * channels {
        return None;
    }
    // Turn the planes back into pixels.
    let mut pixels = vec![0; features.len()];
    for (channel, plane) in features.chunks_exact(area).enumerate() {
        for (at, value) in plane.iter().enumerate() {
            let level = value.mul_add(input.std[channel], input.mean[channel]);
            pixels[at * channels + channel] = byte(level);
        }
    }
    let pixels = BASE64_STANDARD.encode(pixels);
    Some(ModelInput { width: input.width, height: input.height, channels, pixels })
}

/// A level from 0 to 1 as a byte.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to what a byte holds"
)]
fn byte(level: f32) -> u8 {
    (level * 255.0).round().clamp(0.0, 255.0) as u8
}

fn full(
    served: &Served,
    top_k: Vec<Candidate>,
    endpoint: Option<&str>,
    timings_ms: Timings,
) -> Prediction {
    let Candidate { label, index, confidence } = top_k[0].clone();
    Prediction {
        label,
        index,
        confidence,
        top_k,
        model: served.model.clone(),
        version: served.number.to_string(),
        endpoint: endpoint.map(str::to_owned),
        timings_ms,
        input: None,
    }
}

fn bare(label: &str) -> Response {
    let mut body = serde_json::to_string(label).expect("a string is always JSON");
    body.push('\n');
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
