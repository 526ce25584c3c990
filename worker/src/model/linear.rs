//! One linear layer over the features of a table: logistic or linear regression.
//!
//! Rows of a few numbers cost less to multiply than a general matrix product costs to set up, so
//! the layer is an operation of its own; a test compares it with candle's.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::Model;
use super::weights::{self, Spec, Values};
use crate::repository::{Features, Version};

/// Partial sums of one dot product: as many as the compiler keeps in vector registers.
const LANES: usize = 16;

/// `features * weight^T + bias`: logits of the classes, or one value.
#[derive(Debug)]
pub struct LinearModel {
    /// A row of `width` for each output.
    weight: Vec<f32>,
    bias: Vec<f32>,
    width: usize,
}

/// Reads the weights file of a version: `weight` of shape `[outputs, features]`, and `bias`.
pub fn load(version: &Version) -> Result<Box<dyn Model>> {
    let Features::Table(table) = version.manifest.features() else {
        bail!("a linear model needs [table] in its manifest");
    };
    let (outputs, width) = (version.output_width(), table.width());
    let tensors = weights::variables(&version.weights(), |_| {
        vec![
            Spec::new("weight", &[outputs, width], Values::Finite),
            Spec::new("bias", &[outputs], Values::Finite),
        ]
    })?;
    let weight = tensors.get((outputs, width), "weight")?;
    let bias = tensors.get(outputs, "bias")?;
    Ok(Box::new(LinearModel::new(&weight, &bias, width)?))
}

impl LinearModel {
    /// A layer for rows of `width` features.
    fn new(weight: &Tensor, bias: &Tensor, width: usize) -> Result<Self> {
        let bias = bias.to_vec1::<f32>()?;
        if weight.dims() != [bias.len(), width] {
            let found = weight.shape();
            bail!("`weight` is {found:?}, but {} outputs of {width} features are due", bias.len());
        }
        Ok(Self { weight: weight.flatten_all()?.to_vec1()?, bias, width })
    }
}

impl Model for LinearModel {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        batch.contiguous()?.apply_op1_no_bwd(self)
    }
}

impl CustomOp1 for LinearModel {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("rows must be contiguous")
        };
        if width != self.width || width == 0 {
            bail!("rows of {width} features for a layer of {}", self.width)
        }
        let features = storage.as_slice::<f32>()?[start..end].chunks_exact(width);
        let mut outputs = Vec::with_capacity(rows * self.bias.len());
        for row in features {
            let products = self.weight.chunks_exact(width).map(|weight| dot(row, weight));
            outputs.extend(products.zip(&self.bias).map(|(product, bias)| product + bias));
        }
        Ok((CpuStorage::F32(outputs), (rows, self.bias.len()).into()))
    }
}

/// The sum of the products of two equally long slices.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0f32; LANES];
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    rest + sums.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_nn::{Linear, Module};
    use proptest::prelude::*;

    use super::*;

    fn values(seed: usize, shape: (usize, usize)) -> Tensor {
        let value = |i: usize| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0;
        let values: Vec<f32> = (0..shape.0 * shape.1).map(value).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    proptest! {
        #[test]
        fn the_layer_equals_candles(
            rows in 1usize..20, width in 1usize..70, outputs in 1usize..12, seed in 0usize..100
        ) {
            let (batch, weight) = (values(seed, (rows, width)), values(seed + 1, (outputs, width)));
            let bias = values(seed + 2, (1, outputs)).flatten_all().unwrap();
            let ours = LinearModel::new(&weight, &bias, width).unwrap().forward(&batch).unwrap();
            let theirs = Linear::new(weight, Some(bias)).forward(&batch).unwrap();
            prop_assert_eq!(ours.dims(), theirs.dims());
            let off = (ours - theirs).unwrap().abs().unwrap().flatten_all().unwrap();
            prop_assert!(off.max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-4);
        }
    }

    #[test]
    fn weights_and_rows_of_another_width_are_refused() {
        let bias = values(0, (1, 3)).flatten_all().unwrap();
        let refused = LinearModel::new(&values(1, (3, 5)), &bias, 4).unwrap_err().to_string();
        assert!(refused.contains("3 outputs of 4 features"), "{refused}");
        let layer = LinearModel::new(&values(1, (3, 4)), &bias, 4).unwrap();
        assert!(layer.forward(&values(2, (2, 5))).is_err());
    }
}
