//! TF Serving's REST API under `/v1`.
//!
//! A client for TF Serving can be pointed here: routes, formats, error messages and even the
//! layout of the answers follow its documentation and sources. As there, the content type of a
//! request is ignored.

mod describe;
mod json;
mod named;
mod pretty;
mod quote;
mod request;
mod response;
mod status;
mod tensor;

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use json::Value;
use message::tf_serving::{self, Request, Verb};
use request::Form;
use status::{Error, answer};

use super::memory::Charge;
use super::rows::{Charged, Row};
use super::signature::{columns, inputs, probabilities, size_in_memory, values_to_write};
use super::stages::{Stages, server_timing};
use super::{App, Arrival, Problem};
use crate::batcher::Output;
use crate::repository;
use crate::serving::{Missing, Selector, Served};

/// Answers any request under `/v1`.
pub(super) async fn serve(
    app: &App,
    (method, path): (&Method, &str),
    body: Bytes,
    arrival: &Arrival,
) -> Response {
    let request = match tf_serving::read(method, path) {
        Ok(request) => request,
        Err(refusal) => return Error::invalid(refusal.to_string()).into_response(),
    };
    if request.verb.runs_the_model() {
        run(app, &request, body, arrival).await.map_or_else(
            IntoResponse::into_response,
            |(json, stages)| {
                (server_timing(&stages.timings(arrival)), answer(json)).into_response()
            },
        )
    } else {
        describe(app, &request).map_or_else(IntoResponse::into_response, answer)
    }
}

/// The version that a request names.
fn find(app: &App, request: &Request<'_>) -> Result<Arc<Served>, Error> {
    let snapshot = app.snapshot.load();
    let found = snapshot.find(&request.model.name, Selector::of(&request.model.version));
    found.map(Arc::clone).map_err(|missing| Error::missing(&missing, &request.model))
}

/// The JSON of an answer, and how long each stage took.
type Answered = (Bytes, Stages);

/// What a request asks for, which determines the form of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Prediction(Form),
    Classes,
    Values,
}

async fn run(
    app: &App,
    request: &Request<'_>,
    body: Bytes,
    arrival: &Arrival,
) -> Result<Answered, Error> {
    let found = find(app, request);
    let verb = request.verb;
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
    let values = values_to_write(&served.version, count);
    let write = move || write(&served.version, output, (wanted, count), charge);
    Ok((app.write(values, arrival.deadline, write).await?, stages))
}

/// The version that answers, and what is asked of it.
type Asked = (Arc<Served>, Wanted, Vec<Row>, Charge);

/// Reads a request; the charge for its JSON is released together with the JSON.
fn read(
    body: &[u8],
    found: Result<Arc<Served>, Error>,
    verb: Verb,
    (left, mut charge): (usize, Charge),
) -> Result<Asked, Error> {
    let mut of_document = charge.beside()?;
    let document = request::document(body, left, &mut of_document)?;
    let served = found?;
    let (wanted, rows) = rows_of(&document, &served.version, verb, &mut charge)?;
    Ok((served, wanted, rows, charge))
}

/// The rows of a body.
pub(super) fn read_rows(
    version: &repository::Version,
    (verb, body): (Verb, &[u8]),
    (left, mut charge): (usize, Charge),
) -> Result<Charged, Problem> {
    let mut of_document = charge.beside()?;
    let rows = request::document(body, left, &mut of_document)
        .and_then(|document| rows_of(&document, version, verb, &mut charge));
    let (_, rows) = rows.map_err(|error| Problem::Malformed(error.message().to_owned()))?;
    Ok((rows, charge))
}

/// The form of an answer, and the rows that it is for.
type WantedRows = (Wanted, Vec<Row>);

/// What is asked of a version in a document.
fn rows_of(
    document: &Value,
    version: &repository::Version,
    verb: Verb,
    charge: &mut Charge,
) -> Result<WantedRows, Error> {
    request::check_signature(document, verb)?;
    let slots = inputs(version);
    let is_regression = version.is_regression();
    match verb {
        Verb::Predict => {
            let (form, rows) = request::predict(document, &slots, charge)?;
            Ok((Wanted::Prediction(form), rows))
        }
        Verb::Classify if !is_regression => {
            Ok((Wanted::Classes, request::examples(document, &slots, charge)?))
        }
        Verb::Regress if is_regression => {
            Ok((Wanted::Values, request::examples(document, &slots, charge)?))
        }
        Verb::Classify => Err(wrong_method("classification", "classify")),
        Verb::Regress | Verb::Status | Verb::Metadata => Err(wrong_method("regression", "regress")),
    }
}

/// Writes an answer, after charging for its length.
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
    charge.answer(json.into_bytes())
}

fn wrong_method(kind: &str, verb: &str) -> Error {
    Error::invalid(format!(
        "Expected {kind} signature method_name to be tensorflow/serving/{verb}. Was: \
         tensorflow/serving/predict"
    ))
}

fn describe(app: &App, request: &Request<'_>) -> Result<String, Error> {
    if request.verb == Verb::Metadata {
        return Ok(describe::metadata(&*find(app, request)?));
    }
    let snapshot = app.snapshot.load();
    let missing = |missing| Error::missing(&missing, &request.model);
    let entry = snapshot.models.get(&*request.model.name).ok_or_else(|| missing(Missing::Model))?;
    let only = match Selector::of(&request.model.version) {
        Selector::Latest => None,
        Selector::Number(number) => Some(number),
        Selector::Label(label) => {
            Some(*entry.labels.get(label).ok_or_else(|| missing(Missing::Label))?)
        }
    };
    describe::states(entry, only).ok_or_else(|| missing(Missing::Version))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::metrics::Metrics;
    use crate::model::Model;
    use crate::repository::{Manifest, Version};

    /// A model that outputs this many zeros per row.
    struct Zeros(usize);

    impl Model for Zeros {
        fn forward(&self, batch: &Tensor) -> candle_core::Result<Tensor> {
            Tensor::zeros((batch.dim(0)?, self.0), DType::F32, &Device::Cpu)
        }
    }

    /// A classifier of sizes.
    fn sizes(classes: usize) -> Arc<Served> {
        let manifest = "architecture = 'linear'
            [table]
            label = 'kind'
            task = 'classification'
            columns = [{ name = 'size', type = 'number', mean = 0.0, std = 1.0 }]";
        let manifest = Manifest::parse(manifest).unwrap();
        let labels = (0..classes).map(|class| class.to_string()).collect();
        let version = Version { folder: PathBuf::new(), manifest, labels };
        let load = move || Ok(Box::new(Zeros(classes)) as Box<dyn Model>);
        Arc::new(Served::start(("sizes", 1), version, load, &Metrics::new()).unwrap().0)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_few_rows_waits_for_its_turn_if_they_are_wide() {
        for (classes, waits) in [(2, false), (20_000, true)] {
            let app = App::with_defaults(Some(sizes(classes)));
            let _turn = app.heavy.try_acquire().unwrap();
            let arrival = app.arrival();
            for (verb, key) in [("predict", "instances"), ("classify", "examples")] {
                let path = format!("/v1/models/sizes:{verb}");
                let request = tf_serving::read(&Method::POST, &path).unwrap();
                let rows = r#"[{"size":1}, {"size":1}, {"size":1}]"#;
                let body = format!(r#"{{"{key}": {rows}}}"#);
                let outcome = run(&app, &request, body.into(), &arrival).await;
                assert_eq!(outcome.is_err(), waits, "{classes} classes, {verb}");
            }
        }
    }
}
