//! The bf16 network on AMX tiles against the plain reference, on CPUs that support them.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use candle_core::{DType, Device, Tensor, safetensors};
use candle_nn::VarBuilder;
use engine::amx::Network;
use testdata::{large, skip};
use worker::model::{Model, top_k};
use worker::repository::Padding;

use crate::networks::{drawn, drawn_input, expected, plain, stored};

/// The largest difference in logits that rounding weights and activations to bf16 may cause.
const TOLERANCE: f32 = 0.6;

fn network(vb: &VarBuilder, padding: Padding) -> Option<Network> {
    let network = Network::load(vb, padding).unwrap();
    if network.is_none() {
        skip("this CPU has no AMX, or the kernel refuses its use");
    }
    network
}

fn run(network: &Network, batch: &Tensor) -> Vec<f32> {
    let images: Vec<f32> = batch.flatten_all().unwrap().to_vec1().unwrap();
    let mut logits = vec![0.0; batch.dim(0).unwrap() * network.classes()];
    network.forward(&images, &mut network.scratch(), &mut logits);
    logits
}

fn compare(fast: &[f32], exact: &Tensor) {
    let classes = exact.dim(1).unwrap();
    let exact: Vec<f32> = exact.flatten_all().unwrap().to_vec1().unwrap();
    let mut largest = 0f32;
    for (fast, exact) in fast.chunks(classes).zip(exact.chunks(classes)) {
        largest = fast.iter().zip(exact).map(|(a, b)| (a - b).abs()).fold(largest, f32::max);
        let best = top_k(exact, 2);
        if exact[best[0]] - exact[best[1]] > 1.0 {
            assert_eq!(top_k(fast, 1)[0], best[0]);
        }
    }
    eprintln!("largest difference of logits: {largest}");
    assert!(largest < TOLERANCE, "{largest}");
}

#[test]
fn drawn_weights_give_the_logits_of_another_runtime() {
    for (padding, key) in [(Padding::Symmetric, "symmetric"), (Padding::TfSame, "tf_same")] {
        let Some(network) = network(&drawn(), padding) else { return };
        compare(&run(&network, &drawn_input()), &expected(key));
    }
}

#[test]
fn reference_logits_are_met_with_tensorflow_padding() {
    let Some(dir) = large("mobilenet_v2") else { return };
    let vb = stored(&dir.join("model.safetensors"));
    let Some(network) = network(&vb, Padding::TfSame) else { return };
    let reference = safetensors::load(dir.join("reference.safetensors"), &Device::Cpu).unwrap();
    compare(&run(&network, &reference["input"]), &reference["logits"]);
    let photos = reference["photos_u8"].to_dtype(DType::F32).unwrap();
    let photos = photos.affine(2.0 / 255.0, -1.0).unwrap().permute((0, 3, 1, 2)).unwrap();
    compare(&run(&network, &photos), &reference["photos_logits"]);
}

#[test]
fn reference_logits_are_met_with_symmetric_padding_and_batch_norm() {
    let Some(dir) = large("torchvision_layout") else { return };
    let vb = stored(&dir.join("model.safetensors"));
    let Some(network) = network(&vb, Padding::Symmetric) else { return };
    let reference = safetensors::load(dir.join("reference.safetensors"), &Device::Cpu).unwrap();
    compare(&run(&network, &reference["input"]), &reference["logits"]);
}

#[test]
fn an_image_has_the_same_logits_in_every_batch() {
    let Some(dir) = large("mobilenet_v2") else { return };
    let vb = stored(&dir.join("model.safetensors"));
    let Some(network) = network(&vb, Padding::Symmetric) else { return };
    let reference = plain(&vb, Padding::Symmetric);
    let batch = Tensor::rand(-1f32, 1f32, (17, 3, 224, 224), &Device::Cpu).unwrap();
    let together = run(&network, &batch);
    for (index, together) in together.chunks(network.classes()).enumerate() {
        let alone = run(&network, &batch.narrow(0, index, 1).unwrap());
        assert_eq!(together, alone, "image {index}");
    }
    let first = batch.narrow(0, 0, 1).unwrap();
    compare(&together[..network.classes()], &reference.forward(&first).unwrap());
}
