//! One linear layer over the features of a table: logistic or linear regression.

use super::Model;
use crate::repository::{Features, Manifest};
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::{Linear, Module, VarBuilder};
use std::path::Path;

/// `features * weight^T + bias`: logits of the classes, or one value.
#[derive(Debug)]
pub struct LinearModel {
    layer: Linear,
}

/// Reads the weights file of a version: `weight` of shape `[outputs, features]`, and `bias`.
pub fn load(weights: &Path, manifest: &Manifest) -> Result<Box<dyn Model>> {
    let Features::Table(table) = manifest.features() else {
        bail!("a linear model needs [table] in its manifest");
    };
    let tensors = candle_core::safetensors::load(weights, &Device::Cpu)?;
    let Some(outputs) = tensors.get("bias").and_then(|bias| bias.dims().first().copied()) else {
        bail!("{} has no vector `bias`", weights.display());
    };
    let tensors = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    Ok(Box::new(LinearModel { layer: candle_nn::linear(table.width(), outputs, tensors)? }))
}

impl Model for LinearModel {
    fn forward(&self, batch: &Tensor) -> Result<Tensor> {
        self.layer.forward(batch)
    }
}
