//! `…/infer`: tensors in, tensors out.
//!
//! Inputs are checked against the model's signature and cut into rows, which go the same way as
//! those of every other protocol. Outputs are JSON, or binary where the client asks for it.

use super::JSON_LENGTH;
use super::binary::{Parts, split};
use super::data::Data;
use super::datatype::{Datatype, Elements};
use crate::api::rows::Row;
use crate::api::signature::{Column, Slot, Values, columns, inputs, outputs};
use crate::api::stages::server_timing;
use crate::api::{App, Arrival, Problem};
use crate::repository::Cell;
use crate::serving::Served;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

#[derive(Debug, Deserialize)]
struct Request {
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Option<Vec<Wanted>>,
}

#[derive(Debug, Deserialize)]
struct Input {
    name: String,
    shape: Vec<u64>,
    datatype: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    model_name: String,
    model_version: String,
    outputs: Vec<Value>,
}

/// One input, read and checked.
struct Tensor {
    rows: usize,
    elements: Elements,
}

/// An output that the client wants, and whether in binary.
struct Choice {
    name: String,
    binary: bool,
}

/// Answers one request to one version.
pub(super) async fn infer(
    app: &App,
    served: &Arc<Served>,
    (headers, body): (&HeaderMap, Bytes),
    arrival: Arrival,
) -> Result<Response, Problem> {
    let turn = app.turn_to_parse(body.len(), arrival.deadline).await?;
    let mut parts = split(headers, body)?;
    let mut request: Request = serde_json::from_slice(&parts.json)
        .map_err(|error| Problem::Malformed(format!("the request does not parse: {error}")))?;
    let choices = choose(&request, served)?;
    let given = std::mem::take(&mut request.inputs);
    let rows = rows(given, &inputs(&served.version), &mut parts)?;
    parts.finish()?;
    drop(parts);
    drop(turn);
    let (output, stages) = app.ask(served, rows, arrival).await?;
    let answer = respond(request.id, served, &columns(&served.version, output), &choices);
    Ok((server_timing(&stages.timings(arrival)), answer).into_response())
}

fn choose(request: &Request, served: &Served) -> Result<Vec<Choice>, Problem> {
    let flag =
        |parameters: &Map<String, Value>, name: &str| parameters.get(name).and_then(Value::as_bool);
    let all_binary = flag(&request.parameters, "binary_data_output").unwrap_or(false);
    let known = outputs(&served.version);
    let Some(wanted) = request.outputs.as_ref().filter(|wanted| !wanted.is_empty()) else {
        let choice = |slot: Slot| Choice { name: slot.name, binary: all_binary };
        return Ok(known.into_iter().map(choice).collect());
    };
    let choice = |wanted: &Wanted| {
        if !known.iter().any(|slot| slot.name == wanted.name) {
            let (name, model) = (&wanted.name, &served.model);
            return Err(Problem::Malformed(format!(
                "unexpected inference output {name:?} for model {model:?}"
            )));
        }
        if wanted.parameters.contains_key("classification") {
            return Err(Problem::Malformed(
                "the classification extension is not supported".to_owned(),
            ));
        }
        let binary = flag(&wanted.parameters, "binary_data").unwrap_or(all_binary);
        Ok(Choice { name: wanted.name.clone(), binary })
    };
    wanted.iter().map(choice).collect()
}

fn rows(given: Vec<Input>, slots: &[Slot], parts: &mut Parts) -> Result<Vec<Row>, Problem> {
    let mut tensors: Vec<Option<Tensor>> = slots.iter().map(|_| None).collect();
    for input in given {
        let position = slots.iter().position(|slot| slot.name == input.name);
        let Some(position) = position.filter(|position| tensors[*position].is_none()) else {
            return Err(Problem::Malformed(format!("unexpected inference input {:?}", input.name)));
        };
        tensors[position] = Some(read(input, &slots[position], parts)?);
    }
    let mut complete = Vec::with_capacity(slots.len());
    for (tensor, slot) in tensors.into_iter().zip(slots) {
        let missing = || Problem::Malformed(format!("input {:?} is missing", slot.name));
        complete.push(tensor.ok_or_else(missing)?);
    }
    let count = complete.first().map_or(0, |tensor| tensor.rows);
    if count == 0 || complete.iter().any(|tensor| tensor.rows != count) {
        return Err(Problem::Malformed(
            "all inputs must have the same batch size, at least 1".to_owned(),
        ));
    }
    Ok(cut(complete, slots, count))
}

/// Reads one input's elements, from its JSON or from the bytes behind it.
fn read(input: Input, slot: &Slot, parts: &mut Parts) -> Result<Tensor, Problem> {
    let wrong = |what: &str| Problem::Malformed(format!("input {:?}: {what}", input.name));
    let datatype = Datatype::parse(&input.datatype)?;
    let is_text = datatype == Datatype::Bytes;
    let takes_files = !slot.shape.is_empty();
    let expected = slot.kind.datatype();
    if datatype != expected && !(is_text && takes_files) {
        let (got, expected) = (&input.datatype, expected.name());
        return Err(wrong(&format!("datatype is {got}, but the model expects {expected}")));
    }
    let sizes: Option<Vec<usize>> =
        input.shape.iter().map(|size| usize::try_from(*size).ok()).collect();
    let count = sizes.as_ref().and_then(|s| s.iter().try_fold(1usize, |n, s| n.checked_mul(*s)));
    let (Some(sizes), Some(count)) = (sizes, count) else { return Err(wrong("shape too large")) };
    let elements = match (input.parameters.get("binary_data_size"), input.data) {
        (Some(size), _) => {
            let size = size.as_u64().ok_or_else(|| wrong("binary_data_size must be a number"))?;
            let bytes = parts.take(&input.name, size)?;
            datatype.read(&bytes).ok_or_else(|| wrong("binary data is cut off"))?
        }
        (None, Some(data)) => {
            data.elements(is_text).ok_or_else(|| wrong("data does not fit the datatype"))?
        }
        (None, None) => return Err(wrong("neither data nor binary_data_size")),
    };
    if elements.len() != count {
        let got = elements.len();
        return Err(wrong(&format!("{got} elements for a shape of {count}")));
    }
    let row_len = if is_text { 1 } else { slot.len() };
    let rows = sizes.first().copied().unwrap_or(0);
    if rows.checked_mul(row_len) != Some(count) {
        return Err(wrong(&format!("shape {sizes:?} does not fit rows of {:?}", slot.shape)));
    }
    Ok(Tensor { rows, elements })
}

#[expect(clippy::cast_possible_truncation, reason = "networks compute in f32")]
fn cut(tensors: Vec<Tensor>, slots: &[Slot], count: usize) -> Vec<Row> {
    let is_image = slots.len() == 1 && !slots[0].shape.is_empty();
    if is_image {
        let images = tensors.into_iter().flat_map(|tensor| match tensor.elements {
            Elements::Texts(files) => {
                files.into_iter().map(|file| Row::Encoded(file.into())).collect::<Vec<_>>()
            }
            Elements::Numbers(numbers) => numbers
                .chunks(slots[0].len())
                .map(|pixels| Row::Pixels(pixels.iter().map(|value| *value as f32).collect()))
                .collect(),
        });
        return images.collect();
    }
    let cell = |tensor: &Tensor, row: usize| match &tensor.elements {
        Elements::Numbers(numbers) => Cell::Number(numbers[row]),
        Elements::Texts(texts) => Cell::Text(String::from_utf8_lossy(&texts[row]).into_owned()),
    };
    let row = |row| Row::Cells(tensors.iter().map(|tensor| cell(tensor, row)).collect());
    (0..count).map(row).collect()
}

fn respond(
    id: Option<String>,
    served: &Served,
    columns: &[Column],
    choices: &[Choice],
) -> Response {
    let mut binary = Vec::new();
    let described = choices.iter().filter_map(|choice| {
        let column = columns.iter().find(|column| column.slot.name == choice.name)?;
        Some(describe(column, choice.binary.then_some(&mut binary)))
    });
    let answer = Answer {
        id,
        model_name: served.model.clone(),
        model_version: served.number.to_string(),
        outputs: described.collect(),
    };
    let Ok(mut body) = serde_json::to_vec(&answer) else {
        return Problem::Internal("the answer is not JSON".to_owned()).into_response();
    };
    if !choices.iter().any(|choice| choice.binary) {
        let kind = HeaderValue::from_static("application/json");
        return ([(header::CONTENT_TYPE, kind)], body).into_response();
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (HeaderName::from_static(JSON_LENGTH), HeaderValue::from(body.len())),
    ];
    body.extend_from_slice(&binary);
    (headers, body).into_response()
}

/// One output; its values go into the JSON, or behind it.
fn describe(column: &Column, binary: Option<&mut Vec<u8>>) -> Value {
    let datatype = column.slot.kind.datatype().name();
    let elements = match &column.values {
        Values::Floats(values) => values.len(),
        Values::Texts(values) => values.len(),
    };
    let mut shape = vec![elements / column.slot.len().max(1)];
    shape.extend(&column.slot.shape);
    let mut output = json!({"name": column.slot.name, "datatype": datatype, "shape": shape});
    match binary {
        Some(bytes) => {
            let before = bytes.len();
            write(&column.values, bytes);
            output["parameters"] = json!({"binary_data_size": bytes.len() - before});
        }
        None => {
            output["data"] = match &column.values {
                Values::Floats(values) => json!(values),
                Values::Texts(values) => json!(values),
            };
        }
    }
    output
}

fn write(values: &Values, bytes: &mut Vec<u8>) {
    match values {
        Values::Floats(values) => {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Values::Texts(values) => {
            for text in values {
                let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
                bytes.extend_from_slice(&length.to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
        }
    }
}
