//! Fits the linear layer: multinomial logistic regression or least squares, in candle.
//!
//! Both losses are convex and smooth, so Nesterov's accelerated gradient (1983) with the step 1/L
//! needs no guessed learning rate; the momentum restarts when it points uphill (O'Donoghue and
//! Candès, 2015). L comes from the largest eigenvalue of the features' second moments.

use candle_core::{Device, Result, Tensor, bail};
use candle_nn::ops::softmax;

use super::Bounds;

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Objective {
    /// Mean cross-entropy of the softmax.
    CrossEntropy,
    /// Half the mean squared error.
    Squares,
}

/// How long to fit and how strictly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits<'a> {
    /// Maximum number of steps.
    pub(super) max_iterations: usize,
    /// Weight of half the squared coefficients, excluding the bias.
    pub(super) l2_reg: f64,
    /// When the fit has to be done.
    pub(super) bounds: &'a Bounds,
}

/// The fitted layer.
#[derive(Debug)]
pub(super) struct Layer {
    /// `[outputs, features]`.
    pub(super) weight: Tensor,
    /// `[outputs]`.
    pub(super) bias: Tensor,
    /// Steps that the optimiser took.
    pub(super) iterations: usize,
}

impl Layer {
    /// Whether every coefficient is finite.
    pub(super) fn is_finite(&self) -> Result<bool> {
        let all = [self.weight.flatten_all()?.to_vec1()?, self.bias.to_vec1::<f32>()?].concat();
        Ok(all.iter().all(|value| value.is_finite()))
    }
}

/// Training ends once no component of the gradient is larger than this.
const TOLERANCE: f32 = 1e-6;
const POWER_ITERATIONS: usize = 30;

/// Fits `features` `[n, d]` to `targets` `[n, k]` (one-hot classes, or values).
pub(super) fn fit(
    features: &Tensor,
    targets: &Tensor,
    objective: Objective,
    limits: Limits<'_>,
) -> Result<Layer> {
    let (rows, width) = features.dims2()?;
    let outputs = targets.dim(1)?;
    let ones = Tensor::ones((rows, 1), features.dtype(), &Device::Cpu)?;
    let inputs = Tensor::cat(&[features, &ones], 1)?;
    let transposed = (inputs.t()?.contiguous()? / rows as f64)?;
    let curvature = match objective {
        Objective::CrossEntropy => 0.5,
        Objective::Squares => 1.0,
    };
    let steepness = curvature * largest_eigenvalue(&inputs, &transposed)? + limits.l2_reg;
    let shrink = shrinkage(width, outputs, limits.l2_reg)?;

    let mut at = Tensor::zeros((width + 1, outputs), features.dtype(), &Device::Cpu)?;
    let mut ahead = at.clone();
    let mut momentum = 1.0f64;
    let mut iterations = 0;
    while iterations < limits.max_iterations {
        if limits.bounds.is_over() {
            bail!("{}", limits.bounds.overrun())
        }
        iterations += 1;
        let predicted = inputs.matmul(&ahead)?;
        let predicted = match objective {
            Objective::CrossEntropy => softmax(&predicted, 1)?,
            Objective::Squares => predicted,
        };
        let gradient = (transposed.matmul(&(predicted - targets)?)? + (&shrink * &ahead)?)?;
        let next = (&ahead - (&gradient / steepness)?)?;
        let moved = (&next - &at)?;
        let uphill = (&gradient * &moved)?.sum_all()?.to_scalar::<f32>()? > 0.0;
        let faster = if uphill { 1.0 } else { 0.5 * (1.0 + (1.0 + 4.0 * momentum.powi(2)).sqrt()) };
        ahead = (&next + (&moved * ((momentum - 1.0) / faster))?)?;
        momentum = faster;
        at = next;
        if gradient.abs()?.max_all()?.to_scalar::<f32>()? < TOLERANCE {
            break;
        }
    }
    let weight = at.narrow(0, 0, width)?.t()?.contiguous()?;
    Ok(Layer { weight, bias: at.get(width)?, iterations })
}

/// The factor of each coefficient in the gradient of the penalty: zero for the bias.
fn shrinkage(width: usize, outputs: usize, l2_reg: f64) -> Result<Tensor> {
    let weights =
        (Tensor::ones((width, outputs), candle_core::DType::F32, &Device::Cpu)? * l2_reg)?;
    let bias = Tensor::zeros((1, outputs), weights.dtype(), &Device::Cpu)?;
    Tensor::cat(&[weights, bias], 0)
}

/// The largest eigenvalue of `transposed * inputs`, by power iteration, with a margin for its
/// slow convergence.
fn largest_eigenvalue(inputs: &Tensor, transposed: &Tensor) -> Result<f64> {
    let mut direction = Tensor::ones((inputs.dim(1)?, 1), inputs.dtype(), &Device::Cpu)?;
    let mut value = 1.0;
    for _ in 0..POWER_ITERATIONS {
        let image = transposed.matmul(&inputs.matmul(&direction)?)?;
        value = f64::from(image.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?);
        if value <= f64::from(f32::MIN_POSITIVE) {
            return Ok(1.0);
        }
        direction = (image / value)?;
    }
    Ok(value * 1.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (values.len(), 1), &Device::Cpu).unwrap()
    }

    fn fit_for_long(features: &Tensor, targets: &Tensor, objective: Objective) -> Layer {
        fit_with(0.0, features, targets, objective)
    }

    fn fit_with(l2_reg: f64, features: &Tensor, targets: &Tensor, objective: Objective) -> Layer {
        let bounds = Bounds::new(std::time::Duration::from_mins(10), 1);
        let limits = Limits { max_iterations: 5000, l2_reg, bounds: &bounds };
        fit(features, targets, objective, limits).unwrap()
    }

    #[test]
    fn a_fit_ends_in_time() {
        let bounds = Bounds::new(std::time::Duration::ZERO, 1);
        let limits = Limits { max_iterations: 5000, l2_reg: 0.0, bounds: &bounds };
        let x = column(&[1.0, 2.0]);
        let error = fit(&x, &x, Objective::Squares, limits).unwrap_err().to_string();
        assert!(error.contains("--max-time"), "{error}");
    }

    /// Covers numbers that [`super::super::encode`] keeps out.
    #[test]
    fn a_fit_of_numbers_too_large_for_it_is_seen_to_be_none() {
        let large = [-1e30, 1e30f32];
        let usual = [-1.0, 1.0f32];
        for (x, y) in [(large, usual), (usual, [f32::NAN, 1.0]), (usual, [f32::INFINITY, 1.0])] {
            let layer = fit_for_long(&column(&x), &column(&y), Objective::Squares);
            assert!(!layer.is_finite().unwrap(), "{x:?}, {y:?}: {layer:?}");
        }
        let layer = fit_for_long(&column(&usual), &column(&usual), Objective::Squares);
        assert!(layer.is_finite().unwrap());
    }

    #[test]
    fn least_squares_finds_the_line() {
        let x = [-2.0, -1.0, 0.0, 1.0, 2.5f32];
        let y = x.map(|x| 3.0 * x - 0.5);
        let layer = fit_for_long(&column(&x), &column(&y), Objective::Squares);
        let weight: Vec<f32> = layer.weight.flatten_all().unwrap().to_vec1().unwrap();
        let bias: Vec<f32> = layer.bias.to_vec1().unwrap();
        assert!((weight[0] - 3.0).abs() < 1e-3 && (bias[0] + 0.5).abs() < 1e-3);
        assert!(layer.iterations < 1000);
    }

    #[test]
    fn the_fitted_probabilities_match_the_frequencies() {
        // One binary feature: class 1 in 1 of 4 rows where it is 0, in 3 of 4 where it is 1.
        let x = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0f32];
        let y = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0f32];
        let one_hot: Vec<f32> = y.iter().flat_map(|y| [1.0 - y, *y]).collect();
        let one_hot = Tensor::from_vec(one_hot, (8, 2), &Device::Cpu).unwrap();
        let layer = fit_for_long(&column(&x), &one_hot, Objective::CrossEntropy);
        let logits = column(&[0.0, 1.0]).matmul(&layer.weight.t().unwrap()).unwrap();
        let logits = logits.broadcast_add(&layer.bias).unwrap();
        let p: Vec<Vec<f32>> = softmax(&logits, 1).unwrap().to_vec2().unwrap();
        assert!((p[0][1] - 0.25).abs() < 1e-3 && (p[1][1] - 0.75).abs() < 1e-3, "{p:?}");
    }

    #[test]
    fn regularisation_pulls_coefficients_but_not_the_bias() {
        let x = [-1.0, 1.0f32];
        let y = [9.0, 11.0f32];
        let layer = fit_with(1.0, &column(&x), &column(&y), Objective::Squares);
        let weight: Vec<f32> = layer.weight.flatten_all().unwrap().to_vec1().unwrap();
        let bias: Vec<f32> = layer.bias.to_vec1().unwrap();
        assert!((weight[0] - 0.5).abs() < 1e-3 && (bias[0] - 10.0).abs() < 1e-2, "{layer:?}");
    }
}
