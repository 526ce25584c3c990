//! The layers of MobileNetV2 1.0 with their names and shapes, defined once for the reference, the
//! fast path and the check of downloaded weights.

/// One convolution of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSpec {
    /// Name of the convolution in a checkpoint, without `.weight`.
    pub name: String,
    /// Name of its batch norm in torchvision's layout.
    pub norm: String,
    /// Channels that it reads.
    pub inputs: usize,
    /// Channels that it writes.
    pub outputs: usize,
    /// Rows and columns of the kernel, 1 or 3.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// One filter per channel, instead of filters that combine all channels.
    pub is_depthwise: bool,
    /// Followed by ReLU6; projections are linear.
    pub has_relu6: bool,
}

impl LayerSpec {
    /// Independent groups of channels.
    pub fn groups(&self) -> usize {
        if self.is_depthwise { self.inputs } else { 1 }
    }

    /// Shape of the weight: outputs, inputs of one group, rows, columns.
    pub fn weight_shape(&self) -> (usize, usize, usize, usize) {
        (self.outputs, self.inputs / self.groups(), self.kernel, self.kernel)
    }

    fn pointwise(name: String, norm: String, inputs: usize, outputs: usize) -> Self {
        let is_depthwise = false;
        Self { name, norm, inputs, outputs, kernel: 1, stride: 1, is_depthwise, has_relu6: true }
    }
}

/// An inverted residual: expansion (not in the first), depthwise, projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Two or three convolutions.
    pub layers: Vec<LayerSpec>,
    /// The input of the block is added to its output.
    pub has_skip: bool,
}

/// Consecutive blocks of one width: a row of table 2 of the paper.
struct Stage {
    expansion: usize,
    outputs: usize,
    repeats: usize,
    first_stride: usize,
}

const STAGES: [Stage; 7] = [
    Stage { expansion: 1, outputs: 16, repeats: 1, first_stride: 1 },
    Stage { expansion: 6, outputs: 24, repeats: 2, first_stride: 2 },
    Stage { expansion: 6, outputs: 32, repeats: 3, first_stride: 2 },
    Stage { expansion: 6, outputs: 64, repeats: 4, first_stride: 2 },
    Stage { expansion: 6, outputs: 96, repeats: 3, first_stride: 1 },
    Stage { expansion: 6, outputs: 160, repeats: 3, first_stride: 2 },
    Stage { expansion: 6, outputs: 320, repeats: 1, first_stride: 1 },
];

const STEM_CHANNELS: usize = width(32);
const HEAD_CHANNELS: usize = width(1280);

/// A quarter of the channels under Miri, which interprets every step. Every layer and every path
/// through it remains, but a pass takes minutes instead of hours.
const fn width(channels: usize) -> usize {
    if cfg!(miri) { channels / 4 } else { channels }
}

/// The first convolution: colours to 32 channels at half the resolution.
pub fn stem() -> LayerSpec {
    LayerSpec {
        name: "features.0.0".to_owned(),
        norm: "features.0.1".to_owned(),
        inputs: 3,
        outputs: STEM_CHANNELS,
        kernel: 3,
        stride: 2,
        is_depthwise: false,
        has_relu6: true,
    }
}

/// The 17 inverted residuals.
pub fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut inputs = STEM_CHANNELS;
    for stage in STAGES {
        let outputs = width(stage.outputs);
        for repeat in 0..stage.repeats {
            let stride = if repeat == 0 { stage.first_stride } else { 1 };
            let channels = [inputs, inputs * stage.expansion, outputs];
            blocks.push(block(blocks.len() + 1, channels, stride));
            inputs = outputs;
        }
    }
    blocks
}

/// The last convolution, before the mean and the classifier.
pub fn head() -> LayerSpec {
    let inputs = width(STAGES[STAGES.len() - 1].outputs);
    let (name, norm) = ("features.18.0".to_owned(), "features.18.1".to_owned());
    LayerSpec::pointwise(name, norm, inputs, HEAD_CHANNELS)
}

fn block(number: usize, channels: [usize; 3], stride: usize) -> Block {
    let [inputs, hidden, outputs] = channels;
    let prefix = format!("features.{number}.conv");
    let mut layers = Vec::new();
    if hidden != inputs {
        let (name, norm) = (format!("{prefix}.0.0"), format!("{prefix}.0.1"));
        layers.push(LayerSpec::pointwise(name, norm, inputs, hidden));
    }
    let at = layers.len();
    layers.push(LayerSpec {
        name: format!("{prefix}.{at}.0"),
        norm: format!("{prefix}.{at}.1"),
        inputs: hidden,
        outputs: hidden,
        kernel: 3,
        stride,
        is_depthwise: true,
        has_relu6: true,
    });
    let (name, norm) = (format!("{prefix}.{}", at + 1), format!("{prefix}.{}", at + 2));
    let projection = LayerSpec::pointwise(name, norm, hidden, outputs);
    layers.push(LayerSpec { has_relu6: false, ..projection });
    Block { layers, has_skip: stride == 1 && inputs == outputs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_where_the_paper_has_them() {
        let skips: Vec<usize> =
            (1..).zip(blocks()).filter(|(_, b)| b.has_skip).map(|(i, _)| i).collect();
        assert_eq!(skips, [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "of the whole width")]
    fn the_layers_have_the_published_number_of_parameters() {
        let all = blocks().into_iter().flat_map(|block| block.layers).chain([stem(), head()]);
        let convolutions: usize = all
            .map(|layer| {
                let (outputs, inputs, rows, columns) = layer.weight_shape();
                outputs * inputs * rows * columns + outputs
            })
            .sum();
        assert_eq!(convolutions + (HEAD_CHANNELS + 1) * 1000, 3_487_816);
    }
}
