//! `…/infer`: tensors in, tensors out.
//!
//! Inputs are checked against the model's signature and cut into rows, which take the same path as
//! those of every other protocol. Outputs are JSON, or binary if the client asks for it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::binary::{Parts, split};
use super::data;
use super::datatype::{Datatype, Elements};
use super::outputs::{Choice, Form, respond};
use super::request::{Input, Parameters, Request, Wanted};
use crate::api::memory::Charge;
use crate::api::problem::quoted;
use crate::api::rows::{self, Charged, Row};
use crate::api::signature::{
    Kind, TensorSpec, columns, inputs, outputs, size_in_memory, values_to_write,
};
use crate::api::stages::server_timing;
use crate::api::{App, Arrival, Problem};
use crate::repository::{Cell, Version};
use crate::serving::Served;

/// Number of copies kept of a text: one as received, one as a cell of a row.
const COPIES: usize = 2;

/// One input, read and checked.
struct Tensor {
    rows: usize,
    elements: Elements,
}

/// A request, read and checked.
struct Asked {
    id: Option<String>,
    choices: Vec<Choice>,
    rows: Vec<Row>,
    /// The memory of the rows.
    charge: Charge,
}

/// Answers one request to one version.
pub(super) async fn infer(
    app: &App,
    served: &Arc<Served>,
    (headers, body): (&HeaderMap, Bytes),
    arrival: &Arrival,
) -> Result<Response, Problem> {
    let parts = split(headers, body)?;
    let own = (Arc::clone(served), arrival.memory.charge(0)?);
    let size = parts.json.len() + parts.rest.len();
    let Asked { id, choices, rows, charge } = app
        .parse(size, arrival.deadline, move || ask(&own.0.model, &own.0.version, parts, own.1))
        .await?;
    let (output, stages) = app.ask(served, (rows, charge), arrival).await?;
    let own = (Arc::clone(served), arrival.memory.charge(0)?);
    let rows = output.values.len() / output.width.max(1);
    let answer = app
        .write(values_to_write(&served.version, rows), arrival.deadline, move || {
            let (served, mut charge) = own;
            charge.grow(size_in_memory(&served.version, rows))?;
            respond(id, &served, (&columns(&served.version, output), &choices), charge)
        })
        .await?;
    Ok((server_timing(&stages.timings(arrival)), answer).into_response())
}

/// The rows of a body.
pub(in crate::api) fn read_rows(
    version: &Version,
    (headers, body): (&HeaderMap, Bytes),
    charge: Charge,
) -> Result<Charged, Problem> {
    let asked = ask("", version, split(headers, body)?, charge)?;
    Ok((asked.rows, asked.charge))
}

/// Reads a request with or without JSON.
fn ask(
    model: &str,
    version: &Version,
    mut parts: Parts,
    mut charge: Charge,
) -> Result<Asked, Problem> {
    let specs = inputs(version);
    if parts.is_raw {
        let choice = |spec: TensorSpec| Choice { name: spec.name, form: Form::Binary };
        let choices = outputs(version).into_iter().map(choice).collect();
        let tensor = raw(&specs, &mut parts, &mut charge)?;
        let rows = tensor.rows;
        let rows = cut(vec![tensor], &specs, rows, &mut charge)?;
        return Ok(Asked { id: None, choices, rows, charge });
    }
    // What is parsed of it, names and descriptions of tensors, is about as long as its text.
    charge.grow(parts.json.len())?;
    let json = parts.json.clone();
    if json.trim_ascii_start().starts_with(b"[") {
        // serde would read a list as fields without names, or refuse it in terms of this code.
        return Err(Problem::Malformed("the request is a list, expected an object".to_owned()));
    }
    let request: Request<'_> = serde_json::from_slice(&json)
        .map_err(|error| Problem::Malformed(format!("the request does not parse: {error}")))?;
    let choices = choose(&request, model, version)?;
    let rows = rows(&request.inputs.0, &specs, &mut parts, &mut charge)?;
    parts.finish()?;
    Ok(Asked { id: request.id, choices, rows, charge })
}

fn choose(request: &Request<'_>, model: &str, version: &Version) -> Result<Vec<Choice>, Problem> {
    let all_binary = request.parameters.binary_data_output.unwrap_or(false);
    let known = outputs(version);
    let wanted = request.outputs.as_ref().map_or(&[][..], |wanted| &wanted.0);
    if wanted.is_empty() {
        let form = if all_binary { Form::Binary } else { Form::Json };
        return Ok(known.into_iter().map(|spec| Choice { name: spec.name, form }).collect());
    }
    let mut choices: Vec<Choice> = Vec::with_capacity(known.len());
    for Wanted { name, parameters } in wanted {
        let Some(spec) = known.iter().find(|spec| spec.name == *name) else {
            return Err(Problem::Malformed(format!(
                "unexpected inference output {} for model {model:?}",
                quoted(name)
            )));
        };
        if choices.iter().any(|choice| choice.name == *name) {
            return Err(Problem::Malformed(format!("output {name:?} is asked for twice")));
        }
        choices.push(Choice { name: name.clone(), form: form(spec, parameters, all_binary)? });
    }
    Ok(choices)
}

fn form(spec: &TensorSpec, parameters: &Parameters, all_binary: bool) -> Result<Form, Problem> {
    check_memory(parameters)?;
    let binary = parameters.binary_data.unwrap_or(all_binary);
    match parameters.classification {
        None if binary => Ok(Form::Binary),
        None => Ok(Form::Json),
        Some(_) if spec.kind == Kind::Text || spec.shape.is_empty() => Err(Problem::Malformed(
            format!("output {:?} has no classes to ask the best of", spec.name),
        )),
        Some(0) => Err(Problem::Malformed("classification must be at least 1".to_owned())),
        Some(count) => {
            let count = usize::try_from(count).unwrap_or(usize::MAX).min(spec.len());
            Ok(Form::Classes { count, binary })
        }
    }
}

fn check_memory(parameters: &Parameters) -> Result<(), Problem> {
    if parameters.shared_memory {
        return Err(Problem::Malformed("shared memory is not supported".to_owned()));
    }
    Ok(())
}

fn rows(
    given: &[Input<'_>],
    specs: &[TensorSpec],
    parts: &mut Parts,
    charge: &mut Charge,
) -> Result<Vec<Row>, Problem> {
    let named = specs.iter().enumerate();
    let positions: HashMap<&str, usize> =
        named.map(|(position, spec)| (spec.name.as_str(), position)).collect();
    let mut tensors: Vec<Option<Tensor>> = specs.iter().map(|_| None).collect();
    for input in given {
        let position = positions.get(input.name.as_str()).copied();
        let Some(position) = position.filter(|position| tensors[*position].is_none()) else {
            return Err(Problem::Malformed(format!(
                "unexpected inference input {}",
                quoted(&input.name)
            )));
        };
        tensors[position] = Some(read(input, &specs[position], parts, charge)?);
    }
    let mut complete = Vec::with_capacity(specs.len());
    for (tensor, spec) in tensors.into_iter().zip(specs) {
        let missing = || Problem::Malformed(format!("input {:?} is missing", spec.name));
        complete.push(tensor.ok_or_else(missing)?);
    }
    let count = complete.first().map_or(0, |tensor| tensor.rows);
    if count == 0 || complete.iter().any(|tensor| tensor.rows != count) {
        return Err(Problem::Malformed(
            "all inputs must have the same batch size, at least 1".to_owned(),
        ));
    }
    cut(complete, specs, count, charge)
}

/// Reads one input's elements, from its JSON or from the bytes after it.
fn read(
    input: &Input<'_>,
    spec: &TensorSpec,
    parts: &mut Parts,
    charge: &mut Charge,
) -> Result<Tensor, Problem> {
    let wrong = |what: &str| Problem::Malformed(format!("input {:?}: {what}", spec.name));
    check_memory(&input.parameters)?;
    let datatype = Datatype::parse(&input.datatype)?;
    let is_text = datatype == Datatype::Bytes;
    let takes_files = !spec.shape.is_empty();
    let expected = spec.kind.datatype();
    if datatype != expected && !(is_text && takes_files) {
        let (got, expected) = (&input.datatype, expected.name());
        return Err(wrong(&format!("datatype is {got}, but the model expects {expected}")));
    }
    let row_shape = if is_text { &[][..] } else { &spec.shape };
    let (rows, count) = batch(&input.shape.0, row_shape).ok_or_else(|| {
        let expected: Vec<String> = row_shape.iter().map(|size| format!(",{size}")).collect();
        wrong(&format!(
            "shape {:?}, but the model expects [-1{}]",
            input.shape.0,
            expected.concat()
        ))
    })?;
    rows::check_count(rows)?;
    // An element takes at least a digit and a comma, or its bytes.
    let given = input.data.map_or(parts.rest.len(), |json| json.get().len() / 2 + 1);
    if count > given {
        return Err(wrong(&format!("fewer elements than the {count} of its shape")));
    }
    charge.grow(count.saturating_mul(datatype.size_in_memory()))?;
    let elements = match (input.parameters.binary_data_size, input.data) {
        (Some(size), _) => {
            let bytes = parts.take(&input.name, size)?;
            charge.grow(if is_text { COPIES * bytes.len() } else { 0 })?;
            datatype.read(&bytes, count).ok_or_else(|| {
                wrong(&format!(
                    "{size} bytes of binary data are not the {count} elements of its shape"
                ))
            })?
        }
        (None, Some(json)) => {
            charge.grow(if is_text { COPIES * json.get().len() } else { 0 })?;
            data::read(json.get(), count, is_text).map_err(|error| wrong(&error.to_string()))?
        }
        (None, None) => return Err(wrong("neither data nor binary_data_size")),
    };
    if elements.len() != count {
        let got = elements.len();
        return Err(wrong(&format!("{got} elements for a shape of {count}")));
    }
    Ok(Tensor { rows, elements })
}

/// Rows and elements of a batch of rows of `row_shape`; dimensions of size 1 are ignored.
fn batch(shape: &[u64], row_shape: &[usize]) -> Option<(usize, usize)> {
    let (rows, rest) = shape.split_first()?;
    let given = rest.iter().copied().filter(|size| *size != 1);
    let wanted = row_shape.iter().filter(|size| **size != 1).map(|size| *size as u64);
    if !given.eq(wanted) {
        return None;
    }
    let rows = usize::try_from(*rows).ok()?;
    Some((rows, rows.checked_mul(row_shape.iter().product())?))
}

/// Reads a body that is only a model's tensor; its size determines the number of rows.
fn raw(specs: &[TensorSpec], parts: &mut Parts, charge: &mut Charge) -> Result<Tensor, Problem> {
    let [spec] = specs else {
        return Err(Problem::Malformed(format!(
            "a raw binary request is for models of one input, this one has {}",
            specs.len()
        )));
    };
    let datatype = spec.kind.datatype();
    let size = parts.rest.len();
    let row_bytes = datatype.width().map(|width| width * spec.len()).ok_or_else(|| {
        Problem::Malformed("a raw binary request is for models that take numbers".to_owned())
    })?;
    if size == 0 || !size.is_multiple_of(row_bytes) {
        return Err(Problem::Malformed(format!(
            "{size} bytes of raw binary data do not divide into rows of {row_bytes} bytes ({})",
            datatype.name()
        )));
    }
    let rows = size / row_bytes;
    rows::check_count(rows)?;
    let count = rows * spec.len();
    charge.grow(count * datatype.size_in_memory())?;
    let bytes = parts.take(&spec.name, size as u64)?;
    let wrong = || Problem::Malformed("the raw binary data are cut off".to_owned());
    Ok(Tensor { rows, elements: datatype.read(&bytes, count).ok_or_else(wrong)? })
}

fn cut(
    tensors: Vec<Tensor>,
    specs: &[TensorSpec],
    count: usize,
    charge: &mut Charge,
) -> Result<Vec<Row>, Problem> {
    let is_image = specs.len() == 1 && !specs[0].shape.is_empty();
    let row_bytes = if is_image { 4 * specs[0].len() } else { size_of::<Cell>() * specs.len() };
    charge.grow(count.saturating_mul(size_of::<Row>() + row_bytes))?;
    if is_image {
        return Ok(tensors.into_iter().flat_map(|tensor| images(tensor, specs[0].len())).collect());
    }
    let cell = |tensor: &Tensor, row: usize| match &tensor.elements {
        Elements::Numbers(numbers) => Cell::Number(numbers[row]),
        Elements::Texts(texts) => Cell::Text(String::from_utf8_lossy(&texts[row]).into_owned()),
    };
    let row = |row| Row::Cells(tensors.iter().map(|tensor| cell(tensor, row)).collect());
    Ok((0..count).map(row).collect())
}

#[expect(clippy::cast_possible_truncation, reason = "networks compute in f32")]
fn images(tensor: Tensor, pixels: usize) -> Vec<Row> {
    match tensor.elements {
        Elements::Texts(files) => files.into_iter().map(|file| Row::Encoded(file.into())).collect(),
        Elements::Numbers(numbers) => numbers
            .chunks(pixels)
            .map(|pixels| Row::Pixels(pixels.iter().map(|value| *value as f32).collect()))
            .collect(),
    }
}
