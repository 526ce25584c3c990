//! The digit network of `worker train mnist`: two convolutions and two dense layers.
//!
//! Batch norm exists only while training; it is folded into the convolutions when the weights are
//! written, so what is served is eight tensors. This is the reference that faster paths are
//! compared with.

use candle_core::{Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Linear, Module, VarBuilder};

use super::Model;
use super::weights::{self, Spec, Tensors, Values};
use crate::repository::Version;

/// Kernel side of both convolutions; the padding keeps the image size.
const KERNEL: usize = 5;

/// From 28x28 pixels to ten logits.
#[derive(Debug)]
pub struct MnistCnn {
    conv1: Conv2d,
    conv2: Conv2d,
    fc1: Linear,
    fc2: Linear,
}

/// Name and shape of a tensor.
type Named = (&'static str, &'static [usize]);

/// The tensors that `worker train mnist` writes.
const TENSORS: [Named; 8] = [
    ("conv1.weight", &[32, 1, KERNEL, KERNEL]),
    ("conv1.bias", &[32]),
    ("conv2.weight", &[64, 32, KERNEL, KERNEL]),
    ("conv2.bias", &[64]),
    ("fc1.weight", &[128, 64 * 7 * 7]),
    ("fc1.bias", &[128]),
    ("fc2.weight", &[10, 128]),
    ("fc2.bias", &[10]),
];

/// Reads the weights file of a version and packs them for the fused kernels.
pub fn load(version: &Version, options: &engine::Options) -> Result<Box<dyn Model>> {
    Ok(Box::new(load_fused(version, options)?))
}

/// Like [`load`], but returns the network's own type.
pub fn load_fused(version: &Version, options: &engine::Options) -> Result<engine::MnistCnn> {
    engine::MnistCnn::load(&weights::variables(&version.weights(), describe)?, options)
}

/// What a weights file must contain.
pub(super) fn describe(_: &Tensors<'_>) -> Vec<Spec> {
    TENSORS.iter().map(|(name, shape)| Spec::new(*name, shape, Values::Moderate)).collect()
}

impl Model for engine::MnistCnn {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        Self::forward(self, batch)
    }
}

impl MnistCnn {
    /// Takes its tensors by name; a missing one or a wrong shape is an error.
    pub fn new(tensors: &VarBuilder<'_>) -> Result<Self> {
        let same = Conv2dConfig { padding: KERNEL / 2, ..Conv2dConfig::default() };
        Ok(Self {
            conv1: candle_nn::conv2d(1, 32, KERNEL, same, tensors.pp("conv1"))?,
            conv2: candle_nn::conv2d(32, 64, KERNEL, same, tensors.pp("conv2"))?,
            fc1: candle_nn::linear(64 * 7 * 7, 128, tensors.pp("fc1"))?,
            fc2: candle_nn::linear(128, 10, tensors.pp("fc2"))?,
        })
    }
}

impl Model for MnistCnn {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        let half = self.conv1.forward(batch)?.relu()?.max_pool2d(2)?;
        let quarter = self.conv2.forward(&half)?.relu()?.max_pool2d(2)?;
        let features = self.fc1.forward(&quarter.flatten_from(1)?)?.relu()?;
        self.fc2.forward(&features)
    }
}
