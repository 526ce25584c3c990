//! Shared by the tests of networks: stored and made-up weights, the outputs of another runtime for
//! them, and comparisons.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use worker::model::mobilenet_v2 as reference;
use worker::repository::Padding;

/// Weights from a file.
pub(crate) fn stored(path: &Path) -> VarBuilder<'static> {
    let bytes = std::fs::read(path).unwrap();
    VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap()
}

/// The plain network that others are compared with. It filters channels as on a GPU, which gives
/// the same result as candle's grouped convolution in a fraction of the time: that one queries the
/// number of cores for each channel.
pub(crate) fn plain(vb: &VarBuilder<'_>, padding: Padding) -> reference::MobileNetV2 {
    let network = reference::MobileNetV2::load(vb, padding).unwrap();
    network.to(&Device::Cpu, DType::F32).unwrap()
}

/// Random weights, with variances that keep activations away from the bounds of the clamps.
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

/// Numbers between -`bound` and `bound` that depend only on the name and the position in the
/// tensor: `tests/data/logits.py` draws the same.
#[allow(
    clippy::cast_possible_truncation,
    reason = "places are below 2^32, and the numbers are made to be rounded"
)]
pub(crate) fn draw(name: &str, shape: &[usize], bound: f64) -> Tensor {
    let seed = name
        .bytes()
        .fold(0x811c_9dc5_u32, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let number = |at: usize| {
        let x = (at as u32).wrapping_mul(0x9e37_79b1).wrapping_add(seed);
        let x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
        let x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
        let x = x ^ (x >> 16);
        ((f64::from(x >> 8) / f64::from(1 << 23) - 1.0) * bound) as f32
    };
    let numbers: Vec<f32> = (0..shape.iter().product()).map(number).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// Weights of the network with ten classes that `tests/data/logits.json` was computed with.
pub(crate) fn drawn() -> VarBuilder<'static> {
    let mut map = HashMap::new();
    let mut add = |name: String, shape: &[usize], bound: f64| {
        let tensor = draw(&name, shape, bound);
        map.insert(name, tensor);
    };
    let inner = reference::blocks().into_iter().flat_map(|block| block.layers);
    for spec in inner.chain([reference::stem(), reference::head()]) {
        let (outputs, inputs, kernel, _) = spec.weight_shape();
        let bound = (6.0 / (inputs * kernel * kernel) as f64).sqrt();
        add(format!("{}.weight", spec.name), &[outputs, inputs, kernel, kernel], bound);
        add(format!("{}.bias", spec.name), &[outputs], 0.2);
    }
    add("classifier.1.weight".to_owned(), &[10, 1280], 0.05);
    add("classifier.1.bias".to_owned(), &[10], 0.2);
    VarBuilder::from_tensors(map, DType::F32, &Device::Cpu)
}

/// The two images that it is run on.
pub(crate) fn drawn_input() -> Tensor {
    draw("input", &[2, 3, 224, 224], 1.0)
}

/// The logits of ONNX Runtime for them (`symmetric`, `tf_same`), or for the picture
/// (`picture_logits`).
pub(crate) fn expected(key: &str) -> Tensor {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../data/logits.json")).unwrap();
    let rows: Vec<Vec<f32>> = serde_json::from_value(file[key].clone()).unwrap();
    Tensor::new(rows, &Device::Cpu).unwrap()
}

/// The largest difference between two tensors of the same shape.
pub(crate) fn largest_difference(left: &Tensor, right: &Tensor) -> f32 {
    assert_eq!(left.dims(), right.dims());
    let difference = (left - right).unwrap().abs().unwrap();
    difference.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}
