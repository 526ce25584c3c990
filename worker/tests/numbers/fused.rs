//! The fused network against the plain reference and logits of other frameworks.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::num::NonZeroUsize;

use candle_core::{DType, Device, Tensor, safetensors};
use candle_nn::VarBuilder;
use engine::{Format, Isa, IsaKind, MobileNetV2, Options, Precision, Target};
use testdata::large;
use worker::model::Model;
use worker::repository::Padding;

use crate::networks::{drawn, drawn_input, expected, largest_difference, plain, random, stored};

const TOLERANCE: f32 = 1e-3;

fn f32_on(isa: Isa, threads: usize) -> Options {
    let threads = NonZeroUsize::new(threads).unwrap();
    Options { isa: Some(isa.kind()), precision: Precision::F32, threads, ..Options::default() }
}

/// Options that select a target; `None` for formats that only the tests of kernels use on it.
fn options_of(target: Target) -> Option<Options> {
    let precision = match target.format() {
        Format::F32 => Precision::F32,
        Format::F16 if target.isa().kind() == IsaKind::Portable => return None,
        Format::F16 => Precision::F16,
        Format::Int8 => Precision::Int8,
    };
    Some(Options { precision, ..f32_on(target.isa(), 1) })
}

fn load(vb: &VarBuilder, padding: Padding, options: &Options) -> MobileNetV2 {
    MobileNetV2::load(vb, padding, (224, 224), options).unwrap()
}

fn assert_close(fast: &Tensor, exact: &Tensor, what: &str) {
    let largest = largest_difference(fast, exact);
    assert!(largest < TOLERANCE, "{what}: {largest}");
}

fn images(count: usize, height: usize, width: usize) -> Tensor {
    Tensor::rand(-1f32, 1f32, (count, 3, height, width), &Device::Cpu).unwrap()
}

#[test]
fn drawn_weights_give_the_logits_of_another_runtime_on_every_instruction_set() {
    for (padding, key) in [(Padding::Symmetric, "symmetric"), (Padding::TfSame, "tf_same")] {
        for isa in Isa::every() {
            let network = load(&drawn(), padding, &f32_on(isa, 1));
            let logits = network.forward(&drawn_input()).unwrap();
            assert_close(&logits, &expected(key), &format!("{isa} {padding:?}"));
        }
    }
}

#[test]
fn folded_weights_with_tensorflow_padding_give_the_reference_logits() {
    let Some(dir) = large("mobilenet_v2") else { return };
    let vb = stored(&dir.join("model.safetensors"));
    let reference = safetensors::load(dir.join("reference.safetensors"), &Device::Cpu).unwrap();
    let photos = reference["photos_u8"].to_dtype(DType::F32).unwrap();
    let photos = photos.affine(2.0 / 255.0, -1.0).unwrap().permute((0, 3, 1, 2)).unwrap();
    for isa in Isa::every() {
        let network = load(&vb, Padding::TfSame, &f32_on(isa, 1));
        let logits = network.forward(&reference["input"]).unwrap();
        assert_close(&logits, &reference["logits"], &isa.to_string());
        // Portable code takes ten times as long per photo.
        let count = if isa.kind() == IsaKind::Portable { 2 } else { photos.dim(0).unwrap() };
        let logits = network.forward(&photos.narrow(0, 0, count).unwrap()).unwrap();
        let wanted = reference["photos_logits"].narrow(0, 0, count).unwrap();
        assert_close(&logits, &wanted, &isa.to_string());
    }
}

#[test]
fn torchvision_weights_in_half_precision_give_the_reference_logits() {
    let Some(dir) = large("torchvision_layout") else { return };
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
    let shapes =
        [(1, 64, 64), (2, 33, 47), (1, 97, 32), (1, 1, 1), (3, 7, 90), (2, 131, 227), (1, 9, 251)];
    for padding in [Padding::TfSame, Padding::Symmetric] {
        let exact = plain(&vb, padding);
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
fn batches_of_1_to_17_agree_with_the_reference_on_every_set_both_paddings_and_reuse_their_memory() {
    let vb = random(10);
    let batch = images(17, 24, 33);
    for padding in [Padding::Symmetric, Padding::TfSame] {
        let exact = plain(&vb, padding);
        let wanted = exact.forward(&batch).unwrap();
        let alone = Isa::every().map(|isa| (isa, 1));
        let together = [2, 3].map(|threads| (Isa::best(), threads));
        for (isa, threads) in alone.chain(together) {
            let network = load(&vb, padding, &f32_on(isa, threads));
            // Padding affects each image separately: one is tried with every batch size, and the
            // other only with the extremes.
            let counts =
                (1..=17).filter(|count| padding == Padding::TfSame || [1, 2, 17].contains(count));
            for count in counts {
                let logits = network.forward(&batch.narrow(0, 17 - count, count).unwrap()).unwrap();
                let wanted = wanted.narrow(0, 17 - count, count).unwrap();
                let what = format!("batch {count}, {isa}, {threads} threads, {padding:?}");
                assert_close(&logits, &wanted, &what);
            }
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

/// Compares the size of differences with the size of logits; made-up weights lose more in int8 than
/// trained ones.
#[test]
fn low_precision_follows_f32_on_every_set_and_shape() {
    let vb = random(37);
    let power =
        |tensor: &Tensor| tensor.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
    for (count, height, width) in [(1, 64, 64), (2, 33, 47), (1, 97, 32), (3, 7, 90)] {
        let batch = images(count, height, width);
        let exact = load(&vb, Padding::Symmetric, &f32_on(Isa::best(), 1)).forward(&batch).unwrap();
        for options in Target::every().filter_map(options_of) {
            let network = load(&vb, Padding::Symmetric, &options);
            let found = network.forward(&batch).unwrap();
            let share = (power(&(found - &exact).unwrap()) / power(&exact)).sqrt();
            let allowed = if options.precision == Precision::Int8 { 0.35 } else { 0.05 };
            let what = format!("{:?} {count}x{height}x{width}", network.names());
            assert!(share < allowed, "{what}: {share}");
        }
    }
}

#[test]
fn an_image_has_the_same_logits_in_every_batch_and_on_any_number_of_threads() {
    let vb = random(10);
    let batch = images(17, 24, 33);
    for options in Target::every().filter_map(options_of) {
        let threads = |threads| Options { threads: NonZeroUsize::new(threads).unwrap(), ..options };
        let networks = [1, 2, 3].map(|count| load(&vb, Padding::TfSame, &threads(count)));
        let wanted = networks[0].forward(&batch).unwrap();
        for count in [1, 2, 7, 9] {
            for network in &networks {
                let logits = network.forward(&batch.narrow(0, 3, count).unwrap()).unwrap();
                let largest = largest_difference(&logits, &wanted.narrow(0, 3, count).unwrap());
                assert!(largest < 1e-4, "{:?} batch {count}: {largest}", network.names());
            }
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
