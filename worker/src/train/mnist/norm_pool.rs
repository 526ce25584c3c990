//! Batch norm, `ReLU` and 2x2 max pooling as one operation, and its gradient.
//!
//! Done separately, these are a dozen passes over the largest tensors of the network; fused they
//! are two forward and two backward. Only the pixel that wins its pool has a gradient before the
//! statistics spread it over the batch (Ioffe and Szegedy, 2015, section 3). Channels are last, as
//! in [`super::conv`], and inner loops run over them without a branch.

use candle_core::{Device, Result, Tensor, bail};

use super::conv::read;

/// Added to a variance so that a silent channel stays finite.
pub(super) const EPSILON: f32 = 1e-5;

/// Mean and variance of each channel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statistics {
    pub(super) mean: Vec<f32>,
    /// Of the population, not the sample.
    pub(super) variance: Vec<f32>,
}

/// The operation for given statistics and learnt factors.
#[derive(Debug)]
pub(super) struct NormPool {
    mean: Vec<f32>,
    inverse_deviation: Vec<f32>,
    /// Per channel, `value * scale + shift` is the normalised value.
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// The gradients of the three operands.
#[derive(Debug)]
pub(super) struct NormGradient {
    pub(super) input: Tensor,
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
}

impl Statistics {
    /// Measures a `[…, channels]` tensor.
    pub(super) fn of(input: &Tensor) -> Result<Self> {
        let channels = input.dim(input.rank() - 1)?;
        read(input, |values| {
            let count = (values.len() / channels) as f64;
            let means = |sums: Vec<f64>| sums.into_iter().map(|s| narrow(s / count)).collect();
            let mean: Vec<f32> = means(sums(values, &vec![0.0; channels], |v, _| v));
            let variance = means(sums(values, &mean, |v, mean| (v - mean) * (v - mean)));
            Self { mean, variance }
        })
    }
}

impl NormPool {
    /// Prepares for one pass.
    pub(super) fn new(statistics: &Statistics, gamma: &[f32], beta: &[f32]) -> Self {
        let mean = statistics.mean.clone();
        let inverse_deviation: Vec<f32> =
            statistics.variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
        let scale: Vec<f32> = gamma.iter().zip(&inverse_deviation).map(|(g, i)| g * i).collect();
        let shift = beta.iter().zip(&scale).zip(&mean).map(|((b, s), m)| b - s * m).collect();
        Self { mean, inverse_deviation, scale, shift }
    }

    /// `relu(batch_norm(input))`, pooled: `[n, h, w, c] -> [n, h/2, w/2, c]` for even h and w.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let (images, height, width, channels) = input.dims4()?;
        let mut out = vec![0.0; images * (height / 2) * (width / 2) * channels];
        read(input, |input| {
            for (to, pool) in out.chunks_exact_mut(channels).zip(pools(input, width, channels)) {
                let line = self.scale.iter().zip(&self.shift);
                for (i, (to, (scale, shift))) in to.iter_mut().zip(line).enumerate() {
                    *to =
                        pool.map(|pixel| pixel[i] * scale + shift).into_iter().fold(0.0, f32::max);
                }
            }
        })?;
        Tensor::from_vec(out, (images, height / 2, width / 2, channels), &Device::Cpu)
    }

    /// The gradients for a batch on which the statistics were measured.
    pub(super) fn backward(&self, input: &Tensor, gradient: &Tensor) -> Result<NormGradient> {
        let (width, channels) = (input.dim(2)?, input.dim(3)?);
        if channels % LANES != 0 {
            bail!("{channels} channels where a multiple of {LANES} is needed");
        }
        let mut to_input = vec![0.0; input.elem_count()];
        let mut sums = Sums { gradient: vec![0.0; channels], product: vec![0.0; channels] };
        let mut gamma = Vec::new();
        read(input, |input| {
            read(gradient, |gradient| {
                let targets = pools_mut(&mut to_input, width, channels);
                let pools = pools(input, width, channels).zip(targets);
                for (g, (pool, targets)) in gradient.chunks_exact(channels).zip(pools) {
                    self.route(g, pool, targets, &mut sums);
                }
            })?;
            gamma = self.gamma_gradient(&sums);
            self.spread(input, &gamma, &sums.gradient, &mut to_input);
            Ok::<_, candle_core::Error>(())
        })??;
        let input = Tensor::from_vec(to_input, input.shape(), &Device::Cpu)?;
        Ok(NormGradient { input, gamma, beta: sums.gradient })
    }

    /// Gives the gradient of a pool to the pixel that won it.
    fn route(&self, gradient: &[f32], pool: [&[f32]; 4], to: [&mut [f32]; 4], sums: &mut Sums) {
        let [a, b, c, d] = pool.map(lanes);
        let [to_a, to_b, to_c, to_d] = to.map(lanes_mut);
        let factors = lanes(&self.scale).iter().zip(lanes(&self.shift));
        let totals = lanes_mut(&mut sums.gradient).iter_mut().zip(lanes_mut(&mut sums.product));
        for (i, ((scale, shift), (gradients, products))) in factors.zip(totals).enumerate() {
            let share =
                |at: &Lanes| -> Lanes { std::array::from_fn(|k| at[k] * scale[k] + shift[k]) };
            let normalised = [share(&a[i]), share(&b[i]), share(&c[i]), share(&d[i])];
            let shares = shares(&lanes(gradient)[i], &normalised);
            for k in 0..LANES {
                let parts = [shares[0][k], shares[1][k], shares[2][k], shares[3][k]];
                gradients[k] += parts[0] + parts[1] + parts[2] + parts[3];
                let upper = parts[0] * a[i][k] + parts[1] * b[i][k];
                products[k] += upper + parts[2] * c[i][k] + parts[3] * d[i][k];
            }
            [to_a[i], to_b[i], to_c[i], to_d[i]] = shares;
        }
    }

    /// Gradients times normalised inputs, summed by channel.
    fn gamma_gradient(&self, sums: &Sums) -> Vec<f32> {
        let centred = std::iter::zip(&sums.product, std::iter::zip(&sums.gradient, &self.mean))
            .map(|(product, (gradient, mean))| product - gradient * mean);
        centred.zip(&self.inverse_deviation).map(|(sum, inverse)| sum * inverse).collect()
    }

    /// From the gradient of the normalised values to that of the input, in place:
    /// `scale * (g - beta' / N - xhat * gamma' / N)` with `xhat = (x - mean) * inverse deviation`.
    fn spread(&self, input: &[f32], gamma: &[f32], beta: &[f32], gradient: &mut [f32]) {
        let channels = self.mean.len();
        let share = channels as f32 / input.len() as f32;
        let slope: Vec<f32> =
            gamma.iter().zip(&self.inverse_deviation).map(|(g, i)| g * i * share).collect();
        let level: Vec<f32> = beta.iter().map(|b| b * share).collect();
        for (g, x) in gradient.chunks_exact_mut(channels).zip(input.chunks_exact(channels)) {
            let (x, slope, level) = (&x[..channels], &slope[..channels], &level[..channels]);
            let (scale, mean) = (&self.scale[..channels], &self.mean[..channels]);
            for (i, g) in g.iter_mut().enumerate() {
                *g = scale[i] * (*g - level[i] - slope[i] * (x[i] - mean[i]));
            }
        }
    }
}

/// By channel: the sum of the gradients, and of their products with the winning input.
struct Sums {
    gradient: Vec<f32>,
    product: Vec<f32>,
}

/// Channels computed together; whole arrays let the compiler keep them in vector registers.
const LANES: usize = 8;
type Lanes = [f32; LANES];

fn lanes(values: &[f32]) -> &[Lanes] {
    values.as_chunks().0
}

fn lanes_mut(values: &mut [f32]) -> &mut [Lanes] {
    values.as_chunks_mut().0
}

/// What each pixel of a pool gets of the pool's gradient: all of it for the largest (the first of
/// equals) if it is above zero, else nothing.
#[expect(clippy::needless_bitwise_bool, reason = "a branch would keep the loop scalar")]
fn shares(gradient: &Lanes, pool: &[Lanes; 4]) -> [Lanes; 4] {
    let mut out = [[0.0; LANES]; 4];
    for k in 0..LANES {
        let [a, b, c, d] = pool.map(|pixel| pixel[k]);
        let (is_right, is_lower_right) = (b > a, d > c);
        let upper = if is_right { b } else { a };
        let lower = if is_lower_right { d } else { c };
        let is_lower = lower > upper;
        let winner = if is_lower { lower } else { upper };
        let all = if winner > 0.0 { gradient[k] } else { 0.0 };
        out[0][k] = if is_lower | is_right { 0.0 } else { all };
        out[1][k] = if is_lower | !is_right { 0.0 } else { all };
        out[2][k] = if !is_lower | is_lower_right { 0.0 } else { all };
        out[3][k] = if !is_lower | !is_lower_right { 0.0 } else { all };
    }
    out
}

/// The four pixels of each 2x2 pool, in output order.
fn pools(input: &[f32], width: usize, channels: usize) -> impl Iterator<Item = [&[f32]; 4]> {
    input.chunks_exact(2 * width * channels).flat_map(move |rows| {
        let (upper, lower) = rows.split_at(width * channels);
        let columns = upper.chunks_exact(2 * channels).zip(lower.chunks_exact(2 * channels));
        columns.map(move |(upper, lower)| {
            let ((a, b), (c, d)) = (upper.split_at(channels), lower.split_at(channels));
            [a, b, c, d]
        })
    })
}

/// The same, to write to.
fn pools_mut(
    output: &mut [f32],
    width: usize,
    channels: usize,
) -> impl Iterator<Item = [&mut [f32]; 4]> {
    output.chunks_exact_mut(2 * width * channels).flat_map(move |rows| {
        let (upper, lower) = rows.split_at_mut(width * channels);
        let lower = lower.chunks_exact_mut(2 * channels);
        upper.chunks_exact_mut(2 * channels).zip(lower).map(move |(upper, lower)| {
            let ((a, b), (c, d)) = (upper.split_at_mut(channels), lower.split_at_mut(channels));
            [a, b, c, d]
        })
    })
}

/// Sums `f(value, about[channel])` by channel: f32 within a stretch, f64 across stretches.
fn sums(values: &[f32], about: &[f32], f: impl Fn(f32, f32) -> f32) -> Vec<f64> {
    let channels = about.len();
    let mut total = vec![0f64; channels];
    let mut part = vec![0f32; channels];
    for stretch in values.chunks(channels * 128) {
        part.fill(0.0);
        for pixel in stretch.chunks_exact(channels) {
            for ((sum, v), about) in part.iter_mut().zip(pixel).zip(about) {
                *sum += f(*v, *about);
            }
        }
        for (total, part) in total.iter_mut().zip(&part) {
            *total += f64::from(*part);
        }
    }
    total
}

#[expect(clippy::cast_possible_truncation, reason = "rounding a sum to f32 is the point")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    /// The same with candle's own operations, statistics included in the graph.
    fn reference(input: &Var, gamma: &Var, beta: &Var) -> Result<Tensor> {
        let flat = input.reshape(((), 16))?;
        let mean = flat.mean_keepdim(0)?;
        let centred = flat.broadcast_sub(&mean)?;
        let deviation = (centred.sqr()?.mean_keepdim(0)? + f64::from(EPSILON))?.sqrt()?;
        let normalised = centred.broadcast_div(&deviation)?.broadcast_mul(gamma)?;
        let active = normalised.broadcast_add(beta)?.relu()?.reshape((6, 2, 3, 2, 16))?;
        active.max(3)?.max(1)?.reshape((3, 2, 3, 16))
    }

    fn close(ours: &[f32], theirs: &Tensor) -> bool {
        let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-4)
    }

    #[test]
    fn values_and_gradients_are_those_of_the_separate_operations() {
        let input = Var::randn(0.5f32, 2.0, (3, 4, 6, 16), &Device::Cpu).unwrap();
        let gamma = Var::randn(0f32, 1.0, 16, &Device::Cpu).unwrap();
        let beta = Var::randn(0f32, 1.0, 16, &Device::Cpu).unwrap();
        let factors = |var: &Var| var.to_vec1::<f32>().unwrap();
        let statistics = Statistics::of(&input).unwrap();
        let fused = NormPool::new(&statistics, &factors(&gamma), &factors(&beta));
        let separate = reference(&input, &gamma, &beta).unwrap();
        assert!(read(&fused.forward(&input).unwrap(), |v| close(v, &separate)).unwrap());
        let pull = Tensor::randn(0f32, 1.0, separate.shape(), &Device::Cpu).unwrap();
        let ours = fused.backward(&input, &pull).unwrap();
        let theirs = (separate * &pull).unwrap().backward().unwrap();
        assert!(read(&ours.input, |v| close(v, theirs.get(&input).unwrap())).unwrap());
        assert!(close(&ours.gamma, theirs.get(&gamma).unwrap()));
        assert!(close(&ours.beta, theirs.get(&beta).unwrap()));
    }
}
