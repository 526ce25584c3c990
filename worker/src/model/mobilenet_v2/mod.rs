//! MobileNetV2 1.0 in plain candle: the reference that the fast path is compared with, and the path
//! for devices without a fast one.
//!
//! Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018. Blocks are
//! in the order of the paper's table 2; tensor names are torchvision's. Batch norm must be folded
//! when the network is built, so that a forward pass is nothing but convolutions, and every
//! activation is ReLU6: with ReLU the published weights are off by several logits.

mod tensors;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Linear, Module, VarBuilder};
pub use engine::description::{
    Block, ConvWeights, LayerSpec, Layout, blocks, conv_weights, head, layout, stem,
};
pub(crate) use tensors::describe;

use super::Model;
use crate::repository::{Padding, Version};

/// Loads the network of a version, whatever the layout and precision of its weights.
pub fn load(version: &Version, options: &engine::Options) -> Result<Box<dyn Model>> {
    Ok(Box::new(load_fused(version, options)?))
}

/// Like [`load`], but returns the network's own type.
pub fn load_fused(version: &Version, options: &engine::Options) -> Result<engine::MobileNetV2> {
    let vb = variables(version)?;
    let manifest = &version.manifest;
    let size = manifest.input.as_ref().map_or((224, 224), |input| (input.height, input.width));
    engine::MobileNetV2::load(&vb, manifest.padding, size, options)
}

impl Model for engine::MobileNetV2 {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        Self::forward(self, batch)
    }
}

/// The checked weights of a version.
pub(super) fn variables(version: &Version) -> Result<VarBuilder<'static>> {
    let classes = version.output_width();
    super::weights::variables(&version.weights(), |tensors| {
        describe(|name| tensors.contains_key(name), classes)
    })
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
    /// Loads the weights in either layout that [`layout`] knows; they set the number of classes.
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

impl MobileNetV2 {
    /// The same network on another device, in another precision, as suits a GPU.
    pub fn to(&self, device: &Device, dtype: DType) -> Result<Self> {
        let place = |tensor: &Tensor| tensor.to_dtype(dtype)?.to_device(device);
        let conv = |conv: &Conv| conv.placed(place);
        let block = |block: &InvertedResidual| {
            let convs = block.convs.iter().map(conv).collect::<Result<_>>()?;
            Ok(InvertedResidual { convs, has_skip: block.has_skip })
        };
        let bias = self.classifier.bias().map(place).transpose()?;
        Ok(Self {
            stem: conv(&self.stem)?,
            blocks: self.blocks.iter().map(block).collect::<Result<_>>()?,
            head: conv(&self.head)?,
            classifier: Linear::new(place(self.classifier.weight())?, bias),
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
    /// The ceiling of ReLU6, on the device: a number would be copied there in every pass.
    ceiling: Tensor,
    spec: LayerSpec,
    padding: Padding,
    /// Uses [`depthwise`]: candle runs one convolution per group, a thousand tiny kernels.
    is_shifted: bool,
}

impl Conv {
    fn load(vb: &VarBuilder, spec: &LayerSpec, padding: Padding) -> Result<Self> {
        let ConvWeights { weight, bias } = conv_weights(vb, spec)?;
        let bias = bias.reshape((1, spec.outputs, 1, 1))?;
        let ceiling = Tensor::new(6f32, weight.device())?;
        Ok(Self { weight, bias, ceiling, spec: spec.clone(), padding, is_shifted: false })
    }

    fn placed(&self, place: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let (weight, bias) = (place(&self.weight)?, place(&self.bias)?);
        let (ceiling, is_shifted) = (place(&self.ceiling)?, self.spec.is_depthwise);
        let (spec, padding) = (self.spec.clone(), self.padding);
        Ok(Self { weight, bias, ceiling, spec, padding, is_shifted })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let spec = &self.spec;
        let x = if spec.kernel == 1 { x.clone() } else { self.pad(x)? };
        let y = if self.is_shifted {
            depthwise(&x, &self.weight, spec.stride)?
        } else {
            x.conv2d(&self.weight, 0, spec.stride, 1, spec.groups())?
        };
        let y = y.broadcast_add(&self.bias)?;
        if spec.has_relu6 { y.relu()?.broadcast_minimum(&self.ceiling) } else { Ok(y) }
    }

    fn pad(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = x.dims4()?;
        let (top, bottom) = margins(height, &self.spec, self.padding);
        let (left, right) = margins(width, &self.spec, self.padding);
        x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)
    }
}

/// A padded image filtered channel by channel: the sum of its shifted copies, each times one weight.
fn depthwise(x: &Tensor, weight: &Tensor, stride: usize) -> Result<Tensor> {
    let (count, channels, height, width) = x.dims4()?;
    let (_, _, kernel, _) = weight.dims4()?;
    let outputs = |size: usize| (size - kernel) / stride + 1;
    let (rows, columns) = (outputs(height), outputs(width));
    // Pixels a stride apart become adjacent once a row is viewed as rows of `stride` pixels.
    let whole = |size: usize| size.next_multiple_of(stride);
    let x = x.pad_with_zeros(2, 0, whole(height) - height)?;
    let x = x.pad_with_zeros(3, 0, whole(width) - width)?;
    let grid = vec![count, channels, whole(height) / stride, stride, whole(width) / stride, stride];
    let x = x.contiguous()?.reshape(grid)?;
    let mut sum: Option<Tensor> = None;
    for (top, left) in (0..kernel * kernel).map(|at| (at / kernel, at % kernel)) {
        let part = x.narrow(3, top % stride, 1)?.narrow(5, left % stride, 1)?;
        let part = part.narrow(2, top / stride, rows)?.narrow(4, left / stride, columns)?;
        let factor = weight.narrow(2, top, 1)?.narrow(3, left, 1)?;
        let part = part.broadcast_mul(&factor.reshape((1, channels, 1, 1, 1, 1))?)?;
        sum = Some(match sum {
            Some(sum) => (sum + part)?,
            None => part,
        });
    }
    let sum = sum.ok_or_else(|| candle_core::Error::msg("a kernel has at least one weight"))?;
    sum.reshape((count, channels, rows, columns))
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
    fn shifted_copies_add_up_to_the_convolution_by_groups() {
        for (height, width, stride) in [(9, 7, 1), (9, 7, 2), (8, 10, 2), (3, 3, 1), (4, 3, 2)] {
            let x = Tensor::randn(0f32, 1.0, (2, 5, height, width), &Device::Cpu).unwrap();
            let weight = Tensor::randn(0f32, 1.0, (5, 1, 3, 3), &Device::Cpu).unwrap();
            let wanted = x.conv2d(&weight, 0, stride, 1, 5).unwrap();
            let found = depthwise(&x, &weight, stride).unwrap();
            assert_eq!(found.dims(), wanted.dims(), "{height}x{width} by {stride}");
            let difference = (found - wanted).unwrap().abs().unwrap().max_all().unwrap();
            let difference = difference.to_scalar::<f32>().unwrap();
            assert!(difference < 1e-5, "{height}x{width} by {stride}: {difference}");
        }
    }

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
