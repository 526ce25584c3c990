//! Turns the JSON of a request into rows: the row form, the column form, and examples.

use std::collections::BTreeSet;

use message::tf_serving::Verb;

use super::json::{Items, ParseError, TOO_LARGE, Value, parse};
use super::named::{Named, Values};
use super::status::Error;
use super::tensor::{Elements, FirstShape, Tensor};
use crate::api::memory::Charge;
use crate::api::rows::{self, Row};
use crate::api::signature::{Kind, TensorSpec};
use crate::repository::Cell;

/// The form of a `:predict` request and of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `instances` in, `predictions` out.
    Row,
    /// `inputs` in, `outputs` out.
    Column,
}

/// The form and the rows of a `:predict` request.
pub(super) type Asked = (Form, Vec<Row>);

/// The one signature that every model has.
pub(super) const SIGNATURE: &str = "serving_default";

/// Reads a body, which must be an object, using at most `left` bytes of memory.
pub(super) fn document(body: &[u8], left: usize, charge: &mut Charge) -> Result<Value, Error> {
    if body.is_empty() {
        return Err(Error::invalid("JSON Parse error: The document is empty"));
    }
    let (document, taken) = parse(body, left).map_err(|ParseError { reason, offset }| {
        let unit = if reason == TOO_LARGE { " (--max-request-memory)" } else { "" };
        Error::invalid(format!("JSON Parse error: {reason} at offset: {offset}{unit}"))
    })?;
    charge.grow(taken)?;
    if document.is_object() {
        return Ok(document);
    }
    Err(format_error(&document, "Is not object"))
}

/// Checks `signature_name`, if there is one. The models in TF Serving's documentation also name
/// their signatures after the method.
pub(super) fn check_signature(document: &Value, verb: Verb) -> Result<(), Error> {
    let method = match verb {
        Verb::Classify => "tensorflow/serving/classify",
        Verb::Regress => "tensorflow/serving/regress",
        Verb::Predict | Verb::Status | Verb::Metadata => "tensorflow/serving/predict",
    };
    match document.member("signature_name") {
        None => Ok(()),
        Some(Value::Text(name)) if name.is_empty() || name == SIGNATURE || name == method => Ok(()),
        Some(Value::Text(name)) => Err(Error::invalid(format!(
            "Serving signature name: \"{}\" not found in signature def",
            cut(name)
        ))),
        Some(_) => Err(format_error(
            document,
            "not formatted correctly. 'signature_name' key must be a string value.",
        )),
    }
}

/// The rows of a `:predict` request.
pub(super) fn predict(
    document: &Value,
    inputs: &[TensorSpec],
    charge: &mut Charge,
) -> Result<Asked, Error> {
    match (document.member("instances"), document.member("inputs")) {
        (Some(_), Some(_)) => Err(format_error(
            document,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )),
        (Some(instances), None) => Ok((Form::Row, from_list(document, instances, inputs, charge)?)),
        (None, Some(columns)) => Ok((Form::Column, from_columns(columns, inputs, charge)?)),
        (None, None) => Err(Error::invalid("Missing 'inputs' or 'instances' key")),
    }
}

fn format_error(value: &Value, what: &str) -> Error {
    Error::invalid(format!("JSON Value: {} {what}", value.quoted()))
}

fn from_list(
    document: &Value,
    instances: &Value,
    inputs: &[TensorSpec],
    charge: &mut Charge,
) -> Result<Vec<Row>, Error> {
    let Some(elements) = instances.items() else {
        return Err(format_error(document, "Expecting 'instances' to be an list/array"));
    };
    let Some(first) = elements.iter().next() else {
        return Err(format_error(document, "No values in 'instances' array"));
    };
    let named = is_named(&first);
    if inputs.len() > 1 && !first.is_object() {
        return Err(Error::invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors \
             required as per tensorinfo_map",
        ));
    }
    charge_rows(elements, inputs, charge)?;
    let mut rows = Vec::with_capacity(elements.len());
    let mut shapes = vec![None; inputs.len()];
    let inputs = Named::new(inputs);
    for (position, element) in elements.iter().enumerate() {
        if named != is_named(&element) {
            let (wanted, got) = if named { ("object", "list") } else { ("value/list", "object") };
            return Err(Error::invalid(format!(
                "Expecting {wanted} but got {got} at item {position} of input list"
            )));
        }
        let at = (position, named);
        rows.push(instance(&element, at, &inputs, (&mut shapes, charge))?);
    }
    Ok(rows)
}

/// Charges for the rows and their lists before they are allocated.
fn charge_rows(
    elements: Items<'_>,
    inputs: &[TensorSpec],
    charge: &mut Charge,
) -> Result<(), Error> {
    rows::check_count(elements.len())?;
    let row = size_of::<Row>() + inputs.len() * size_of::<Cell>();
    charge.grow(elements.len().saturating_mul(row))?;
    Ok(())
}

fn is_named(value: &Value) -> bool {
    value.is_object() && value.base64().is_none()
}

fn instance(
    element: &Value,
    (at, named): (usize, bool),
    inputs: &Named<'_>,
    (shapes, charge): (&mut [FirstShape], &mut Charge),
) -> Result<Row, Error> {
    let specs = inputs.specs;
    let mut read = |value: &Value, position: usize| {
        let spec: &TensorSpec = &specs[position];
        let tensor = Tensor::read(value, spec.kind, charge)?;
        tensor.expect_same(&mut shapes[position])?;
        tensor.expect(spec)?;
        Ok(tensor.elements)
    };
    if !named {
        let within = |error: Error| error.within(&format!("element: {at} of 'instances'"));
        return Ok(row(vec![read(element, 0).map_err(within)?], specs));
    }
    if let Some(name) = inputs.unknown(element) {
        let name = cut(name);
        let error = Error::invalid(format!("JSON object: does not have named input: {name}"));
        return Err(error.within(&format!("element: {at} key: {name} of 'instances'")));
    }
    let mut values = inputs.none();
    inputs.take(element, &mut values);
    let mut tensors = Vec::with_capacity(specs.len());
    for (position, (spec, value)) in specs.iter().zip(values).enumerate() {
        let Some(value) = value else {
            return Err(missing_keys(element, at, specs));
        };
        let tensor = read(value, position).map_err(|error: Error| {
            error.within(&format!("element: {at} key: {} of 'instances'", spec.name))
        })?;
        tensors.push(tensor);
    }
    Ok(row(tensors, specs))
}

/// A name as an error message shows it.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(100)]
}

fn missing_keys(element: &Value, at: usize, inputs: &[TensorSpec]) -> Error {
    let names: BTreeSet<&str> = inputs.iter().map(|spec| spec.name.as_str()).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(",");
    Error::invalid(format!(
        "Failed to process element: {at} of 'instances' list. JSON object: {} keys must be equal \
         to: {names}",
        element.quoted()
    ))
}

/// One tensor per input, each of one row.
fn row(tensors: Vec<Elements>, inputs: &[TensorSpec]) -> Row {
    let is_image = inputs.len() == 1 && !inputs[0].shape.is_empty();
    let mut tensors = tensors.into_iter();
    if !is_image {
        return Row::Cells(tensors.flat_map(Elements::into_cells).collect());
    }
    match tensors.next() {
        Some(Elements::Files(mut files)) => Row::Encoded(files.pop().unwrap_or_default().into()),
        Some(Elements::Floats(floats)) => Row::Pixels(floats),
        Some(Elements::Texts(_)) | None => Row::Pixels(Vec::new()),
    }
}

fn from_columns(
    columns: &Value,
    inputs: &[TensorSpec],
    charge: &mut Charge,
) -> Result<Vec<Row>, Error> {
    if !is_named(columns) && inputs.len() > 1 {
        return Err(Error::invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors \
             required as per tensorinfo_map",
        ));
    }
    let named = Named::new(inputs);
    let mut values = named.none();
    if is_named(columns) {
        named.take(columns, &mut values);
    } else {
        values.fill(Some(columns));
    }
    let mut parts = Vec::with_capacity(inputs.len());
    let mut count = None;
    for (spec, value) in inputs.iter().zip(values) {
        let value = value.ok_or_else(|| {
            Error::invalid(format!("Missing named input: {} in 'inputs' object.", spec.name))
        })?;
        let rows = Tensor::read(value, spec.kind, charge)?.into_rows(spec, charge)?;
        if *count.get_or_insert(rows.len()) != rows.len() {
            return Err(Error::invalid(format!(
                "Tensor name: {} has inconsistent batch size: {} expecting: {}",
                spec.name,
                rows.len(),
                count.unwrap_or_default()
            )));
        }
        parts.push(rows);
    }
    let count = count.unwrap_or_default();
    if count == 0 {
        return Err(Error::invalid("No values in 'inputs'"));
    }
    charge.grow(count * (size_of::<Row>() + inputs.len() * size_of::<Cell>()))?;
    let next_row = |_| row(parts.iter_mut().filter_map(Iterator::next).collect(), inputs);
    Ok((0..count).map(next_row).collect())
}

/// The rows of a `:classify` or `:regress` request; the context fills in what an example lacks.
pub(super) fn examples(
    document: &Value,
    inputs: &[TensorSpec],
    charge: &mut Charge,
) -> Result<Vec<Row>, Error> {
    let named = Named::new(inputs);
    let mut context = named.none();
    if let Some(object) = document.member("context") {
        check_example(object)?;
        named.take(object, &mut context);
    }
    let Some(examples) = document.member("examples") else {
        return Err(format_error(
            document,
            "When method is classify, key 'examples' is expected and was not found",
        ));
    };
    let Some(examples) = examples.items() else {
        return Err(format_error(document, "Expecting 'examples' value to be an list/array"));
    };
    if examples.len() == 0 {
        return Err(format_error(document, "'examples' value is an empty array"));
    }
    charge_rows(examples, inputs, charge)?;
    examples.iter().map(|example| from_example(&example, &context, &named, charge)).collect()
}

fn check_example(value: &Value) -> Result<(), Error> {
    if value.is_object() {
        return Ok(());
    }
    let kind = value.type_name();
    Err(Error::invalid(format!("Example must be JSON object but got JSON {kind}")))
}

fn from_example(
    example: &Value,
    context: &Values<'_>,
    inputs: &Named<'_>,
    charge: &mut Charge,
) -> Result<Row, Error> {
    check_example(example)?;
    let mut values = context.clone();
    inputs.take(example, &mut values);
    let mut tensors = Vec::with_capacity(inputs.specs.len());
    for (spec, value) in inputs.specs.iter().zip(values) {
        let name = &spec.name;
        let value = value.ok_or_else(|| {
            Error::invalid(format!(
                "Feature: {name} (data type: {}) is required but could not be found.",
                spec.kind.type_name()
            ))
        })?;
        let tensor = Tensor::read(value, spec.kind, charge).map_err(|_| {
            Error::invalid(format!(
                "Feature: {name} has element with unexpected JSON type: {}",
                value.type_name()
            ))
        })?;
        tensor.expect_len(spec).map_err(|()| {
            Error::invalid(format!(
                "Feature: {name} has {} elements, expecting {}",
                tensor.elements.len(),
                spec.len()
            ))
        })?;
        tensors.push(tensor.elements);
    }
    Ok(row(tensors, inputs.specs))
}

impl Elements {
    fn into_cells(self) -> Vec<Cell> {
        match self {
            Self::Floats(floats) => {
                floats.into_iter().map(|value| Cell::Number(f64::from(value))).collect()
            }
            Self::Texts(texts) => texts.into_iter().map(Cell::Text).collect(),
            Self::Files(files) => {
                let text = |file: Vec<u8>| String::from_utf8_lossy(&file).into_owned();
                files.into_iter().map(|file| Cell::Text(text(file))).collect()
            }
        }
    }
}

impl Kind {
    /// Its name in error messages.
    pub(super) fn type_name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Text => "string",
        }
    }
}
