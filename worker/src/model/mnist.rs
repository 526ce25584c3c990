//! The digit network of `worker train mnist`: two convolutions and two dense layers.
//!
//! Batch norm exists only while training; it is folded into the convolutions when the weights are
//! written, so what is served is eight tensors. This is the reference that faster paths are
//! compared with.

use super::Model;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Linear, Module, VarBuilder};
use std::path::Path;

/// Kernel side of both convolutions; the padding keeps the image size.
const KERNEL: usize = 5;

/// Pixels of 28x28 to ten logits.
#[derive(Debug)]
pub struct MnistCnn {
    conv1: Conv2d,
    conv2: Conv2d,
    fc1: Linear,
    fc2: Linear,
}

/// Reads the weights file of a version and packs them for the fused kernels.
pub fn load(weights: &Path, options: &engine::Options) -> Result<Box<dyn Model>> {
    Ok(Box::new(load_fused(weights, options)?))
}

/// As [`load`], by name.
pub fn load_fused(weights: &Path, options: &engine::Options) -> Result<engine::MnistCnn> {
    let bytes = std::fs::read(weights)?;
    let tensors = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)?;
    engine::MnistCnn::load(&tensors, options)
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
