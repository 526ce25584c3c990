//! Nested JSON lists as a tensor: a shape and the elements in order.
//!
//! The first element at each level says the shape; every other list must agree, and says where not.

use super::json::Value;
use super::status::Error;
use crate::api::signature::{Kind, Slot};
use base64::Engine;
use base64::engine::general_purpose::GeneralPurposeConfig;
use base64::engine::{DecodePaddingMode, GeneralPurpose};

/// One element of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Element {
    Float(f32),
    Text(String),
    Bytes(Vec<u8>),
}

/// Elements of some shape.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) shape: Vec<usize>,
    pub(super) elements: Vec<Element>,
}

/// Most elements of one tensor: thirteen colour images of 224x224.
const MOST_ELEMENTS: usize = 2_000_000;

/// As lenient about padding as the clients are.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Tensor {
    /// Reads a value of any nesting. Floats may be given as `{"b64": …}` files: images are.
    pub(super) fn read(value: &Value, kind: Kind) -> Result<Self, Error> {
        let mut tensor = Self { shape: shape(value), elements: Vec::new() };
        // The shape is known before anything is stored, so a tensor too large costs nothing.
        let count = tensor.shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
        if count.is_none_or(|count| count > MOST_ELEMENTS) {
            let shape = bracketed(&tensor.shape);
            return Err(Error::invalid(format!("Tensor of shape {shape} has too many elements")));
        }
        tensor.fill(value, 0, kind)?;
        Ok(tensor)
    }

    /// Checks that this is one row of `slot`.
    pub(super) fn expect(&self, slot: &Slot) -> Result<(), Error> {
        if self.fits(&self.shape, slot) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "Expecting shape {} but got: {}",
            bracketed(&slot.shape),
            bracketed(&self.shape)
        )))
    }

    /// Checks only the number of elements: examples are flat.
    pub(super) fn expect_len(&self, slot: &Slot) -> Result<(), ()> {
        let fits = self.is_file() || self.elements.len() == slot.len();
        if fits { Ok(()) } else { Err(()) }
    }

    /// Cuts a batch into the rows of `slot`.
    pub(super) fn into_rows(self, slot: &Slot) -> Result<Vec<Self>, Error> {
        let Some((_, row_shape)) = self.shape.split_first() else {
            return Err(Error::invalid(format!(
                "Tensor name: {} has no shape information ",
                slot.name
            )));
        };
        let row_shape = row_shape.to_vec();
        let files = matches!(self.elements.first(), Some(Element::Bytes(_)));
        let row_len = if files { 1 } else { row_shape.iter().product() };
        let fits =
            if files { row_shape.iter().all(|n| *n == 1) } else { self.fits(&row_shape, slot) };
        if !fits || row_len == 0 {
            let wanted = std::iter::once("-1".to_owned())
                .chain(slot.shape.iter().map(usize::to_string))
                .collect::<Vec<_>>()
                .join(",");
            let got = bracketed(&self.shape);
            return Err(Error::invalid(format!("Expecting shape [{wanted}] but got: {got}")));
        }
        let mut elements = self.elements.into_iter();
        let rows = elements.len() / row_len;
        let cut = |_| Self {
            shape: row_shape.clone(),
            elements: elements.by_ref().take(row_len).collect(),
        };
        Ok((0..rows).map(cut).collect())
    }

    /// A row may have extra dimensions of one, or be a file where the model takes images.
    fn fits(&self, shape: &[usize], slot: &Slot) -> bool {
        let longer =
            |shape: &[usize]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
        (self.is_file() && !slot.shape.is_empty()) || longer(shape) == longer(&slot.shape)
    }

    fn is_file(&self) -> bool {
        matches!(self.elements.as_slice(), [Element::Bytes(_)])
    }

    fn fill(&mut self, value: &Value, level: usize, kind: Kind) -> Result<(), Error> {
        match value {
            Value::Numbers(numbers) => {
                self.check_list(numbers.len(), level)?;
                for number in numbers {
                    self.leaf(&Value::Number(*number), level + 1, kind)?;
                }
                Ok(())
            }
            Value::List(items) => {
                self.check_list(items.len(), level)?;
                items.iter().try_for_each(|item| self.fill(item, level + 1, kind))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Object(_) => {
                self.leaf(value, level, kind)
            }
        }
    }

    fn check_list(&self, size: usize, level: usize) -> Result<(), Error> {
        let rank = self.shape.len();
        match self.shape.get(level) {
            None => Err(Error::invalid(format!(
                "Encountered list at unexpected level: {level} expected < {rank}"
            ))),
            Some(wanted) if *wanted != size => Err(Error::invalid(format!(
                "Encountered list at unexpected size: {size} at level: {level} expected size: \
                 {wanted}"
            ))),
            Some(_) => Ok(()),
        }
    }

    fn leaf(&mut self, value: &Value, level: usize, kind: Kind) -> Result<(), Error> {
        let rank = self.shape.len();
        if level != rank {
            return Err(Error::invalid(format!(
                "JSON Value: {} found at incorrect level: {} in the JSON DOM. Expected at level: \
                 {rank}",
                value.quoted(),
                level + 1
            )));
        }
        self.elements.push(element(value, kind)?);
        Ok(())
    }
}

fn element(value: &Value, kind: Kind) -> Result<Element, Error> {
    if let Some(text) = value.base64() {
        let bytes = BASE64.decode(text).map_err(|_| Error::invalid("Unable to base64 decode"))?;
        return Ok(Element::Bytes(bytes));
    }
    match (value, kind) {
        (Value::Number(number), Kind::Float) => {
            narrow(*number).map(Element::Float).ok_or_else(|| {
                Error::invalid(format!(
                    "Cannot convert JSON value: {} to float without loss of precision.",
                    value.quoted()
                ))
            })
        }
        (Value::Text(text), Kind::Text) => Ok(Element::Text(text.clone())),
        (other, kind) => Err(Error::invalid(format!(
            "JSON Value: {} Type: {} is not of expected type: {}",
            other.quoted(),
            other.type_name(),
            kind.type_name()
        ))),
    }
}

/// The nearest `f32`; `None` beyond its range.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is asked for")]
fn narrow(number: f64) -> Option<f32> {
    let near = number as f32;
    (near.is_finite() || !number.is_finite()).then_some(near)
}

fn shape(value: &Value) -> Vec<usize> {
    match value {
        Value::Numbers(numbers) => vec![numbers.len()],
        Value::List(items) => {
            let mut all = vec![items.len()];
            all.extend(items.first().map(shape).unwrap_or_default());
            all
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Object(_) => {
            Vec::new()
        }
    }
}

fn bracketed(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("[{}]", sizes.join(","))
}

#[cfg(test)]
mod tests {
    use super::{Element, Tensor};
    use crate::api::signature::Kind;
    use crate::api::tf_serving::json::parse;

    fn read(text: &str) -> Result<Tensor, String> {
        let value = parse(text.as_bytes()).unwrap();
        Tensor::read(&value, Kind::Float).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn nested_lists_have_a_shape_and_elements_in_order() {
        let tensor = read("[[1, 2, 3], [4, 5, 6]]").unwrap();
        assert_eq!(tensor.shape, [2, 3]);
        assert_eq!(tensor.elements[4], Element::Float(5.0));
    }

    #[test]
    fn ragged_lists_are_refused_with_their_place() {
        let said = |text: &str| read(text).unwrap_err();
        assert_eq!(
            said("[[1, 2, 3], [4, 5]]"),
            "Encountered list at unexpected size: 2 at level: 1 expected size: 3"
        );
        assert_eq!(said("[1, [2]]"), "Encountered list at unexpected level: 1 expected < 1");
        assert_eq!(
            said("[[1], 2]"),
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"
        );
        assert_eq!(
            said("[\"x\"]"),
            "JSON Value: \"x\" Type: String is not of expected type: float"
        );
    }

    #[test]
    fn files_come_in_base64_with_or_without_padding() {
        for text in [r#"{"b64": "aGk="}"#, r#"{"b64": "aGk"}"#] {
            assert_eq!(read(text).unwrap().elements, [Element::Bytes(b"hi".to_vec())]);
        }
        assert_eq!(read(r#"{"b64": "*"}"#).unwrap_err(), "Unable to base64 decode");
    }
}
