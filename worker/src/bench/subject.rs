//! The network to measure: a model from the repository, or the photo model with made-up weights if
//! the repository does not have it, so that the bench runs on every machine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use engine::Options;
use engine::device::Placement;

use super::Args;
use crate::Error;
use crate::model::{self, Model, Placed, mnist, mobilenet_v2};
use crate::repository::{Architecture, Padding, Version, scan};

/// A loaded network and the shape of its input.
pub(super) struct Subject {
    network: Network,
    row: Vec<usize>,
    pub(super) has_made_up_weights: bool,
}

/// Networks that report more than a [`Model`] does, and all the others.
enum Network {
    MobileNetV2(Box<engine::MobileNetV2>),
    Digits(Box<engine::MnistCnn>),
    Placed(Placed),
    Other(Box<dyn Model>),
}

/// Number of classes of the made-up weights.
const CLASSES: usize = 1000;
/// Rows and columns of the photo model's input, if there is no manifest.
const SIDE: usize = 224;
/// Operations of the digit network: two per multiply-add.
const DIGITS_FLOPS: f64 =
    2.0 * (28 * 28 * 32 * 25 + 14 * 14 * 64 * 32 * 25 + 3136 * 128 + 128 * 10) as f64;

impl Subject {
    /// Loads the model that the arguments name.
    pub(super) fn load(args: &Args, options: &Options) -> std::result::Result<Self, Error> {
        let Some(folder) = newest(&args.models, &args.model) else {
            if args.model == "mobilenet_v2" {
                return Ok(Self::made_up(options)?);
            }
            return Err(Error::NoModel(args.model.clone()));
        };
        let version = Version::read(&folder)?;
        let network = stored(&version, options)?;
        Ok(Self { network, row: version.row_shape(), has_made_up_weights: false })
    }

    fn made_up(options: &Options) -> Result<Self> {
        let vb = made_up_weights()?;
        let row = vec![3, SIDE, SIDE];
        if options.place != Placement::Cpu {
            let network = mobilenet_v2::MobileNetV2::load(&vb, Padding::TfSame)?;
            let network = Network::Placed(Placed::photo_model(&network, options)?);
            return Ok(Self { network, row, has_made_up_weights: true });
        }
        let network = engine::MobileNetV2::load(&vb, Padding::TfSame, (SIDE, SIDE), options)?;
        let network = Network::MobileNetV2(Box::new(network));
        Ok(Self { network, row, has_made_up_weights: true })
    }

    /// A batch of noise.
    pub(super) fn batch(&self, count: usize) -> Result<Tensor> {
        let mut shape = vec![count];
        shape.extend(&self.row);
        Tensor::rand(-1f32, 1f32, shape, &Device::Cpu)
    }

    /// One forward pass.
    pub(super) fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        match &self.network {
            Network::MobileNetV2(network) => network.forward(batch),
            Network::Digits(network) => network.forward(batch),
            Network::Placed(network) => network.forward(batch),
            Network::Other(network) => network.forward(batch),
        }
    }

    /// Names of the precision and the instruction set.
    pub(super) fn names(&self) -> (&'static str, &'static str) {
        match &self.network {
            Network::MobileNetV2(network) => network.names(),
            Network::Digits(network) => ("f32", network.isa().name()),
            Network::Placed(network) => (network.precision(), "cuda"),
            Network::Other(_) => ("f32", "candle"),
        }
    }

    /// Floating-point operations per image, if known.
    pub(super) fn flops(&self) -> Option<f64> {
        match (&self.network, &self.row[..]) {
            (Network::Other(_), _) => None,
            (_, &[3, height, width]) => Some(mobilenet_flops(height, width)),
            _ => Some(DIGITS_FLOPS),
        }
    }

    /// Stages and their times so far.
    pub(super) fn laps(&self) -> Vec<(String, Duration)> {
        match &self.network {
            Network::MobileNetV2(network) => {
                let laps = network.laps();
                let blocks = laps.len().saturating_sub(2);
                let name = |at: usize| match at.checked_sub(blocks) {
                    None if at == 0 => "stem and block 1".to_owned(),
                    None => format!("block {}", at + 1),
                    Some(0) => "head and mean".to_owned(),
                    Some(_) => "classifier".to_owned(),
                };
                laps.into_iter().enumerate().map(|(at, lap)| (name(at), lap)).collect()
            }
            Network::Digits(network) => {
                let names = ["convolution 1", "convolution 2", "dense 1", "dense 2"];
                names.map(str::to_owned).into_iter().zip(network.laps()).collect()
            }
            Network::Placed(_) | Network::Other(_) => Vec::new(),
        }
    }
}

/// The folder of the newest version of a model.
fn newest(root: &Path, model: &str) -> Option<PathBuf> {
    let mut found = scan(root).ok()?;
    let (_, version) = found.remove(model)?.versions.pop_last()?;
    Some(version.folder)
}

fn stored(version: &Version, options: &Options) -> Result<Network> {
    let architecture = version.manifest.architecture;
    if options.place != Placement::Cpu && architecture != Architecture::Linear {
        return Ok(Network::Placed(Placed::load(version, options)?));
    }
    Ok(match architecture {
        Architecture::MobilenetV2 => {
            Network::MobileNetV2(Box::new(mobilenet_v2::load_fused(version, options)?))
        }
        Architecture::MnistCnn => Network::Digits(Box::new(mnist::load_fused(version, options)?)),
        Architecture::Linear => Network::Other(model::load(version, options)?),
    })
}

/// Random weights in the shapes of the network, small enough for activations to stay finite.
fn made_up_weights() -> Result<VarBuilder<'static>> {
    let mut tensors = HashMap::new();
    let inner = mobilenet_v2::blocks().into_iter().flat_map(|block| block.layers);
    for spec in inner.chain([mobilenet_v2::stem(), mobilenet_v2::head()]) {
        let weight = Tensor::randn(0f32, 0.05, spec.weight_shape(), &Device::Cpu)?;
        tensors.insert(format!("{}.weight", spec.name), weight);
        let bias = Tensor::randn(0f32, 0.05, spec.outputs, &Device::Cpu)?;
        tensors.insert(format!("{}.bias", spec.name), bias);
    }
    let features = mobilenet_v2::head().outputs;
    let weight = Tensor::randn(0f32, 0.05, (CLASSES, features), &Device::Cpu)?;
    tensors.insert("classifier.1.weight".to_owned(), weight);
    let bias = Tensor::randn(0f32, 0.05, CLASSES, &Device::Cpu)?;
    tensors.insert("classifier.1.bias".to_owned(), bias);
    Ok(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
}

/// Operations of the photo network: two per multiply-add.
fn mobilenet_flops(height: usize, width: usize) -> f64 {
    let (mut height, mut width) = (height, width);
    let inner = mobilenet_v2::blocks().into_iter().flat_map(|block| block.layers);
    let convolutions = std::iter::once(mobilenet_v2::stem()).chain(inner);
    let multiplies = convolutions.chain([mobilenet_v2::head()]).map(|spec| {
        (height, width) = (height.div_ceil(spec.stride), width.div_ceil(spec.stride));
        let (outputs, inputs, rows, columns) = spec.weight_shape();
        height * width * outputs * inputs * rows * columns
    });
    let dense = mobilenet_v2::head().outputs * CLASSES;
    2.0 * (multiplies.sum::<usize>() + dense) as f64
}

#[cfg(test)]
mod tests {
    use super::mobilenet_flops;

    #[test]
    fn the_photo_model_makes_the_published_300_million_multiply_adds() {
        let multiplies = mobilenet_flops(224, 224) / 2.0;
        assert!((multiplies / 1e6 - 300.8).abs() < 1.0, "{multiplies}");
    }
}
