//! The reference network against logits computed by other frameworks from the same weights.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors};
use testdata::large;
use worker::model::{Model, mobilenet_v2::MobileNetV2};
use worker::preprocess::{Limits, Picture, decode, decode_for, prepare};
use worker::repository::{Filter, Input, Padding, Resize};

use crate::networks::{drawn, drawn_input, expected, largest_difference, plain, stored};

const TOLERANCE: f32 = 1e-3;
/// JPEG decoders round differently: a few pixels are off by one or two levels out of 255.
const PICTURE_TOLERANCE: f32 = 0.05;

fn network(weights: &Path, padding: Padding) -> MobileNetV2 {
    plain(&stored(weights), padding)
}

fn tf_input() -> Input {
    Input {
        width: 224,
        height: 224,
        resize: Resize::ShorterSide { shorter_side: 256, filter: Filter::Bilinear },
        mean: vec![0.5; 3],
        std: vec![0.5; 3],
    }
}

/// Self-contained: weights and images are generated, and the logits are from ONNX Runtime.
#[test]
fn drawn_weights_give_the_logits_of_another_runtime_with_both_paddings() {
    let batch = drawn_input();
    for (padding, key) in [(Padding::Symmetric, "symmetric"), (Padding::TfSame, "tf_same")] {
        let network = MobileNetV2::load(&drawn(), padding).unwrap();
        let logits = network.forward(&batch).unwrap();
        assert!(largest_difference(&logits, &expected(key)) < TOLERANCE, "{padding:?}");
    }
    let difference = largest_difference(&expected("symmetric"), &expected("tf_same"));
    assert!(difference > 100.0 * TOLERANCE, "the padding must matter: {difference}");
}

/// Decoded, resized, cropped and scaled as by Pillow, then run through the same network.
#[test]
fn a_picture_gives_the_logits_of_pillow_with_another_runtime() {
    let picture = decode(include_bytes!("../data/jpeg/444.jpg"), &Limits::default()).unwrap();
    let network = plain(&drawn(), Padding::TfSame);
    let difference = |input: &Input| {
        let planes = prepare(&picture, input).unwrap();
        let batch = Tensor::from_vec(planes, (1, 3, 224, 224), &Device::Cpu).unwrap();
        largest_difference(&network.forward(&batch).unwrap(), &expected("picture_logits"))
    };
    let same = difference(&tf_input());
    assert!(same < PICTURE_TOLERANCE, "{same}");
    let others = [
        Resize::ShorterSide { shorter_side: 256, filter: Filter::Bicubic },
        Resize::ShorterSide { shorter_side: 240, filter: Filter::Bilinear },
        Resize::Squash { filter: Filter::Bilinear },
    ];
    for resize in others {
        let other = difference(&Input { resize, ..tf_input() });
        assert!(other > PICTURE_TOLERANCE, "{resize:?} must matter: {other}");
    }
}

#[test]
fn folded_weights_with_tensorflow_padding_give_the_reference_logits() {
    let Some(dir) = large("mobilenet_v2") else { return };
    let network = network(&dir.join("model.safetensors"), Padding::TfSame);
    let reference = safetensors::load(dir.join("reference.safetensors"), &Device::Cpu).unwrap();
    let logits = network.forward(&reference["input"]).unwrap();
    assert!(largest_difference(&logits, &reference["logits"]) < TOLERANCE);

    let photos = reference["photos_u8"].to_dtype(DType::F32).unwrap();
    let photos = photos.affine(2.0 / 255.0, -1.0).unwrap().permute((0, 3, 1, 2)).unwrap();
    let logits = network.forward(&photos.contiguous().unwrap()).unwrap();
    assert!(largest_difference(&logits, &reference["photos_logits"]) < TOLERANCE);
}

#[test]
fn torchvision_weights_in_half_precision_give_the_reference_logits() {
    let Some(dir) = large("torchvision_layout") else { return };
    let network = network(&dir.join("model.safetensors"), Padding::Symmetric);
    let reference = safetensors::load(dir.join("reference.safetensors"), &Device::Cpu).unwrap();
    let logits = network.forward(&reference["input"]).unwrap();
    assert!(largest_difference(&logits, &reference["logits"]) < TOLERANCE);
}

#[test]
fn padding_is_not_a_detail() {
    let Some(dir) = large("mobilenet_v2") else { return };
    let network = network(&dir.join("model.safetensors"), Padding::Symmetric);
    let reference = safetensors::load(dir.join("reference.safetensors"), &Device::Cpu).unwrap();
    let input = reference["input"].narrow(0, 0, 1).unwrap();
    let logits = network.forward(&input).unwrap();
    assert!(largest_difference(&logits, &reference["logits"].narrow(0, 0, 1).unwrap()) > 1.0);
}

#[test]
fn shared_photos_get_the_label_that_the_reference_gives_them() {
    let Some(dir) = large("photos") else { return };
    let Some(weights) = large("mobilenet_v2/model.safetensors") else { return };
    let network = network(&weights, Padding::TfSame);
    let table = std::fs::read_to_string(dir.join("labels.csv")).unwrap();
    let mut wrong = Vec::new();
    for line in table.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let bytes = std::fs::read(dir.join(columns[0])).unwrap();
        let picture = decode(&bytes, &Limits::default()).unwrap();
        let best = top_1(&network, &picture);
        if best.to_string() != columns[8] {
            wrong.push(format!("{}: {best}, not {} ({})", columns[0], columns[8], columns[11]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn top_1(network: &MobileNetV2, picture: &Picture) -> u32 {
    let planes = prepare(picture, &tf_input()).unwrap();
    let batch = Tensor::from_vec(planes, (1, 3, 224, 224), &Device::Cpu).unwrap();
    network.forward(&batch).unwrap().argmax(1).unwrap().to_vec1().unwrap()[0]
}

/// Every tenth photo, to keep the test short.
#[test]
fn photos_of_twelve_megapixels_keep_their_label_when_decoded_reduced() {
    let Some(dir) = large("photos") else { return };
    let Some(weights) = large("mobilenet_v2/model.safetensors") else { return };
    let network = network(&weights, Padding::TfSame);
    let table = std::fs::read_to_string(dir.join("labels.csv")).unwrap();
    for line in table.lines().skip(1).step_by(10) {
        let name = line.split(',').next().unwrap();
        let small = image::open(dir.join(name)).unwrap();
        let large = small.resize(4000, 3000, image::imageops::FilterType::Triangle).into_rgb8();
        let mut bytes = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90)
            .encode_image(&large)
            .unwrap();
        // Only a test decodes such a picture at full size.
        let enough = Limits { max_bytes: 128 << 20, ..Limits::default() };
        let exact = decode(&bytes, &enough).unwrap();
        let reduced = decode_for(&bytes, &Limits::default(), &|| false, &tf_input()).unwrap();
        assert!(reduced.bytes() * 10 < exact.bytes(), "{name}");
        assert_eq!(top_1(&network, &reduced), top_1(&network, &exact), "{name}");
    }
}
