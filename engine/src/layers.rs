//! Folded layers as plain numbers, from which any plan packs its weights.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;

use crate::description::{LayerSpec, conv_weights};

/// Weights and biases of one layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// `[outputs][inputs / groups][kernel][kernel]`.
    pub(super) weight: Vec<f32>,
    /// `[outputs]`.
    pub(super) bias: Vec<f32>,
}

impl Layer {
    /// A convolution with its batch norm folded in.
    pub(super) fn folded(vb: &VarBuilder, spec: &LayerSpec) -> Result<Self> {
        let folded = conv_weights(vb, spec)?;
        Ok(Self { weight: flat(&folded.weight)?, bias: flat(&folded.bias)? })
    }

    /// The same layer with its inputs in another order: input `at` was input `from(at)`.
    pub(super) fn reordered(self, from: fn(usize) -> usize) -> Self {
        let inputs = self.weight.len() / self.bias.len().max(1);
        let row = |row: &[f32]| (0..inputs).map(|at| row[from(at)]).collect::<Vec<_>>();
        let weight = self.weight.chunks_exact(inputs.max(1)).flat_map(row).collect();
        Self { weight, ..self }
    }

    /// A layer that is used as stored, whatever its shape.
    pub(super) fn dense(vb: &VarBuilder, name: &str) -> Result<Self> {
        let weight = flat(&vb.get_unchecked(&format!("{name}.weight"))?)?;
        let bias = flat(&vb.get_unchecked(&format!("{name}.bias"))?)?;
        Ok(Self { weight, bias })
    }
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
