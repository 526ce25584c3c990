//! The networks in the form that runs on a GPU, tested on the CPU: shifted copies for the depthwise
//! layers, half precision, batches.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use worker::model::{Model, Placed, mnist::MnistCnn, mobilenet_v2::MobileNetV2};
use worker::repository::Padding;

use crate::networks::{drawn, drawn_input, expected, largest_difference};

fn weights(path: &Path, dtype: DType) -> VarBuilder<'static> {
    let bytes = std::fs::read(path).unwrap();
    VarBuilder::from_buffered_safetensors(bytes, dtype, &Device::Cpu).unwrap()
}

fn labels(logits: &Tensor) -> Vec<u32> {
    logits.argmax(1).unwrap().to_vec1().unwrap()
}

#[test]
fn a_batch_on_another_device_has_the_reference_logits_in_full_and_half_precision() {
    let network = MobileNetV2::load(&drawn(), Padding::TfSame).unwrap();
    let wanted = expected("tf_same");
    // candle does not multiply bf16 on the CPU.
    for (dtype, tolerance) in [(DType::F32, 1e-3), (DType::F16, 0.1)] {
        let moved = network.to(&Device::Cpu, dtype).unwrap();
        let placed = Placed::new(moved, Device::Cpu, dtype);
        assert_eq!(placed.precision(), dtype.as_str());
        let logits = placed.forward(&drawn_input()).unwrap();
        let difference = largest_difference(&logits, &wanted);
        assert!(difference < tolerance, "{dtype:?}: {difference}");
        assert_eq!(labels(&logits), labels(&wanted), "{dtype:?}");
    }
}

#[test]
fn digits_in_half_precision_are_the_digits_of_full_precision() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/mnist/1/weights.safetensors");
    let batch = Tensor::rand(-1f32, 1.0, (3, 1, 28, 28), &Device::Cpu).unwrap();
    let full = MnistCnn::new(&weights(&path, DType::F32)).unwrap().forward(&batch).unwrap();
    let half = MnistCnn::new(&weights(&path, DType::F16)).unwrap();
    let half = Placed::new(half, Device::Cpu, DType::F16).forward(&batch).unwrap();
    assert!(largest_difference(&full, &half) < 0.1);
}
