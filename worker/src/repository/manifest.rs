//! `model.toml`: what a version needs to be loaded and fed.
//!
//! The file is the only place that knows how pixels become numbers, so a new set of weights needs
//! no code. [`Manifest::parse`] checks everything that could fail later.

use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// A checked `model.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The network the weights belong to.
    pub architecture: Architecture,
    /// Weights file beside the manifest.
    #[serde(default = "default_weights")]
    pub weights: String,
    /// Labels file beside the manifest: line k+1 names class k.
    #[serde(default = "default_labels")]
    pub labels: String,
    /// Where a 3x3 convolution of stride 2 puts its padding.
    #[serde(default)]
    pub padding: Padding,
    /// The most images in one forward pass.
    #[serde(default = "default_max_batch_size")]
    pub max_batch_size: NonZeroUsize,
    /// How an image becomes the input tensor.
    pub input: Input,
}

/// Networks that this worker can compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// MobileNetV2 with width multiplier 1.0 (Sandler et al., 2018).
    MobilenetV2,
    /// The digit network of `worker train mnist`.
    MnistCnn,
}

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

/// From pixels to the input tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// How the image is brought to that size, as `resize = { mode = "squash", filter = "bicubic" }`.
    pub resize: Resize,
    /// Subtracted from each channel after scaling to 0..1; its length is the number of channels.
    pub mean: Vec<f32>,
    /// Divides each channel after the mean is subtracted.
    pub std: Vec<f32>,
}

/// How an image is brought to the input size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Resize {
    /// Both sides scaled to the input size; the aspect ratio is lost.
    Squash {
        /// Interpolation.
        filter: Filter,
    },
    /// The shorter side scaled to `shorter_side`, then the centre cut out.
    ShorterSide {
        /// Length of the shorter side before the cut.
        shorter_side: usize,
        /// Interpolation.
        filter: Filter,
    },
    /// The handwritten digit found, cut out and centred as MNIST was made.
    Digit,
}

/// Interpolation; both widen with the scale when shrinking (anti-aliasing), as Pillow does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Triangle.
    Bilinear,
    /// Catmull-Rom with a = -0.5.
    Bicubic,
}

/// What is wrong with a `model.toml`.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML, a missing or unknown key, or a value of the wrong kind.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// Well-formed but impossible.
    #[error("{key}: {rule}")]
    Invalid {
        /// The offending key.
        key: &'static str,
        /// The rule it breaks.
        rule: &'static str,
    },
}

fn default_weights() -> String {
    "weights.safetensors".to_owned()
}

fn default_labels() -> String {
    "labels.txt".to_owned()
}

fn default_max_batch_size() -> NonZeroUsize {
    NonZeroUsize::new(16).expect("16 is not zero")
}
