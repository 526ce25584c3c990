//! What a checkpoint file contains, determined by its content and never by its name.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use safetensors::tensor::{SafeTensors, TensorView};

use super::pytorch::StateDict;
use crate::Error;
use crate::model::mobilenet_v2::{Layout, describe, layout};
use crate::model::weights::Spec;
use crate::model::{told, weights};
use crate::repository::{Architecture, Filter, Input, Manifest, Padding, Resize};

/// Weights that are known to load, and what their file said about them.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// The tensors as a safetensors file.
    pub(super) weights: Vec<u8>,
    /// Rows of the classifier.
    pub(super) classes: usize,
    layout: Layout,
    padding: Padding,
    colours: Colours,
}

/// Mean and deviation of each channel.
#[derive(Debug, Clone, Copy)]
struct Colours {
    mean: [f32; 3],
    std: [f32; 3],
}

/// As torchvision's weights expect them.
const IMAGENET: Colours = Colours { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
const ZIP: &[u8] = b"PK\x03\x04";
/// Opcode and version of a pickle, the format of PyTorch before version 1.6.
const PICKLE: &[u8] = &[0x80, 0x02];
const NO_NETWORK: &str = "not a MobileNetV2 of width 1.0";
/// Its length is the number of classes.
const BIAS: &str = "classifier.1.bias";
const MAX_CLASSES: usize = 32_768;
/// Side of the input of the network, in pixels.
const SIDE: usize = 224;

impl Checkpoint {
    /// Reads the bytes of a checkpoint, whatever they are.
    pub(super) fn read(bytes: Vec<u8>) -> Result<Self, Error> {
        // A library parses the zip archive, whatever bytes it consists of.
        let read = catch_unwind(AssertUnwindSafe(|| Self::take(bytes)));
        read.unwrap_or_else(|_| Err(unusable("its reader gave up on it")))
    }

    fn take(bytes: Vec<u8>) -> Result<Self, Error> {
        let bytes = if bytes.starts_with(ZIP) {
            from_pytorch(&bytes)?
        } else if bytes.starts_with(PICKLE) {
            return Err(unusable("saved by PyTorch before 1.6: save it again with torch.save"));
        } else {
            bytes
        };
        let tensors = weights::parse(&bytes).map_err(|error| {
            unusable(&format!("neither a PyTorch nor a safetensors file: {}", told(&error)))
        })?;
        let has = |name: &str| tensors.contains_key(name);
        let layout = layout(has).ok_or_else(|| unusable(NO_NETWORK))?;
        let classes = classes(tensors.get(BIAS).map(TensorView::shape))?;
        weights::check(&tensors, &describe(has, classes))?;
        let about = metadata(&bytes);
        let padding = padding(&about).map_err(|reason| unusable(&reason))?;
        let colours = colours(&about).map_err(|reason| unusable(&reason))?;
        Ok(Self { weights: bytes, classes, layout, padding, colours })
    }

    /// What to write into `model.toml`.
    ///
    /// Each family of weights is fed as it was evaluated: torchvision's second set resizes to 232,
    /// the TensorFlow network to 256.
    pub(super) fn manifest(&self) -> Result<Manifest, Error> {
        let shorter_side = match self.padding {
            Padding::Symmetric => 232,
            Padding::TfSame => 256,
        };
        let input = Input {
            width: SIDE,
            height: SIDE,
            resize: Resize::ShorterSide { shorter_side, filter: Filter::Bilinear },
            mean: self.colours.mean.to_vec(),
            std: self.colours.std.to_vec(),
        };
        let text = toml::to_string(&toml::Table::from_iter([
            ("architecture".to_owned(), toml_value(Architecture::MobilenetV2)?),
            ("padding".to_owned(), toml_value(self.padding)?),
            ("input".to_owned(), toml_value(input)?),
        ]))
        .map_err(|error| Error::Invalid(error.to_string()))?;
        Manifest::parse(&text).map_err(|error| Error::Invalid(error.to_string()))
    }

    pub(super) fn layout_name(&self) -> &'static str {
        match self.layout {
            Layout::Folded => "folded",
            Layout::Torchvision => "torchvision",
        }
    }

    pub(super) fn padding_name(&self) -> &'static str {
        match self.padding {
            Padding::Symmetric => "symmetric padding",
            Padding::TfSame => "TensorFlow padding",
        }
    }
}

fn toml_value(value: impl serde::Serialize) -> Result<toml::Value, Error> {
    toml::Value::try_from(value).map_err(|error| Error::Invalid(error.to_string()))
}

fn unusable(reason: &str) -> Error {
    Error::Invalid(reason.to_owned())
}

/// Number of classes of a network whose last bias has that shape.
fn classes(bias: Option<&[usize]>) -> Result<usize, Error> {
    match bias {
        Some(&[classes]) if (1..=MAX_CLASSES).contains(&classes) => Ok(classes),
        found => Err(unusable(&format!(
            "tensor `{BIAS}` has shape {:?}, expected one of 1 to {MAX_CLASSES} classes",
            found.unwrap_or_default()
        ))),
    }
}

/// The tensors of a PyTorch file, as a safetensors file.
fn from_pytorch(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let unreadable = |reason: String| unusable(&format!("this PyTorch file is not read: {reason}"));
    let found = StateDict::open(bytes).map_err(unreadable)?;
    let has = |name: &str| found.has(name);
    if layout(has).is_none() {
        return Err(unusable(NO_NETWORK));
    }
    let shape = |name: &str| found.get(name).map(|stored| stored.shape);
    let specs = describe(has, classes(shape(BIAS).as_deref())?);
    weights::check_names(found.names(), &specs)?;
    specs.iter().try_for_each(|spec| spec.check_shape(shape(spec.name()).as_deref()))?;
    found.serialise(specs.iter().map(Spec::name)).map_err(unreadable)
}

/// The free-form metadata of a safetensors header.
fn metadata(bytes: &[u8]) -> HashMap<String, String> {
    let header = SafeTensors::read_metadata(bytes).ok();
    header.and_then(|(_, header)| header.metadata().clone()).unwrap_or_default()
}

fn padding(about: &HashMap<String, String>) -> Result<Padding, String> {
    match about.get("padding").map(String::as_str) {
        None | Some("symmetric") => Ok(Padding::Symmetric),
        Some("tf_same") => Ok(Padding::TfSame),
        Some(other) => Err(format!("padding {other} is neither symmetric nor tf_same")),
    }
}

fn colours(about: &HashMap<String, String>) -> Result<Colours, String> {
    match (about.get("mean"), about.get("std")) {
        (Some(mean), Some(std)) => Ok(Colours { mean: triple(mean)?, std: triple(std)? }),
        _ => Ok(IMAGENET),
    }
}

fn triple(text: &str) -> Result<[f32; 3], String> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    numbers.ok().and_then(|numbers| numbers.try_into().ok()).ok_or(format!("{text}: not 3 numbers"))
}
