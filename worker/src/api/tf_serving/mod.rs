//! TF Serving's REST API under `/v1`.
//!
//! Whoever has a client for TF Serving points it here: routes, forms, texts of errors and even the
//! layout of the answers are those of its documentation and sources. The content type of a request
//! is ignored, as there.

mod describe;
mod json;
mod pretty;
mod quote;
mod request;
mod response;
mod route;
mod status;
mod tensor;

use super::memory::Charge;
use super::rows::Row;
use super::signature::{columns, inputs, probabilities, size_in_memory};
use super::stages::{Stages, server_timing};
use super::{App, Arrival, Problem};
use crate::batcher::Output;
use crate::repository;
use crate::serving::{Missing, Selector, Served};
use axum::body::Bytes;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use request::Form;
use route::{Route, Verb, Version};
use status::{Error, answer};
use std::sync::Arc;

/// Values that are written for a row, roughly: when an answer is large does not depend on it.
const VALUES_OF_A_ROW: usize = 8;

/// Whether a path is ours, letter case ignored.
pub(super) fn owns(path: &str) -> bool {
    let start = path.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("/v1"));
    start && matches!(path.as_bytes().get(3), None | Some(b'/'))
}

/// Answers any request under `/v1`.
pub(super) async fn serve(
    app: &App,
    (method, path): (&Method, &str),
    body: Bytes,
    arrival: &Arrival,
) -> Response {
    let malformed = || Error::invalid(format!("Malformed request: {method} {path}"));
    let Some(route) = route::parse(path) else { return malformed().into_response() };
    let asks = matches!(route.verb, Verb::Predict | Verb::Classify | Verb::Regress);
    match *method {
        Method::POST if asks => run(app, &route, body, arrival).await.map_or_else(
            IntoResponse::into_response,
            |(json, stages)| {
                (server_timing(&stages.timings(arrival)), answer(json)).into_response()
            },
        ),
        Method::GET if !asks => {
            describe(app, &route).map_or_else(IntoResponse::into_response, answer)
        }
        _ => malformed().into_response(),
    }
}

/// The model and version of a path, as the snapshot and the error texts name them.
struct Target<'a> {
    model: &'a str,
    selector: Selector<'a>,
    wanted: String,
}

impl<'a> Target<'a> {
    fn of(route: &Route<'a>) -> Result<Self, Error> {
        let model = route.model.ok_or_else(|| Error::invalid("Missing model name in request."))?;
        let (selector, wanted) = match route.version {
            Version::Latest => (Selector::Latest, format!("Latest({model})")),
            Version::Label(label) => (Selector::Label(label), label.to_owned()),
            Version::Number(digits) => match digits.parse::<i64>().ok().map(u64::try_from) {
                Some(Ok(number)) => {
                    (Selector::Number(number), format!("Specific({model}, {number})"))
                }
                Some(Err(_)) | None => {
                    return Err(Error::invalid(format!(
                        "Failed to convert version: {digits} to numeric."
                    )));
                }
            },
        };
        Ok(Self { model, selector, wanted })
    }

    fn find(&self, app: &App) -> Result<Arc<Served>, Error> {
        let snapshot = app.snapshot.load();
        let found = snapshot.find(self.model, self.selector);
        found.map(Arc::clone).map_err(|missing| self.missing(missing))
    }

    /// The answer when there is none. A model that is not there has no labels either.
    fn missing(&self, missing: Missing) -> Error {
        let missing = match (missing, self.selector) {
            (Missing::Model, Selector::Label(_)) => Missing::Label,
            (other, _) => other,
        };
        Error::missing(&missing, &self.wanted)
    }
}

/// The JSON of an answer, and how long it took to find.
type Answered = (Bytes, Stages);

/// What a request asks for, which is the form of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Prediction(Form),
    Classes,
    Values,
}

async fn run(
    app: &App,
    route: &Route<'_>,
    body: Bytes,
    arrival: &Arrival,
) -> Result<Answered, Error> {
    let target = Target::of(route)?;
    let found = target.find(app);
    let verb = route.verb;
    let (memory, size) = (Arc::clone(&arrival.memory), body.len());
    let read = move || {
        let charge = memory.charge(0)?;
        // Errors of this protocol pass through unchanged.
        Ok(read(&body, found, verb, (memory.left(), charge)))
    };
    let (served, wanted, rows, charge) = app.parse(size, arrival.deadline, read).await??;
    let count = rows.len();
    let (output, stages) = app.ask(&served, (rows, charge), arrival).await?;
    let charge = arrival.memory.charge(0)?;
    let write = move || write(&served.version, output, (wanted, count), charge);
    let values = count.saturating_mul(VALUES_OF_A_ROW);
    Ok((app.write(values, arrival.deadline, write).await?, stages))
}

/// The version that answers, and what is asked of it.
type Asked = (Arc<Served>, Wanted, Vec<Row>, Charge);

/// Reads a request; the memory of its JSON is given back with it.
fn read(
    body: &[u8],
    found: Result<Arc<Served>, Error>,
    verb: Verb,
    (left, mut charge): (usize, Charge),
) -> Result<Asked, Error> {
    let mut of_document = charge.beside()?;
    let document = request::document(body, left, &mut of_document)?;
    let served = found?;
    request::check_signature(&document, verb)?;
    let slots = inputs(&served.version);
    let is_regression = served.version.is_regression();
    let (wanted, rows) = match verb {
        Verb::Predict => {
            let (form, rows) = request::predict(&document, &slots, &mut charge)?;
            (Wanted::Prediction(form), rows)
        }
        Verb::Classify if !is_regression => {
            (Wanted::Classes, request::examples(&document, &slots, &mut charge)?)
        }
        Verb::Regress if is_regression => {
            (Wanted::Values, request::examples(&document, &slots, &mut charge)?)
        }
        Verb::Classify => return Err(wrong_method("classification", "classify")),
        Verb::Regress | Verb::Status | Verb::Metadata => {
            return Err(wrong_method("regression", "regress"));
        }
    };
    Ok((served, wanted, rows, charge))
}

/// Writes an answer, whose length is counted first.
fn write(
    version: &repository::Version,
    output: Output,
    (wanted, rows): (Wanted, usize),
    mut charge: Charge,
) -> Result<Bytes, Problem> {
    charge.grow(size_in_memory(version, rows))?;
    let json = match wanted {
        Wanted::Prediction(form) => {
            let columns = columns(version, output);
            let size = response::length(&columns, rows);
            charge.grow(size)?;
            response::predict(&columns, rows, form, size)
        }
        Wanted::Classes => {
            let size = response::length_of_classes(&version.labels, rows);
            charge.grow(size)?;
            response::classify(&version.labels, &probabilities(output), size)
        }
        Wanted::Values => {
            let size = response::length_of_values(rows);
            charge.grow(size)?;
            response::regress(&output.values, size)
        }
    };
    Ok(charge.hold(json.into_bytes()))
}

fn wrong_method(kind: &str, verb: &str) -> Error {
    Error::invalid(format!(
        "Expected {kind} signature method_name to be tensorflow/serving/{verb}. Was: \
         tensorflow/serving/predict"
    ))
}

fn describe(app: &App, route: &Route<'_>) -> Result<String, Error> {
    let target = Target::of(route)?;
    if route.verb == Verb::Metadata {
        return Ok(describe::metadata(&*target.find(app)?));
    }
    let snapshot = app.snapshot.load();
    let missing = |missing| target.missing(missing);
    let entry = snapshot.models.get(target.model).ok_or_else(|| missing(Missing::Model))?;
    let only = match target.selector {
        Selector::Latest => None,
        Selector::Number(number) => Some(number),
        Selector::Label(label) => {
            Some(*entry.labels.get(label).ok_or_else(|| missing(Missing::Label))?)
        }
    };
    describe::states(entry, only).ok_or_else(|| missing(Missing::Version))
}
