//! Weights of MobileNetV2 in the two layouts that are in use: torchvision's own, with a batch norm
//! beside every convolution, and the folded one, in which every convolution has a bias.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;

use super::{LayerSpec, blocks, head, stem};

/// Epsilon of torchvision's batch norm.
const EPSILON: f64 = 1e-5;

/// How a checkpoint stores a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Batch norm folded into weights and biases.
    Folded,
    /// Convolutions without bias, batch norm beside them, as torchvision saves them.
    Torchvision,
}

/// A convolution after folding.
#[derive(Debug, Clone)]
pub struct ConvWeights {
    /// `[outputs, inputs / groups, kernel, kernel]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Tensor,
}

/// The layout of a checkpoint, given a lookup of its tensors by name; `None` if it is not a
/// MobileNetV2 of width 1.0.
pub fn layout(has_tensor: impl Fn(&str) -> bool) -> Option<Layout> {
    let layers = every_layer();
    let classifier = ["classifier.1.weight", "classifier.1.bias"];
    let has_weights = layers.iter().all(|spec| has_tensor(&format!("{}.weight", spec.name)));
    if !has_weights || !classifier.into_iter().all(&has_tensor) {
        None
    } else if layers.iter().all(|spec| has_tensor(&format!("{}.bias", spec.name))) {
        Some(Layout::Folded)
    } else if layers.iter().all(|spec| has_tensor(&format!("{}.running_var", spec.norm))) {
        Some(Layout::Torchvision)
    } else {
        None
    }
}

/// Every convolution in the order of computation.
fn every_layer() -> Vec<LayerSpec> {
    let inner = blocks().into_iter().flat_map(|block| block.layers);
    std::iter::once(stem()).chain(inner).chain([head()]).collect()
}

/// Weight and bias of one convolution, whichever layout they are stored in.
pub fn conv_weights(vb: &VarBuilder, spec: &LayerSpec) -> Result<ConvWeights> {
    let conv = vb.pp(&spec.name);
    let weight = conv.get(spec.weight_shape(), "weight")?;
    if conv.contains_tensor("bias") {
        return Ok(ConvWeights { weight, bias: conv.get(spec.outputs, "bias")? });
    }
    fold(&weight, &vb.pp(&spec.norm), spec)
}

/// `gamma * (conv(x) - mean) / sqrt(var + eps) + beta` as one convolution, computed in f64.
fn fold(weight: &Tensor, norm: &VarBuilder, spec: &LayerSpec) -> Result<ConvWeights> {
    let dtype = weight.dtype();
    let vector = |name| norm.get(spec.outputs, name)?.to_dtype(DType::F64);
    let deviation = (vector("running_var")? + EPSILON)?.sqrt()?;
    let scale = (vector("weight")? / deviation)?;
    let bias = (vector("bias")? - (vector("running_mean")? * &scale)?)?;
    let scale = scale.reshape((spec.outputs, 1, 1, 1))?;
    let weight = weight.to_dtype(DType::F64)?.broadcast_mul(&scale)?;
    Ok(ConvWeights { weight: weight.to_dtype(dtype)?, bias: bias.to_dtype(dtype)? })
}
