//! The fused network against the plain reference and against logits of other frameworks.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use candle_core::{DType, Device, Tensor, safetensors};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use worker::engine::{Isa, MobileNetV2, Options, Precision};
use worker::model::{Model, mobilenet_v2 as reference};
use worker::repository::Padding;

const TOLERANCE: f32 = 1e-3;

fn shared(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(path);
    if !found.exists() {
        eprintln!("SKIPPED: {} is not there", found.display());
    }
    found.exists().then_some(found)
}

fn stored(path: &Path) -> VarBuilder<'static> {
    let bytes = std::fs::read(path).unwrap();
    VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap()
}

/// Weights made up on the spot, with variances that keep activations away from the clamps' ends.
fn random(classes: usize) -> VarBuilder<'static> {
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

fn f32_on(isa: Isa, threads: usize) -> Options {
    let threads = NonZeroUsize::new(threads).unwrap();
    Options { isa: Some(isa.kind()), precision: Precision::F32, threads, is_pinned: false }
}

fn load(vb: &VarBuilder, padding: Padding, options: &Options) -> MobileNetV2 {
    MobileNetV2::load(vb, padding, (224, 224), options).unwrap()
}

fn assert_close(fast: &Tensor, exact: &Tensor, what: &str) {
    assert_eq!(fast.dims(), exact.dims(), "{what}");
    let difference = (fast - exact).unwrap().abs().unwrap().flatten_all().unwrap();
    let largest: f32 = difference.max(0).unwrap().to_scalar().unwrap();
    assert!(largest < TOLERANCE, "{what}: {largest}");
}

fn images(count: usize, height: usize, width: usize) -> Tensor {
    Tensor::rand(-1f32, 1f32, (count, 3, height, width), &Device::Cpu).unwrap()
}

#[test]
fn folded_weights_with_tensorflow_padding_give_the_reference_logits() {
    let Some(dir) = shared("mobilenet_v2") else { return };
    let vb = stored(&dir.join("model.safetensors"));
    let reference = safetensors::load(dir.join("reference.safetensors"), &Device::Cpu).unwrap();
    let photos = reference["photos_u8"].to_dtype(DType::F32).unwrap();
    let photos = photos.affine(2.0 / 255.0, -1.0).unwrap().permute((0, 3, 1, 2)).unwrap();
    for isa in Isa::every() {
        let network = load(&vb, Padding::TfSame, &f32_on(isa, 1));
        let logits = network.forward(&reference["input"]).unwrap();
        assert_close(&logits, &reference["logits"], &isa.to_string());
        let logits = network.forward(&photos).unwrap();
        assert_close(&logits, &reference["photos_logits"], &isa.to_string());
    }
}

#[test]
fn torchvision_weights_in_half_precision_give_the_reference_logits() {
    let Some(dir) = shared("torchvision_layout") else { return };
    let vb = stored(&dir.join("model.safetensors"));
    let reference = safetensors::load(dir.join("reference.safetensors"), &Device::Cpu).unwrap();
    for isa in Isa::every() {
        let network = load(&vb, Padding::Symmetric, &f32_on(isa, 1));
        let logits = network.forward(&reference["input"]).unwrap();
        assert_close(&logits, &reference["logits"], &isa.to_string());
    }
}

#[test]
fn odd_shapes_agree_with_the_reference_on_every_instruction_set_and_both_paddings() {
    let vb = random(37);
    let shapes = [(1, 64, 64), (2, 33, 47), (1, 97, 32), (1, 1, 1), (3, 7, 90)];
    for padding in [Padding::TfSame, Padding::Symmetric] {
        let exact = reference::MobileNetV2::load(&vb, padding).unwrap();
        for (count, height, width) in shapes {
            let batch = images(count, height, width);
            let wanted = exact.forward(&batch).unwrap();
            for isa in Isa::every() {
                let network = load(&vb, padding, &f32_on(isa, 1));
                let what = format!("{isa} {padding:?} {count}x{height}x{width}");
                assert_close(&network.forward(&batch).unwrap(), &wanted, &what);
            }
        }
    }
}

#[test]
fn batches_of_1_to_17_agree_with_the_reference_and_reuse_their_memory() {
    let vb = random(10);
    let exact = reference::MobileNetV2::load(&vb, Padding::Symmetric).unwrap();
    let batch = images(17, 40, 56);
    let wanted = exact.forward(&batch).unwrap();
    let networks: Vec<_> = [1, 2, 3]
        .map(|threads| load(&vb, Padding::Symmetric, &f32_on(Isa::best(), threads)))
        .into();
    for count in 1..=17 {
        for (threads, network) in (1..).zip(&networks) {
            let logits = network.forward(&batch.narrow(0, 17 - count, count).unwrap()).unwrap();
            let wanted = wanted.narrow(0, 17 - count, count).unwrap();
            assert_close(&logits, &wanted, &format!("batch {count}, {threads} threads"));
        }
    }
}

#[test]
fn threads_on_one_full_size_image_agree_with_one_thread() {
    let vb = random(1000);
    let batch = images(1, 224, 224);
    let alone = load(&vb, Padding::TfSame, &f32_on(Isa::best(), 1));
    let wanted = alone.forward(&batch).unwrap();
    for threads in [2, 5] {
        let network = load(&vb, Padding::TfSame, &f32_on(Isa::best(), threads));
        for _ in 0..3 {
            assert_close(&network.forward(&batch).unwrap(), &wanted, &format!("{threads} threads"));
        }
    }
}

#[test]
fn a_batch_of_the_wrong_kind_is_an_error() {
    let vb = random(10);
    let network = load(&vb, Padding::TfSame, &Options::default());
    let grey = Tensor::zeros((1, 1, 224, 224), DType::F32, &Device::Cpu).unwrap();
    assert!(network.forward(&grey).is_err());
    let bytes = Tensor::zeros((1, 3, 224, 224), DType::U8, &Device::Cpu).unwrap();
    assert!(network.forward(&bytes).is_err());
}
