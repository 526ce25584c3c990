//! MobileNetV2 1.0 in plain candle: the reference that the fast path is held against, and the path
//! of devices that have no fast one.
//!
//! Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018. Blocks stand
//! in the order of the paper's table 2; names of the tensors are torchvision's. Batch norm must be
//! folded when the network is made, so that a forward pass is convolutions and nothing else, and
//! every activation is ReLU6: with ReLU the published weights are off by several logits.

mod layers;
mod weights;

pub use layers::{Block, LayerSpec, blocks, head, stem};
pub use weights::{ConvWeights, Layout, conv_weights, layout};

use super::Model;
use crate::engine;
use crate::repository::{Manifest, Padding};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Linear, Module, VarBuilder};
use std::path::Path;

/// Loads the network from the safetensors file `weights`, whatever its layout and precision.
pub fn load(
    weights: &Path,
    manifest: &Manifest,
    options: &engine::Options,
) -> Result<Box<dyn Model>> {
    Ok(Box::new(load_fused(weights, manifest, options)?))
}

/// As [`load`], by name.
pub fn load_fused(
    weights: &Path,
    manifest: &Manifest,
    options: &engine::Options,
) -> Result<engine::MobileNetV2> {
    let vb =
        VarBuilder::from_buffered_safetensors(std::fs::read(weights)?, DType::F32, &Device::Cpu)?;
    let size = manifest.input.as_ref().map_or((224, 224), |input| (input.height, input.width));
    engine::MobileNetV2::load(&vb, manifest.padding, size, options)
}

/// A loaded network.
#[derive(Debug, Clone)]
pub struct MobileNetV2 {
    stem: Conv,
    blocks: Vec<InvertedResidual>,
    head: Conv,
    classifier: Linear,
}

impl MobileNetV2 {
    /// Loads the weights in either layout that [`layout`] knows; the number of classes is theirs.
    pub fn load(vb: &VarBuilder, padding: Padding) -> Result<Self> {
        let conv = |spec: &LayerSpec| Conv::load(vb, spec, padding);
        let load_block = |block: &Block| {
            let convs = block.layers.iter().map(conv).collect::<Result<_>>()?;
            Ok(InvertedResidual { convs, has_skip: block.has_skip })
        };
        let weight = vb.get_unchecked("classifier.1.weight")?;
        let bias = vb.get_unchecked("classifier.1.bias")?;
        Ok(Self {
            stem: conv(&stem())?,
            blocks: blocks().iter().map(load_block).collect::<Result<_>>()?,
            head: conv(&head())?,
            classifier: Linear::new(weight, Some(bias)),
        })
    }
}

impl Model for MobileNetV2 {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        let mut x = self.stem.forward(batch)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let features = self.head.forward(&x)?.mean(D::Minus1)?.mean(D::Minus1)?;
        self.classifier.forward(&features)
    }
}

/// Expand, filter each channel by itself, project; the input is added where shapes allow.
#[derive(Debug, Clone)]
struct InvertedResidual {
    convs: Vec<Conv>,
    has_skip: bool,
}

impl InvertedResidual {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        for conv in &self.convs {
            y = conv.forward(&y)?;
        }
        if self.has_skip { x + y } else { Ok(y) }
    }
}

/// A convolution with batch norm folded in, and its activation.
#[derive(Debug, Clone)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
    spec: LayerSpec,
    padding: Padding,
}

impl Conv {
    fn load(vb: &VarBuilder, spec: &LayerSpec, padding: Padding) -> Result<Self> {
        let ConvWeights { weight, bias } = conv_weights(vb, spec)?;
        let bias = bias.reshape((1, spec.outputs, 1, 1))?;
        Ok(Self { weight, bias, spec: spec.clone(), padding })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let spec = &self.spec;
        let x = if spec.kernel == 1 { x.clone() } else { self.pad(x)? };
        let y = x.conv2d(&self.weight, 0, spec.stride, 1, spec.groups())?;
        let y = y.broadcast_add(&self.bias)?;
        if spec.has_relu6 { y.clamp(0f32, 6f32) } else { Ok(y) }
    }

    fn pad(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = x.dims4()?;
        let (top, bottom) = margins(height, &self.spec, self.padding);
        let (left, right) = margins(width, &self.spec, self.padding);
        x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)
    }
}

/// Zeros before and after `size` pixels.
fn margins(size: usize, spec: &LayerSpec, padding: Padding) -> (usize, usize) {
    match padding {
        Padding::Symmetric => (spec.kernel / 2, spec.kernel / 2),
        Padding::TfSame => {
            let outputs = size.div_ceil(spec.stride);
            let total = ((outputs - 1) * spec.stride + spec.kernel).saturating_sub(size);
            (total / 2, total - total / 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensorflow_pads_an_even_size_behind_and_an_odd_one_on_both_sides() {
        let strided = stem();
        assert_eq!(margins(224, &strided, Padding::TfSame), (0, 1));
        assert_eq!(margins(225, &strided, Padding::TfSame), (1, 1));
        assert_eq!(margins(224, &strided, Padding::Symmetric), (1, 1));
        let depthwise = &blocks()[0].layers[0];
        assert_eq!(margins(112, depthwise, Padding::TfSame), (1, 1));
    }
}
