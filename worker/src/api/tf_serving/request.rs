//! From the JSON of a request to rows: the row form, the column form, and examples.

use super::json::{ParseError, Value, parse};
use super::route::Verb;
use super::status::Error;
use super::tensor::{Element, Tensor};
use crate::api::rows::Row;
use crate::api::signature::{Kind, Slot};
use crate::repository::Cell;
use std::collections::BTreeSet;

/// The form of a `:predict` request, which is the form of its answer.
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

/// Reads a body that must be an object.
pub(super) fn document(body: &[u8]) -> Result<Value, Error> {
    if body.is_empty() {
        return Err(Error::invalid("JSON Parse error: The document is empty"));
    }
    let document = parse(body).map_err(|ParseError { reason, offset }| {
        Error::invalid(format!("JSON Parse error: {reason} at offset: {offset}"))
    })?;
    if document.is_object() {
        return Ok(document);
    }
    Err(format_error(&document, "Is not object"))
}

/// Checks `signature_name`, when there is one. The models of TF Serving's documentation name their
/// signatures after the method as well.
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
            "Serving signature name: \"{name}\" not found in signature def"
        ))),
        Some(_) => Err(format_error(
            document,
            "not formatted correctly. 'signature_name' key must be a string value.",
        )),
    }
}

/// The rows of a `:predict` request.
pub(super) fn predict(document: &Value, inputs: &[Slot]) -> Result<Asked, Error> {
    match (document.member("instances"), document.member("inputs")) {
        (Some(_), Some(_)) => Err(format_error(
            document,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )),
        (Some(instances), None) => Ok((Form::Row, rows(document, instances, inputs)?)),
        (None, Some(columns)) => Ok((Form::Column, from_columns(columns, inputs)?)),
        (None, None) => Err(Error::invalid("Missing 'inputs' or 'instances' key")),
    }
}

fn format_error(value: &Value, what: &str) -> Error {
    Error::invalid(format!("JSON Value: {} {what}", value.quoted()))
}

fn rows(document: &Value, instances: &Value, inputs: &[Slot]) -> Result<Vec<Row>, Error> {
    let elements = match instances {
        Value::List(elements) => elements.clone(),
        Value::Numbers(numbers) => numbers.iter().copied().map(Value::Number).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Object(_) => {
            return Err(format_error(document, "Expecting 'instances' to be an list/array"));
        }
    };
    let Some(first) = elements.first() else {
        return Err(format_error(document, "No values in 'instances' array"));
    };
    let named = is_named(first);
    if inputs.len() > 1 && !first.is_object() {
        return Err(Error::invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors \
             required as per tensorinfo_map",
        ));
    }
    let mut rows = Vec::with_capacity(elements.len());
    for (position, element) in elements.iter().enumerate() {
        if named != is_named(element) {
            let (wanted, got) = if named { ("object", "list") } else { ("value/list", "object") };
            return Err(Error::invalid(format!(
                "Expecting {wanted} but got {got} at item {position} of input list"
            )));
        }
        rows.push(instance(element, position, inputs, named)?);
    }
    Ok(rows)
}

fn is_named(value: &Value) -> bool {
    value.is_object() && value.base64().is_none()
}

fn instance(element: &Value, at: usize, inputs: &[Slot], named: bool) -> Result<Row, Error> {
    if !named {
        let tensor = Tensor::read(element, inputs[0].kind)
            .and_then(|tensor| tensor.expect(&inputs[0]).map(|()| tensor))
            .map_err(|error| error.within(&format!("element: {at} of 'instances'")))?;
        return Ok(row(vec![tensor], inputs));
    }
    let Value::Object(members) = element else {
        return Err(Error::invalid("an instance must be an object"));
    };
    for (name, _) in members {
        if !inputs.iter().any(|slot| slot.name == *name) {
            let error = Error::invalid(format!("JSON object: does not have named input: {name}"));
            return Err(error.within(&format!("element: {at} key: {name} of 'instances'")));
        }
    }
    let mut tensors = Vec::with_capacity(inputs.len());
    for slot in inputs {
        let Some(value) = element.member(&slot.name) else {
            return Err(missing_keys(element, at, inputs));
        };
        let tensor = Tensor::read(value, slot.kind)
            .and_then(|tensor| tensor.expect(slot).map(|()| tensor))
            .map_err(|error| {
                error.within(&format!("element: {at} key: {} of 'instances'", slot.name))
            })?;
        tensors.push(tensor);
    }
    Ok(row(tensors, inputs))
}

fn missing_keys(element: &Value, at: usize, inputs: &[Slot]) -> Error {
    let names: BTreeSet<&str> = inputs.iter().map(|slot| slot.name.as_str()).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(",");
    Error::invalid(format!(
        "Failed to process element: {at} of 'instances' list. JSON object: {} keys must be equal \
         to: {names}",
        element.quoted()
    ))
}

/// One tensor an input, each of one row.
fn row(tensors: Vec<Tensor>, inputs: &[Slot]) -> Row {
    let is_image = inputs.len() == 1 && !inputs[0].shape.is_empty();
    let mut elements = tensors.into_iter().flat_map(|tensor| tensor.elements);
    if !is_image {
        return Row::Cells(elements.map(Element::into_cell).collect());
    }
    match elements.next() {
        Some(Element::Bytes(bytes)) => Row::Encoded(bytes.into()),
        Some(Element::Float(first)) => {
            Row::Pixels(std::iter::once(first).chain(elements.map(Element::into_float)).collect())
        }
        Some(Element::Text(_)) | None => Row::Pixels(Vec::new()),
    }
}

fn from_columns(columns: &Value, inputs: &[Slot]) -> Result<Vec<Row>, Error> {
    if !is_named(columns) && inputs.len() > 1 {
        return Err(Error::invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors \
             required as per tensorinfo_map",
        ));
    }
    let mut parts: Vec<std::vec::IntoIter<Tensor>> = Vec::with_capacity(inputs.len());
    let mut count = None;
    for slot in inputs {
        let value = if is_named(columns) {
            columns.member(&slot.name).ok_or_else(|| {
                Error::invalid(format!("Missing named input: {} in 'inputs' object.", slot.name))
            })?
        } else {
            columns
        };
        let rows = Tensor::read(value, slot.kind)?.into_rows(slot)?;
        if *count.get_or_insert(rows.len()) != rows.len() {
            return Err(Error::invalid(format!(
                "Tensor name: {} has inconsistent batch size: {} expecting: {}",
                slot.name,
                rows.len(),
                count.unwrap_or_default()
            )));
        }
        parts.push(rows.into_iter());
    }
    let count = count.unwrap_or_default();
    if count == 0 {
        return Err(Error::invalid("No values in 'inputs'"));
    }
    let next_row = |_| row(parts.iter_mut().filter_map(Iterator::next).collect(), inputs);
    Ok((0..count).map(next_row).collect())
}

/// The rows of a `:classify` or `:regress` request; the context fills in what an example lacks.
pub(super) fn examples(document: &Value, inputs: &[Slot]) -> Result<Vec<Row>, Error> {
    let context = document.member("context");
    if let Some(context) = context {
        check_example(context)?;
    }
    let examples = match document.member("examples") {
        None => {
            return Err(format_error(
                document,
                "When method is classify, key 'examples' is expected and was not found",
            ));
        }
        Some(Value::List(examples)) if examples.is_empty() => {
            return Err(format_error(document, "'examples' value is an empty array"));
        }
        Some(Value::List(examples)) => examples.clone(),
        Some(Value::Numbers(numbers)) => numbers.iter().copied().map(Value::Number).collect(),
        Some(_) => {
            return Err(format_error(document, "Expecting 'examples' value to be an list/array"));
        }
    };
    examples.iter().map(|example| from_example(example, context, inputs)).collect()
}

fn check_example(value: &Value) -> Result<(), Error> {
    if value.is_object() {
        return Ok(());
    }
    let kind = value.type_name();
    Err(Error::invalid(format!("Example must be JSON object but got JSON {kind}")))
}

fn from_example(example: &Value, context: Option<&Value>, inputs: &[Slot]) -> Result<Row, Error> {
    check_example(example)?;
    let mut tensors = Vec::with_capacity(inputs.len());
    for slot in inputs {
        let name = &slot.name;
        let value = example.member(name).or_else(|| context.and_then(|c| c.member(name)));
        let value = value.ok_or_else(|| {
            Error::invalid(format!(
                "Feature: {name} (data type: {}) is required but could not be found.",
                slot.kind.type_name()
            ))
        })?;
        let tensor = Tensor::read(value, slot.kind).map_err(|_| {
            Error::invalid(format!(
                "Feature: {name} has element with unexpected JSON type: {}",
                value.type_name()
            ))
        })?;
        tensor.expect_len(slot).map_err(|()| {
            Error::invalid(format!(
                "Feature: {name} has {} elements, expecting {}",
                tensor.elements.len(),
                slot.len()
            ))
        })?;
        tensors.push(tensor);
    }
    Ok(row(tensors, inputs))
}

impl Element {
    fn into_cell(self) -> Cell {
        match self {
            Self::Float(value) => Cell::Number(f64::from(value)),
            Self::Text(text) => Cell::Text(text),
            Self::Bytes(bytes) => Cell::Text(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    fn into_float(self) -> f32 {
        match self {
            Self::Float(value) => value,
            Self::Text(_) | Self::Bytes(_) => f32::NAN,
        }
    }
}

impl Kind {
    /// What error messages call it.
    pub(super) fn type_name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Text => "string",
        }
    }
}
