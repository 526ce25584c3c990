//! Weights files, checked against the network's own description before anything computes with them.
//!
//! A file that almost fits would give confident answers: a transposed matrix has the same number of
//! values, clamps swallow a NaN, and a batch norm beside a convolution that has one folded in is
//! ignored. So every tensor must be one that the network has, with its shape, and finite.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use candle_core::{DType, Device, Result, bail};
use candle_nn::VarBuilder;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::repository::file::{self, MAX_WEIGHTS};

/// Most bytes of the header of a safetensors file, which is JSON.
const MAX_HEADER: u64 = 4 << 20;
/// The largest number in a deep network: products of a few of these are still finite.
pub(crate) const LARGEST: f32 = 1e15;

/// A tensor that a network has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    name: String,
    shape: Vec<usize>,
    values: Values,
}

/// The numbers that a tensor may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    /// All that are finite as f32.
    Finite,
    /// Those that deep networks can compute with.
    Moderate,
    /// The same, but not negative: they are variances.
    Variance,
}

/// The tensors of a file by name, not yet checked.
pub(crate) type Tensors<'a> = HashMap<String, TensorView<'a>>;

impl Spec {
    pub(crate) fn new(name: impl Into<String>, shape: &[usize], values: Values) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), values }
    }

    /// The tensor's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Refuses a missing tensor, or one of another shape.
    pub(crate) fn check_shape(&self, found: Option<&[usize]>) -> Result<()> {
        let Self { name, shape, .. } = self;
        match found {
            Some(found) if found == shape => Ok(()),
            Some(found) => bail!("tensor `{name}` has shape {found:?}, expected {shape:?}"),
            None => bail!("tensor `{name}` is missing, expected of shape {shape:?}"),
        }
    }

    fn check(&self, found: Option<&TensorView<'_>>) -> Result<()> {
        self.check_shape(found.map(TensorView::shape))?;
        let (Self { name, values, .. }, Some(view)) = (self, found) else { return Ok(()) };
        match numbers(view) {
            Some(mut numbers) => match numbers.position(|number| !values.contain(number)) {
                Some(at) => {
                    let found = numbers_at(view, at);
                    bail!("tensor `{name}` holds {found} at element {at}, expected {values}")
                }
                None => Ok(()),
            },
            None => bail!("tensor `{name}` is of {}, expected F32, F16, BF16 or F64", view.dtype()),
        }
    }
}

impl Values {
    fn contain(self, number: f32) -> bool {
        // False for NaN.
        match self {
            Self::Finite => number.is_finite(),
            Self::Moderate => number.abs() <= LARGEST,
            Self::Variance => (0.0..=LARGEST).contains(&number),
        }
    }
}

impl std::fmt::Display for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Finite => f.write_str("finite numbers"),
            Self::Moderate => write!(f, "numbers of at most {LARGEST:e}"),
            Self::Variance => write!(f, "variances of 0 to {LARGEST:e}"),
        }
    }
}

/// The tensors of a safetensors file whose header is no larger than any network's.
pub(crate) fn parse(bytes: &[u8]) -> Result<Tensors<'_>> {
    let header = bytes.first_chunk().map(|length| u64::from_le_bytes(*length));
    if header.is_none_or(|length| length > MAX_HEADER) {
        bail!("no header of a safetensors file")
    }
    let parsed = SafeTensors::deserialize(bytes);
    let parsed = parsed.map_err(|error| candle_core::Error::msg(format!("damaged: {error}")))?;
    Ok(parsed.tensors().into_iter().collect())
}

/// Refuses tensors that are not exactly those of `specs`.
pub(crate) fn check(tensors: &Tensors<'_>, specs: &[Spec]) -> Result<()> {
    for spec in specs {
        spec.check(tensors.get(&spec.name))?;
    }
    check_names(tensors.keys().map(String::as_str), specs)
}

/// Refuses tensors that the network does not have, because it would ignore them.
pub(crate) fn check_names<'a>(names: impl Iterator<Item = &'a str>, specs: &[Spec]) -> Result<()> {
    let known: HashSet<&str> = specs.iter().map(Spec::name).collect();
    // A counter tells how long a network was trained, and does not affect what it computes.
    let is_known = |name: &str| known.contains(name) || name.ends_with(".num_batches_tracked");
    match names.filter(|name| !is_known(name)).min() {
        Some(name) => bail!("tensor `{name}` is none of this network's"),
        None => Ok(()),
    }
}

/// Reads a weights file and checks it against what `describe` returns for it.
pub(super) fn read(
    path: &Path,
    describe: impl FnOnce(&Tensors<'_>) -> Vec<Spec>,
) -> Result<Vec<u8>> {
    let bytes = file::bytes(path, MAX_WEIGHTS)
        .map_err(|error| candle_core::Error::from(error).with_path(path))?;
    let checked = parse(&bytes).and_then(|tensors| check(&tensors, &describe(&tensors)));
    checked.map_err(|error| error.with_path(path))?;
    Ok(bytes)
}

/// Like [`read`], but as f32 variables on the CPU.
pub(super) fn variables(
    path: &Path,
    describe: impl FnOnce(&Tensors<'_>) -> Vec<Spec>,
) -> Result<VarBuilder<'static>> {
    VarBuilder::from_buffered_safetensors(read(path, describe)?, DType::F32, &Device::Cpu)
}

/// The elements of a tensor as networks compute with them; `None` if they are not floats.
fn numbers<'a>(view: &'a TensorView<'_>) -> Option<Box<dyn Iterator<Item = f32> + 'a>> {
    let data = view.data();
    let (pairs, quads) = (data.as_chunks::<2>().0.iter(), data.as_chunks::<4>().0.iter());
    let eights = data.as_chunks::<8>().0.iter();
    let dtype = view.dtype();
    Some(if dtype == Dtype::F16 {
        Box::new(pairs.map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()))
    } else if dtype == Dtype::BF16 {
        Box::new(pairs.map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()))
    } else if dtype == Dtype::F32 {
        Box::new(quads.map(|bytes| f32::from_le_bytes(*bytes)))
    } else if dtype == Dtype::F64 {
        Box::new(eights.map(|bytes| narrow(f64::from_le_bytes(*bytes))))
    } else {
        return None;
    })
}

fn numbers_at(view: &TensorView<'_>, at: usize) -> f32 {
    numbers(view).and_then(|mut numbers| numbers.nth(at)).unwrap_or(f32::NAN)
}

#[expect(clippy::cast_possible_truncation, reason = "networks compute in f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;

    fn specs() -> Vec<Spec> {
        vec![
            Spec::new("weight", &[2, 3], Values::Moderate),
            Spec::new("variance", &[2], Values::Variance),
        ]
    }

    fn outcome(tensors: &[(&str, Tensor)]) -> std::result::Result<(), String> {
        let bytes = safetensors::serialize(tensors.iter().cloned(), None).unwrap();
        let tensors = parse(&bytes).map_err(|error| error.to_string())?;
        check(&tensors, &specs()).map_err(|error| super::super::told(&error))
    }

    fn tensor(values: &[f64], shape: &[usize], dtype: DType) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    #[test]
    fn the_tensors_of_the_network_are_taken_in_every_float() {
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            let weight = tensor(&[1.0, -2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], dtype);
            let variance = tensor(&[0.0, 2.0], &[2], dtype);
            let counter = tensor(&[7.0], &[], DType::I64);
            let tensors =
                [("weight", weight), ("variance", variance), ("norm.num_batches_tracked", counter)];
            assert_eq!(outcome(&tensors), Ok(()), "{dtype:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_by_name_with_what_is_expected() {
        let weight = || tensor(&[1.0; 6], &[2, 3], DType::F32);
        let variance = || tensor(&[1.0; 2], &[2], DType::F32);
        let holding = |number: f64| tensor(&[1.0, number, 1.0, 1.0, 1.0, 1.0], &[2, 3], DType::F64);
        let transposed = tensor(&[1.0; 6], &[3, 2], DType::F32);
        let empty = tensor(&[], &[2, 0], DType::F32);
        let integers = tensor(&[1.0; 6], &[2, 3], DType::I64);
        let negative = tensor(&[1.0, -1.0], &[2], DType::F16);
        for (weight, variance, wanted) in [
            (transposed, variance(), "`weight` has shape [3, 2], expected [2, 3]"),
            (empty, variance(), "`weight` has shape [2, 0], expected [2, 3]"),
            (integers, variance(), "`weight` is of I64, expected F32"),
            (holding(f64::NAN), variance(), "`weight` holds NaN at element 1, expected numbers"),
            (holding(-1e300), variance(), "`weight` holds -inf at element 1"),
            (holding(2e15), variance(), "expected numbers of at most 1e15"),
            (weight(), negative, "`variance` holds -1 at element 1, expected variances"),
        ] {
            let error = outcome(&[("weight", weight), ("variance", variance)]).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        let error = outcome(&[("weight", weight())]).unwrap_err();
        assert!(error.contains("`variance` is missing, expected of shape [2]"), "{error}");
        let bias = ("bias", variance());
        let error = outcome(&[("weight", weight()), ("variance", variance()), bias]).unwrap_err();
        assert!(error.contains("`bias` is none of this network's"), "{error}");
    }

    #[test]
    fn what_the_system_says_of_a_file_stays_known() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(&folder.path().join("none"), |_| Vec::new()).unwrap_err();
        assert!(super::super::told(&error).starts_with("none: "), "{error}");
        let found = super::super::system_error(&error).unwrap();
        assert_eq!(found.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn headers_are_bounded_before_they_are_read() {
        let endless = [&(MAX_HEADER + 1).to_le_bytes()[..], b"{}"].concat();
        for bytes in [&b"PK"[..], b"{\"weight\": 1}", &endless] {
            assert!(parse(bytes).unwrap_err().to_string().contains("no header"));
        }
        let cut = [&3u64.to_le_bytes()[..], b"{}"].concat();
        assert!(parse(&cut).unwrap_err().to_string().contains("damaged"));
    }
}
