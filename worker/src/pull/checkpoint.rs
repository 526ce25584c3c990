//! What a checkpoint file is, found out from its content and never from its name.

use crate::Error;
use crate::model::mobilenet_v2::{Layout, MobileNetV2, layout};
use crate::repository::{Architecture, Filter, Input, Manifest, Padding, Resize};
use candle_core::{DType, Device, Tensor, pickle, safetensors};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

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

/// As torchvision's weights want them.
const IMAGENET: Colours = Colours { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
const ZIP: &[u8] = b"PK\x03\x04";
/// Opcode and version of a pickle: how PyTorch saved before version 1.6.
const PICKLE: &[u8] = &[0x80, 0x02];
/// Input of the network, and the shorter side that it is cut from.
const SIDE: usize = 224;

impl Checkpoint {
    /// Reads a checkpoint and tries it.
    pub(super) fn read(file: &Path) -> Result<Self, Error> {
        let bytes = fs::read(file).map_err(Error::file(file))?;
        let (tensors, about, weights) = if bytes.starts_with(ZIP) {
            let tensors = state_dict(file)?;
            let weights = serialised(&tensors, file)?;
            (tensors, HashMap::new(), weights)
        } else if bytes.starts_with(PICKLE) {
            return Err(unusable(
                file,
                "saved by PyTorch before 1.6: save it again with torch.save",
            ));
        } else {
            let about = metadata(&bytes)
                .ok_or_else(|| unusable(file, "neither a PyTorch nor a safetensors file"))?;
            (safetensors::load_buffer(&bytes, &Device::Cpu)?, about, bytes)
        };
        let layout = layout(|name| tensors.contains_key(name))
            .ok_or_else(|| unusable(file, "not a MobileNetV2 of width 1.0"))?;
        let classes = tensors["classifier.1.bias"].elem_count();
        let padding = padding(&about).map_err(|reason| unusable(file, &reason))?;
        let colours = colours(&about).map_err(|reason| unusable(file, &reason))?;
        // Shapes are checked by loading.
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        MobileNetV2::load(&vb, padding)?;
        Ok(Self { weights, classes, layout, padding, colours })
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

fn unusable(file: &Path, reason: &str) -> Error {
    Error::Invalid(format!("{}: {reason}", file.display()))
}

/// The tensors of a PyTorch file, saved alone or under `state_dict`; counters are left out.
fn state_dict(file: &Path) -> Result<HashMap<String, Tensor>, Error> {
    let mut tensors = pickle::read_all(file)?;
    if tensors.is_empty() {
        tensors = pickle::read_all_with_key(file, Some("state_dict"))?;
    }
    tensors.retain(|(_, tensor)| tensor.dtype().is_float());
    // Training on several GPUs puts this before every name.
    let plain = |name: String| name.strip_prefix("module.").map_or(name.clone(), str::to_owned);
    Ok(tensors.into_iter().map(|(name, tensor)| (plain(name), tensor)).collect())
}

fn serialised(tensors: &HashMap<String, Tensor>, file: &Path) -> Result<Vec<u8>, Error> {
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    ::safetensors::serialize(views, None).map_err(|error| unusable(file, &error.to_string()))
}

/// The free text of a safetensors header; `None` for another kind of file.
fn metadata(bytes: &[u8]) -> Option<HashMap<String, String>> {
    let (_, header) = ::safetensors::SafeTensors::read_metadata(bytes).ok()?;
    Some(header.metadata().clone().unwrap_or_default())
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
