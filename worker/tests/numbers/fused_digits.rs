//! The digit network on fused kernels against its plain counterpart.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::HashMap;
use std::num::NonZeroUsize;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use engine::{Isa, MnistCnn, Options};
use worker::model::{Model, mnist};

fn random() -> VarBuilder<'static> {
    let mut map = HashMap::new();
    let shapes = [
        ("conv1", vec![32, 1, 5, 5]),
        ("conv2", vec![64, 32, 5, 5]),
        ("fc1", vec![128, 3136]),
        ("fc2", vec![10, 128]),
    ];
    for (name, shape) in shapes {
        let inputs: usize = shape[1..].iter().product();
        let deviation = (2.0 / inputs as f64).sqrt();
        let weight = Tensor::randn(0f64, deviation, &shape[..], &Device::Cpu).unwrap();
        map.insert(format!("{name}.weight"), weight.to_dtype(DType::F32).unwrap());
        let bias = Tensor::randn(0f32, 0.2, shape[0], &Device::Cpu).unwrap();
        map.insert(format!("{name}.bias"), bias);
    }
    VarBuilder::from_tensors(map, DType::F32, &Device::Cpu)
}

#[test]
fn batches_agree_with_the_plain_twin_on_every_instruction_set() {
    let vb = random();
    let plain = mnist::MnistCnn::new(&vb).unwrap();
    let batch = Tensor::rand(-1f32, 1f32, (32, 1, 28, 28), &Device::Cpu).unwrap();
    let wanted = plain.forward(&batch).unwrap();
    for isa in Isa::every() {
        for threads in [1, 2] {
            let threads = NonZeroUsize::new(threads).unwrap();
            let options = Options { isa: Some(isa.kind()), threads, ..Options::default() };
            let fast = MnistCnn::load(&vb, &options).unwrap();
            for count in [1, 2, 12, 13, 17, 32] {
                let logits = fast.forward(&batch.narrow(0, 32 - count, count).unwrap()).unwrap();
                let wanted = wanted.narrow(0, 32 - count, count).unwrap();
                let difference = (logits - wanted).unwrap().abs().unwrap().flatten_all().unwrap();
                let largest: f32 = difference.max(0).unwrap().to_scalar().unwrap();
                assert!(largest < 1e-3, "{isa} {threads} threads, batch {count}: {largest}");
            }
        }
    }
}

#[test]
fn weights_or_images_of_another_shape_are_an_error() {
    let vb = random();
    let fast = MnistCnn::load(&vb, &Options::default()).unwrap();
    let photo = Tensor::zeros((1, 3, 224, 224), DType::F32, &Device::Cpu).unwrap();
    assert!(fast.forward(&photo).is_err());
    assert!(MnistCnn::load(&vb.pp("nowhere"), &Options::default()).is_err());
}
