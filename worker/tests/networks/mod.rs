//! What tests of networks share: where data stands, weights stored and made up, differences.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use worker::model::mobilenet_v2 as reference;

/// A path of the shared data, or a line that says what is missing.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(path);
    if !found.exists() {
        eprintln!("SKIPPED: {} is not there", found.display());
    }
    found.exists().then_some(found)
}

/// Weights of a file.
pub(crate) fn stored(path: &Path) -> VarBuilder<'static> {
    let bytes = std::fs::read(path).unwrap();
    VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap()
}

/// Weights made up on the spot, with variances that keep activations away from the clamps' ends.
pub(crate) fn random(classes: usize) -> VarBuilder<'static> {
    let mut map = HashMap::new();
    let inner = reference::blocks().into_iter().flat_map(|block| block.layers);
    for spec in inner.chain([reference::stem(), reference::head()]) {
        let (_, inputs, kernel, _) = spec.weight_shape();
        let deviation = (2.0 / (inputs * kernel * kernel) as f32).sqrt();
        let weight = Tensor::randn(0f32, deviation, spec.weight_shape(), &Device::Cpu).unwrap();
        map.insert(format!("{}.weight", spec.name), weight);
        let bias = Tensor::randn(0f32, 0.2, spec.outputs, &Device::Cpu).unwrap();
        map.insert(format!("{}.bias", spec.name), bias);
    }
    let weight = Tensor::randn(0f32, 0.03, (classes, 1280), &Device::Cpu).unwrap();
    map.insert("classifier.1.weight".to_owned(), weight);
    let bias = Tensor::randn(0f32, 0.2, classes, &Device::Cpu).unwrap();
    map.insert("classifier.1.bias".to_owned(), bias);
    VarBuilder::from_tensors(map, DType::F32, &Device::Cpu)
}

/// The largest difference of two tensors of one shape.
pub(crate) fn largest_difference(left: &Tensor, right: &Tensor) -> f32 {
    assert_eq!(left.dims(), right.dims());
    let difference = (left - right).unwrap().abs().unwrap();
    difference.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}
