//! Nested JSON lists as a tensor: a shape and the elements in order.
//!
//! The first element at each level determines the shape; errors say where another list differs.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::GeneralPurposeConfig;
use base64::engine::{DecodePaddingMode, GeneralPurpose};

use super::json::{Items, Value};
use super::status::Error;
use crate::api::memory::Charge;
use crate::api::rows;
use crate::api::signature::{Kind, TensorSpec};

/// The elements of a tensor, all of one kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Elements {
    Floats(Vec<f32>),
    Texts(Vec<String>),
    /// Files in base64, for an image or for a text.
    Files(Vec<Vec<u8>>),
}

/// Elements and their shape.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) shape: Vec<usize>,
    pub(super) elements: Elements,
}

/// Number of elements and shape of the first row's tensor, which all others must match.
pub(super) type FirstShape = Option<(usize, Vec<usize>)>;

/// Memory of a list of one element.
const ELEMENT: usize = 32;

/// As lenient about padding as clients are.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Elements {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Floats(floats) => floats.len(),
            Self::Texts(texts) => texts.len(),
            Self::Files(files) => files.len(),
        }
    }

    /// Splits them into rows of `row_len`.
    fn into_rows(self, row_len: usize) -> Vec<Self> {
        let one_by_one =
            |kind: fn(String) -> Self, texts: Vec<String>| texts.into_iter().map(kind).collect();
        match self {
            Self::Floats(floats) => {
                floats.chunks_exact(row_len).map(|row| Self::Floats(row.to_vec())).collect()
            }
            Self::Texts(texts) => one_by_one(|text| Self::Texts(vec![text]), texts),
            Self::Files(files) => files.into_iter().map(|file| Self::Files(vec![file])).collect(),
        }
    }
}

impl Tensor {
    /// Reads a value of any nesting. Floats may be given as `{"b64": …}` files, as images are.
    pub(super) fn read(value: &Value, kind: Kind, charge: &mut Charge) -> Result<Self, Error> {
        let shape = shape(value);
        let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
        let size = if kind == Kind::Float { size_of::<f32>() } else { size_of::<String>() };
        // The shape is known before anything is stored: a tensor that is too large costs nothing.
        charge.grow(count.and_then(|count| count.checked_mul(size)).unwrap_or(usize::MAX))?;
        // A ragged tensor costs no more than its even part.
        let count = if is_even(value, &shape) { count.unwrap_or_default() } else { 0 };
        let elements = match kind {
            Kind::Float => Elements::Floats(Vec::with_capacity(count)),
            Kind::Text => Elements::Texts(Vec::with_capacity(count)),
        };
        let mut tensor = Self { shape, elements };
        tensor.fill(value, 0, kind, charge)?;
        Ok(tensor)
    }

    /// Checks that this has the shape of the first row.
    pub(super) fn expect_same(&self, first: &mut FirstShape) -> Result<(), Error> {
        let len = self.elements.len();
        let (first_len, first_shape) = first.get_or_insert_with(|| (len, self.shape.clone()));
        if *first_len != len {
            let text = format!("Expecting tensor size: {first_len} but got: {len}");
            return Err(Error::invalid(text));
        }
        if *first_shape != self.shape {
            let (wanted, got) = (bracketed(first_shape), bracketed(&self.shape));
            return Err(Error::invalid(format!("Expecting shape {wanted} but got: {got}")));
        }
        Ok(())
    }

    /// Checks that this is one row of `spec`.
    pub(super) fn expect(&self, spec: &TensorSpec) -> Result<(), Error> {
        if self.fits(&self.shape, spec) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "Expecting shape {} but got: {}",
            bracketed(&spec.shape),
            bracketed(&self.shape)
        )))
    }

    /// Checks only the number of elements: examples are flat.
    pub(super) fn expect_len(&self, spec: &TensorSpec) -> Result<(), ()> {
        let fits = self.is_file() || self.elements.len() == spec.len();
        if fits { Ok(()) } else { Err(()) }
    }

    /// Splits a batch into rows of `spec`.
    pub(super) fn into_rows(
        self,
        spec: &TensorSpec,
        charge: &mut Charge,
    ) -> Result<std::vec::IntoIter<Elements>, Error> {
        let Some((_, row_shape)) = self.shape.split_first() else {
            return Err(Error::invalid(format!(
                "Tensor name: {} has no shape information ",
                spec.name
            )));
        };
        let files = matches!(self.elements, Elements::Files(_)) && !spec.shape.is_empty();
        let row_len = if files { 1 } else { row_shape.iter().product() };
        let fits =
            if files { row_shape.iter().all(|n| *n == 1) } else { self.fits(row_shape, spec) };
        if !fits || row_len == 0 {
            let wanted = std::iter::once("-1".to_owned())
                .chain(spec.shape.iter().map(usize::to_string))
                .collect::<Vec<_>>()
                .join(",");
            let got = bracketed(&self.shape);
            return Err(Error::invalid(format!("Expecting shape [{wanted}] but got: {got}")));
        }
        let rows = self.elements.len() / row_len;
        rows::check_count(rows)?;
        let floats = if spec.kind == Kind::Float { size_of::<f32>() * row_len } else { 0 };
        charge.grow(rows.saturating_mul(size_of::<Elements>() + ELEMENT + floats))?;
        Ok(self.elements.into_rows(row_len).into_iter())
    }

    /// A row may have extra dimensions of size 1, or be a file if the model takes images.
    fn fits(&self, shape: &[usize], spec: &TensorSpec) -> bool {
        let longer =
            |shape: &[usize]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
        (self.is_file() && !spec.shape.is_empty()) || longer(shape) == longer(&spec.shape)
    }

    fn is_file(&self) -> bool {
        matches!(&self.elements, Elements::Files(files) if files.len() == 1)
    }

    fn fill(
        &mut self,
        value: &Value,
        level: usize,
        kind: Kind,
        charge: &mut Charge,
    ) -> Result<(), Error> {
        let Some(items) = value.items() else { return self.leaf(value, level, kind, charge) };
        self.check_list(items.len(), level)?;
        match items {
            Items::Numbers(numbers) => numbers
                .iter()
                .try_for_each(|number| self.leaf(&Value::Number(*number), level + 1, kind, charge)),
            Items::Values(values) => {
                values.iter().try_for_each(|item| self.fill(item, level + 1, kind, charge))
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

    fn leaf(
        &mut self,
        value: &Value,
        level: usize,
        kind: Kind,
        charge: &mut Charge,
    ) -> Result<(), Error> {
        let rank = self.shape.len();
        if level != rank {
            return Err(Error::invalid(format!(
                "JSON Value: {} found at incorrect level: {} in the JSON DOM. Expected at level: \
                 {rank}",
                value.quoted(),
                level + 1
            )));
        }
        if let Some(text) = value.base64() {
            charge.grow(size_of::<Vec<u8>>() + text.len())?;
            return self.add_file(file(text)?, value, kind);
        }
        match (&mut self.elements, value) {
            (Elements::Floats(floats), Value::Number(number)) => {
                floats.push(narrow(*number).ok_or_else(|| lossy(value))?);
            }
            (Elements::Floats(_), Value::Large(_)) => return Err(lossy(value)),
            (Elements::Texts(texts), Value::Text(text)) => {
                charge.grow(text.len())?;
                texts.push(text.clone());
            }
            (Elements::Floats(_) | Elements::Texts(_) | Elements::Files(_), other) => {
                return Err(of_wrong_type(other, kind));
            }
        }
        Ok(())
    }

    /// A tensor has files or other elements, but not both.
    fn add_file(&mut self, file: Vec<u8>, value: &Value, kind: Kind) -> Result<(), Error> {
        match &mut self.elements {
            Elements::Files(files) => files.push(file),
            Elements::Texts(texts) => texts.push(String::from_utf8_lossy(&file).into_owned()),
            Elements::Floats(floats) if floats.is_empty() => {
                self.elements = Elements::Files(vec![file]);
            }
            Elements::Floats(_) => return Err(of_wrong_type(value, kind)),
        }
        Ok(())
    }
}

/// The bytes of a base64 text, ignoring white space.
fn file(text: &str) -> Result<Vec<u8>, Error> {
    let is_space = |byte: u8| byte.is_ascii_whitespace() || byte == 0x0B;
    let text = if text.bytes().any(is_space) {
        Cow::Owned(text.bytes().filter(|byte| !is_space(*byte)).collect())
    } else {
        Cow::Borrowed(text.as_bytes())
    };
    BASE64.decode(text).map_err(|_| Error::invalid("Unable to base64 decode"))
}

fn lossy(value: &Value) -> Error {
    Error::invalid(format!(
        "Cannot convert JSON value: {} to float without loss of precision.",
        value.quoted()
    ))
}

fn of_wrong_type(value: &Value, kind: Kind) -> Error {
    Error::invalid(format!(
        "JSON Value: {} Type: {} is not of expected type: {}",
        value.quoted(),
        value.type_name(),
        kind.type_name()
    ))
}

/// The nearest `f32`; `None` beyond its range.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is asked for")]
fn narrow(number: f64) -> Option<f32> {
    let near = number as f32;
    (near.is_finite() || !number.is_finite()).then_some(near)
}

fn shape(mut value: &Value) -> Vec<usize> {
    let mut all = Vec::new();
    while let Some(items) = value.items() {
        all.push(items.len());
        let Items::Values([first, ..]) = items else { break };
        value = first;
    }
    all
}

/// Whether all lists are as long as the shape says.
fn is_even(value: &Value, shape: &[usize]) -> bool {
    match (value.items(), shape) {
        (None, []) => true,
        (Some(items), [size, rest @ ..]) if items.len() == *size => match items {
            Items::Numbers(_) => rest.is_empty(),
            Items::Values(values) => values.iter().all(|value| is_even(value, rest)),
        },
        (None | Some(_), _) => false,
    }
}

fn bracketed(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("[{}]", sizes.join(","))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Elements, Tensor};
    use crate::api::memory::Pool;
    use crate::api::signature::Kind;
    use crate::api::tf_serving::json::parse;
    use crate::metrics::Metrics;

    fn read(text: &str) -> Result<Tensor, String> {
        read_as(text, Kind::Float)
    }

    fn read_as(text: &str, kind: Kind) -> Result<Tensor, String> {
        let pool = Pool::new(1 << 20, 1 << 20, Arc::new(Metrics::new()));
        let mut charge = pool.allowance().charge(0).unwrap();
        let (value, _) = parse(text.as_bytes(), 16 << 20).unwrap();
        Tensor::read(&value, kind, &mut charge).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn nested_lists_have_a_shape_and_elements_in_order() {
        let tensor = read("[[1, 2, 3], [4, 5, 6]]").unwrap();
        assert_eq!(tensor.shape, [2, 3]);
        assert_eq!(tensor.elements, Elements::Floats(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
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
        assert_eq!(
            said("[1e39]"),
            "Cannot convert JSON value: 1e+39 to float without loss of precision."
        );
        assert_eq!(
            said("[1, -16777216]"),
            "Cannot convert JSON value: -16777216 to float without loss of precision."
        );
    }

    #[test]
    fn a_shape_that_nothing_could_hold_is_refused() {
        let list = format!("[{}]", vec!["[]"; 1000].join(","));
        let lists = format!("[{}]", vec![list.as_str(); 100].join(","));
        assert_eq!(read(&lists).unwrap().shape, [100, 1000, 0]);
        assert!(read("[[[1, 2], [3]]]").is_err());
        let ragged = format!("[[{}1],{}[]]", "1,".repeat(1000), "[],".repeat(100));
        let (value, _) = parse(ragged.as_bytes(), 1 << 20).unwrap();
        let pool = Pool::new(1 << 20, 1 << 20, Arc::new(Metrics::new()));
        let mut charge = pool.allowance().charge(0).unwrap();
        let measured = allocation_counter::measure(|| {
            Tensor::read(&value, Kind::Float, &mut charge).unwrap_err();
        });
        assert!(measured.bytes_max < 16 << 10, "{measured:?}");
    }

    #[test]
    fn files_come_in_base64_with_or_without_padding_and_line_breaks() {
        for text in [r#"{"b64": "aGk="}"#, r#"{"b64": "aGk"}"#, r#"{"b64": "a\nG\r\n k=\n"}"#] {
            assert_eq!(read(text).unwrap().elements, Elements::Files(vec![b"hi".to_vec()]));
            let texts = Elements::Texts(vec!["hi".to_owned()]);
            assert_eq!(read_as(text, Kind::Text).unwrap().elements, texts);
        }
        assert_eq!(read(r#"{"b64": "*"}"#).unwrap_err(), "Unable to base64 decode");
        assert!(read(r#"[1, {"b64": "aGk="}]"#).is_err());
        assert!(read(r#"[{"b64": "aGk="}, 1]"#).is_err());
    }
}
