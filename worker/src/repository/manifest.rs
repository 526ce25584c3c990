//! `model.toml`: what a version needs to be loaded and fed.
//!
//! The file is the only place that knows how pixels become numbers, so a new set of weights needs
//! no code. [`Manifest::parse`] checks everything that could fail later.

use std::num::NonZeroUsize;
use std::time::Duration;

pub use engine::description::Padding;
use serde::{Deserialize, Serialize};

use super::Table;

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
    /// The most images, or rows of a table, in one forward pass.
    #[serde(default = "default_max_batch_size")]
    pub max_batch_size: NonZeroUsize,
    /// How long the first one of a batch waits for others; zero takes what is queued.
    #[serde(default, with = "humantime_serde")]
    pub max_queue_delay: Duration,
    /// The most images, or rows of a table, that wait; further requests are refused.
    #[serde(default = "default_queue_capacity")]
    pub queue_capacity: NonZeroUsize,
    /// How an image becomes the input tensor; image models only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
    /// How a row of named columns becomes the input tensor; tabular models only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
}

/// What a model takes as input, borrowed from its manifest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Features<'a> {
    /// Images, prepared as `[input]` says.
    Image(&'a Input),
    /// Rows of named columns.
    Table(&'a Table),
}

impl Manifest {
    /// Reads and checks the text of a `model.toml`.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// What the model takes as input.
    pub fn features(&self) -> Features<'_> {
        match (&self.input, &self.table) {
            (Some(input), _) => Features::Image(input),
            (None, Some(table)) => Features::Table(table),
            (None, None) => unreachable!("parse() refuses a manifest without both"),
        }
    }

    fn check(&self) -> Result<(), ManifestError> {
        let invalid = |key, rule| Err(ManifestError::Invalid { key, rule });
        for (key, name) in [("weights", &self.weights), ("labels", &self.labels)] {
            let is_plain =
                !name.contains(['/', '\\', '\0']) && !matches!(name.as_str(), "." | "..");
            if name.is_empty() || name.len() > MAX_FILE_NAME || !is_plain {
                return invalid(key, "must be the name of a file beside model.toml");
            }
        }
        if self.max_batch_size.get() > MAX_BATCH_SIZE {
            return invalid("max_batch_size", "must be at most 1024");
        }
        if self.queue_capacity.get() > MAX_QUEUE_CAPACITY {
            return invalid("queue_capacity", "must be at most 65536");
        }
        if self.max_queue_delay > MAX_QUEUE_DELAY {
            return invalid("max_queue_delay", "must be at most 10s");
        }
        match (&self.input, &self.table) {
            (Some(input), None) => input.check()?,
            (None, Some(table)) => table.check()?,
            _ => return invalid("input", "either [input] or [table] is needed, not both"),
        }
        self.check_architecture()
    }

    /// Refuses an input that the network cannot use.
    fn check_architecture(&self) -> Result<(), ManifestError> {
        let invalid = |key, rule| Err(ManifestError::Invalid { key, rule });
        match (self.architecture, &self.input) {
            (Architecture::MobilenetV2, Some(input)) if input.channels() == 3 => Ok(()),
            (Architecture::MobilenetV2, _) => invalid("input", "mobilenet_v2 takes three colours"),
            (Architecture::MnistCnn, Some(input))
                if (input.width, input.height, input.channels()) == (28, 28, 1) =>
            {
                Ok(())
            }
            (Architecture::MnistCnn, _) => invalid("input", "mnist_cnn takes 28x28 grey pixels"),
            (Architecture::Linear, None) => Ok(()),
            (Architecture::Linear, Some(_)) => invalid("table", "linear takes a table"),
        }
    }
}

impl Input {
    /// Colour channels: 1 or 3.
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    fn check(&self) -> Result<(), ManifestError> {
        let invalid = |key, rule| Err(ManifestError::Invalid { key, rule });
        let fits = |side: usize| (1..=MAX_SIDE).contains(&side);
        if !fits(self.width) || !fits(self.height) {
            return invalid("input.width", "width and height must be 1 to 2048");
        }
        if !matches!(self.channels(), 1 | 3) {
            return invalid("input.mean", "must have one value a channel, 1 or 3");
        }
        if self.std.len() != self.mean.len() {
            return invalid("input.std", "must have as many values as mean");
        }
        if !self.mean.iter().all(|mean| mean.abs() <= MAX_SCALE) {
            return invalid("input.mean", "must be -1000 to 1000");
        }
        if !self.std.iter().all(|std| (MIN_STD..=MAX_SCALE).contains(std)) {
            return invalid("input.std", "must be 0.001 to 1000");
        }
        if let Resize::ShorterSide { shorter_side, .. } = self.resize
            && (shorter_side < self.width.max(self.height) || !fits(shorter_side))
        {
            return invalid("input.resize", "shorter_side must hold the crop, and be at most 2048");
        }
        Ok(())
    }
}

const MAX_BATCH_SIZE: usize = 1024;
const MAX_QUEUE_CAPACITY: usize = 65_536;
const MAX_QUEUE_DELAY: Duration = Duration::from_secs(10);
const MAX_SIDE: usize = 2048;
const MAX_FILE_NAME: usize = 255;
/// Pixels are 0 to 1 before they are scaled.
const MAX_SCALE: f32 = 1000.0;
const MIN_STD: f32 = 0.001;

/// Networks that this worker can compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// MobileNetV2 with width multiplier 1.0 (Sandler et al., 2018).
    MobilenetV2,
    /// The digit network of `worker train mnist`.
    MnistCnn,
    /// One linear layer over a table: logistic or linear regression.
    Linear,
}

/// From pixels to the input tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Width of the input in pixels.
    pub width: usize,
    /// Height of the input in pixels.
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
        /// How pixels are interpolated.
        filter: Filter,
    },
    /// The shorter side scaled to `shorter_side`, then the centre cut out.
    ShorterSide {
        /// Length of the shorter side before the cut.
        shorter_side: usize,
        /// How pixels are interpolated.
        filter: Filter,
    },
    /// The handwritten digit found, cut out and centred as MNIST was made.
    Digit,
}

/// Interpolation; both widen with the scale when shrinking (anti-aliasing), as Pillow does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Linear interpolation (a triangle filter).
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

fn default_queue_capacity() -> NonZeroUsize {
    NonZeroUsize::new(256).expect("256 is not zero")
}

fn default_max_batch_size() -> NonZeroUsize {
    NonZeroUsize::new(16).expect("16 is not zero")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Features, Manifest};

    const DIGITS: &str = "architecture = 'mnist_cnn'
        [input]
        width = 28
        height = 28
        resize = { mode = 'digit' }
        mean = [0.1307]
        std = [0.3081]";

    const IRIS: &str = "architecture = 'linear'
        max_queue_delay = '2ms'
        [table]
        label = 'species'
        task = 'classification'
        columns = [{ name = 'sepal_length', type = 'number', mean = 5.8, std = 0.8 }]";

    #[test]
    fn an_image_model_and_a_tabular_model_parse() {
        let digits = Manifest::parse(DIGITS).unwrap();
        assert!(matches!(digits.features(), Features::Image(input) if input.channels() == 1));
        let iris = Manifest::parse(IRIS).unwrap();
        assert!(matches!(iris.features(), Features::Table(table) if table.width() == 1));
        assert_eq!(iris.max_queue_delay.as_millis(), 2);
    }

    #[test]
    fn a_written_manifest_reads_back_equal() {
        for text in [DIGITS, IRIS] {
            let manifest = Manifest::parse(text).unwrap();
            let written = toml::to_string(&manifest).unwrap();
            assert_eq!(Manifest::parse(&written).unwrap(), manifest, "{written}");
        }
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (from, to, key) in [
            ("std = [0.3081]", "std = [0.0]", "input.std"),
            ("std = [0.3081]", "std = [1e-40]", "input.std"),
            ("std = [0.3081]", "std = [nan]", "input.std"),
            ("std = [0.3081]", "std = [0.3, 0.3]", "input.std"),
            ("mean = [0.1307]", "mean = [1e30]", "input.mean"),
            ("width = 28", "width = 2048", "input"),
            ("[input]", "weights = '.'\n[input]", "weights"),
            ("[input]", "labels = \"a\\u0000b\"\n[input]", "labels"),
            ("'mnist_cnn'", "'mobilenet_v2'", "input"),
            ("'mnist_cnn'", "'linear'", "table"),
            ("width = 28", "width = 0", "input.width"),
            ("mean = [0.1307]", "mean = [nan]", "input.mean"),
            ("[input]", "weights = '../x'\n[input]", "weights"),
            ("[input]", "max_batch_size = 100000\n[input]", "max_batch_size"),
            (
                "mode = 'digit'",
                "mode = 'shorter_side', shorter_side = 9, filter = 'bilinear'",
                "input.resize",
            ),
        ] {
            let text = DIGITS.replace(from, to);
            let error = Manifest::parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(key), "{text}: {error}");
        }
        assert!(Manifest::parse("architecture = 'linear'").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(?s).{0,200}", cut in 0usize..200) {
            let _parsed = Manifest::parse(&text);
            let _cut = Manifest::parse(&DIGITS[..cut.min(DIGITS.len())]);
        }
    }
}
