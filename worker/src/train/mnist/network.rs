//! The network during training: its parameters, one gradient, and its logits.
//!
//! Parameters live in one flat vector, so that the optimiser, the average and a checkpoint are
//! loops over a slice and nothing can be forgotten; [`Layers`] are cut from it for each step.
//! Channels are last and weights are `[inputs, outputs]` here; [`super::export`] turns them into
//! the layout that is served.

use candle_core::{Device, Result, Tensor};
use candle_nn::ops::log_softmax;
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use super::{
    conv::{self, read},
    dataset::{CLASSES, PIXELS, SIDE},
    norm_pool::{NormPool, Statistics},
};

/// Channels of the two convolutions and width of the hidden dense layer.
pub(super) const CHANNELS: [usize; 2] = [32, 64];
/// Inputs of the first dense layer.
pub(super) const FEATURES: usize = (SIDE / 4) * (SIDE / 4) * CHANNELS[1];
/// Outputs of the first dense layer.
pub(super) const HIDDEN: usize = 128;

/// A name with a shape.
type Parameter = (&'static str, &'static [usize]);

/// Each parameter with its shape, in the order of the flat vector.
pub(super) const PARAMETERS: [Parameter; 10] = [
    ("conv1", &[25, CHANNELS[0]]),
    ("gamma1", &[CHANNELS[0]]),
    ("beta1", &[CHANNELS[0]]),
    ("conv2", &[25 * CHANNELS[0], CHANNELS[1]]),
    ("gamma2", &[CHANNELS[1]]),
    ("beta2", &[CHANNELS[1]]),
    ("fc1", &[FEATURES, HIDDEN]),
    ("fc1_bias", &[HIDDEN]),
    ("fc2", &[HIDDEN, CLASSES]),
    ("fc2_bias", &[CLASSES]),
];

/// Everything that the network has learnt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weights {
    /// The values of [`PARAMETERS`], in sequence.
    pub parameters: Vec<f32>,
    /// Mean and variance of the first norm, then of the second.
    pub statistics: Vec<f32>,
}

/// The inputs of a micro-batch of training images.
#[derive(Debug)]
pub(super) struct MicroBatch {
    /// Normalised pixels, `images * 784`.
    pub pixels: Vec<f32>,
    /// The digit that each image shows.
    pub labels: Vec<usize>,
    /// Dropout factors of the hidden units, `images * HIDDEN`.
    pub mask: Vec<f32>,
    /// Share of the target spread over all digits (Szegedy et al., 2016).
    pub smoothing: f32,
}

/// The result of a micro-batch.
#[derive(Debug)]
pub(super) struct Gradient {
    /// Gradient of the summed loss, laid out as [`Weights::parameters`].
    pub parameters: Vec<f32>,
    /// Statistics of this micro-batch, laid out as [`Weights::statistics`].
    pub statistics: Vec<f32>,
    /// Loss, summed over the images.
    pub loss: f64,
    /// Images whose largest logit is the right one.
    pub correct: usize,
}

impl Weights {
    /// Random weights after He et al. (2015).
    pub(super) fn random<R: Rng>(rng: &mut R) -> Self {
        let mut parameters = Vec::new();
        for (name, shape) in PARAMETERS {
            let count = size(shape);
            if shape.len() == 2 {
                let deviation = (2.0 / shape[0] as f32).sqrt();
                parameters
                    .extend((0..count).map(|_| rng.sample::<f32, _>(StandardNormal) * deviation));
            } else {
                let value = if name.starts_with("gamma") { 1.0 } else { 0.0 };
                parameters.extend(std::iter::repeat_n(value, count));
            }
        }
        let statistics = CHANNELS.iter().flat_map(|&c| [vec![0.0; c], vec![1.0; c]].concat());
        Self { parameters, statistics: statistics.collect() }
    }

    /// The slice of the parameter `name`.
    pub(super) fn parameter(&self, name: &str) -> &[f32] {
        let mut rest = self.parameters.as_slice();
        for (candidate, shape) in PARAMETERS {
            let (values, after) = rest.split_at(size(shape));
            if candidate == name {
                return values;
            }
            rest = after;
        }
        &[]
    }

    /// The running statistics of both norms.
    pub(super) fn running(&self) -> [Statistics; 2] {
        let (first, second) = self.statistics.split_at(2 * CHANNELS[0]);
        [first, second].map(|both| {
            let (mean, variance) = both.split_at(both.len() / 2);
            Statistics { mean: mean.to_vec(), variance: variance.to_vec() }
        })
    }

    /// The parameters as tensors.
    pub(super) fn layers(&self) -> Result<Layers> {
        let tensor = |name: &str| {
            let shape = PARAMETERS.iter().find(|(candidate, _)| *candidate == name);
            let (_, shape) = shape.expect("the names below are those of the table");
            Tensor::from_slice(self.parameter(name), *shape, &Device::Cpu)
        };
        let norm = |number: usize| {
            let part = |name: &str| self.parameter(&format!("{name}{number}")).to_vec();
            [part("gamma"), part("beta")]
        };
        Ok(Layers {
            convolutions: [tensor("conv1")?, tensor("conv2")?],
            norms: [norm(1), norm(2)],
            fc1: tensor("fc1")?,
            fc1_bias: tensor("fc1_bias")?,
            fc2: tensor("fc2")?,
            fc2_bias: tensor("fc2_bias")?,
        })
    }
}

/// The parameters of one step, cut into tensors; threads share them.
#[derive(Debug)]
pub(super) struct Layers {
    convolutions: [Tensor; 2],
    /// Factor and offset of each channel.
    norms: [[Vec<f32>; 2]; 2],
    fc1: Tensor,
    fc1_bias: Tensor,
    fc2: Tensor,
    fc2_bias: Tensor,
}

/// What the backward pass needs from a convolution with its norm.
struct Stage {
    input: Tensor,
    raw: Tensor,
    norm: NormPool,
    statistics: Statistics,
}

/// The gradient of the smoothed cross-entropy on one micro-batch.
///
/// Computed layer by layer instead of by candle's `backward`, which fills and adds a second copy of
/// every gradient and makes threads wait for each other in element-wise operations.
pub(super) fn gradient(layers: &Layers, batch: MicroBatch) -> Result<Gradient> {
    let images = batch.labels.len();
    let targets = Tensor::from_vec(targets(&batch), (images, CLASSES), &Device::Cpu)?;
    let input = Tensor::from_vec(batch.pixels, (images, SIDE, SIDE, 1), &Device::Cpu)?;
    let mask = Tensor::from_vec(batch.mask, (images, HIDDEN), &Device::Cpu)?;
    let (first, half) = layers.stage(0, input)?;
    let (second, quarter) = layers.stage(1, half)?;

    let features = quarter.flatten_from(1)?;
    let active = features.matmul(&layers.fc1)?.broadcast_add(&layers.fc1_bias)?.relu()?;
    // Zero where the unit was dropped or silent, the dropout factor elsewhere.
    let mask = mask.mul(&active.gt(0f32)?.to_dtype(active.dtype())?)?;
    let hidden = (active * &mask)?;
    let logits = hidden.matmul(&layers.fc2)?.broadcast_add(&layers.fc2_bias)?;
    let likelihood = log_softmax(&logits, 1)?;
    let loss = -(&likelihood * &targets)?.sum_all()?.to_scalar::<f32>()?;

    let to_logits = (likelihood.exp()? - targets)?;
    let to_hidden = (to_logits.matmul(&layers.fc2.t()?)? * mask)?;
    let to_quarter = to_hidden.matmul(&layers.fc1.t()?)?.reshape(quarter.shape())?;
    let second_gradient = second.norm.backward(&second.raw, &to_quarter)?;
    let to_half = conv::input_gradient(&layers.convolutions[1], &second_gradient.input)?;
    let first_gradient = first.norm.backward(&first.raw, &to_half)?;

    let mut parameters = Vec::with_capacity(PARAMETERS.iter().map(|(_, shape)| size(shape)).sum());
    for (stage, gradient) in [(&first, first_gradient), (&second, second_gradient)] {
        parameters.extend(conv::weight_gradient(&stage.input, &gradient.input)?);
        parameters.extend(gradient.gamma);
        parameters.extend(gradient.beta);
    }
    let mut append = |tensor: &Tensor| read(tensor, |values| parameters.extend_from_slice(values));
    append(&features.t()?.matmul(&to_hidden)?)?;
    append(&to_hidden.sum(0)?)?;
    append(&hidden.t()?.matmul(&to_logits)?)?;
    append(&to_logits.sum(0)?)?;
    let statistics = [first.statistics, second.statistics];
    let statistics = statistics.into_iter().flat_map(|s| [s.mean, s.variance].concat()).collect();
    let correct = read(&logits, |values| correct(values, &batch.labels))?;
    Ok(Gradient { parameters, statistics, loss: f64::from(loss), correct })
}
impl Layers {
    /// A convolution with its norm, measured on this batch, and the pooled result.
    fn stage(&self, at: usize, input: Tensor) -> Result<(Stage, Tensor)> {
        let raw = conv::forward(&input, &self.convolutions[at])?;
        let statistics = Statistics::of(&raw)?;
        let [gamma, beta] = &self.norms[at];
        let norm = NormPool::new(&statistics, gamma, beta);
        let pooled = norm.forward(&raw)?;
        Ok((Stage { input, raw, norm, statistics }, pooled))
    }

    /// Logits of normalised images, without dropout and with the running statistics.
    pub(super) fn logits(&self, running: &[Statistics; 2], pixels: Vec<f32>) -> Result<Vec<f32>> {
        let images = pixels.len() / PIXELS;
        let mut values = Tensor::from_vec(pixels, (images, SIDE, SIDE, 1), &Device::Cpu)?;
        for (at, statistics) in running.iter().enumerate() {
            let [gamma, beta] = &self.norms[at];
            let raw = conv::forward(&values, &self.convolutions[at])?;
            values = NormPool::new(statistics, gamma, beta).forward(&raw)?;
        }
        let features = values.flatten_from(1)?;
        let hidden = features.matmul(&self.fc1)?.broadcast_add(&self.fc1_bias)?.relu()?;
        let logits = hidden.matmul(&self.fc2)?.broadcast_add(&self.fc2_bias)?;
        logits.flatten_all()?.to_vec1()
    }
}

/// Number of rows of `logits` that are largest at their label.
pub(super) fn correct(logits: &[f32], labels: &[usize]) -> usize {
    let rows = logits.chunks_exact(CLASSES);
    rows.zip(labels).filter(|(row, label)| largest(row) == **label).count()
}

/// The position of the largest value; the first of equals.
pub(super) fn largest(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

fn size(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn targets(batch: &MicroBatch) -> Vec<f32> {
    let floor = batch.smoothing / CLASSES as f32;
    let mut targets = vec![floor; batch.labels.len() * CLASSES];
    for (row, label) in targets.chunks_exact_mut(CLASSES).zip(&batch.labels) {
        row[*label] += 1.0 - batch.smoothing;
    }
    targets
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

    use super::*;

    fn batch(rng: &mut Xoshiro256PlusPlus) -> MicroBatch {
        MicroBatch {
            pixels: (0..4 * PIXELS).map(|_| rng.sample(StandardNormal)).collect(),
            labels: vec![3, 1, 4, 1],
            mask: (0..4 * HIDDEN).map(|i| if i % 5 == 0 { 0.0 } else { 1.25 }).collect(),
            smoothing: 0.1,
        }
    }

    #[test]
    fn the_gradient_predicts_how_the_loss_changes() {
        let mut weights = Weights::random(&mut Xoshiro256PlusPlus::seed_from_u64(1));
        let ask = |weights: &Weights| {
            let batch = batch(&mut Xoshiro256PlusPlus::seed_from_u64(2));
            gradient(&weights.layers().unwrap(), batch).unwrap()
        };
        let before = ask(&weights);
        let slope: f32 = before.parameters.iter().map(|g| g * g).sum();
        let step = 1e-3 / slope;
        for (w, g) in weights.parameters.iter_mut().zip(&before.parameters) {
            *w -= step * g;
        }
        let fallen = before.loss - ask(&weights).loss;
        assert!((fallen - 1e-3).abs() < 2e-4, "fell by {fallen}, not by 0.001");
    }

    #[test]
    fn every_parameter_has_its_own_slice() {
        let weights = Weights::random(&mut Xoshiro256PlusPlus::seed_from_u64(1));
        let total: usize = PARAMETERS.iter().map(|(name, _)| weights.parameter(name).len()).sum();
        assert_eq!(total, weights.parameters.len());
        assert!(weights.parameter("gamma2").iter().all(|v| (*v - 1.0).abs() < 1e-9));
        assert!(weights.parameter("fc2_bias").iter().all(|v| v.abs() < 1e-9));
    }
}
