//! MobileNetV2 1.0 as published: its layers, the tensors that hold their weights, and the two ways
//! to pad. The fused plans, the plain reference and the check of downloaded weights all read it
//! from here.

mod layers;
mod weights;

pub use layers::{Block, LayerSpec, blocks, head, stem};
use serde::{Deserialize, Serialize};
pub use weights::{ConvWeights, Layout, conv_weights, layout};

/// Padding of strided convolutions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// One pixel on every side, as PyTorch pads.
    #[default]
    Symmetric,
    /// TensorFlow's `SAME`: one pixel at the right and the bottom only when the size is even.
    TfSame,
}
