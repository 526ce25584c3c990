//! Every precision that this machine supports against f32 on hundreds of photos: the shared ones,
//! cropped, flipped, enlarged, blurred, and at other brightnesses.
//!
//! The requirement: where f32 leads by more than one logit, 99 of 100 photos keep their label.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "pixels of photos")]

use candle_core::{Device, Tensor};
use engine::{IsaKind, MobileNetV2, Options, Precision, Target};
use image::imageops::{self, FilterType};
use image::{DynamicImage, RgbImage};
use testdata::{large, skip};
use worker::model::top_k;
use worker::repository::Padding;

use crate::networks::stored;

const SIDE: u32 = 224;
/// The lead in f32 logits that a photo needs to count.
const LEAD: f32 = 1.0;
/// Photos per forward pass.
const BATCH: usize = 8;

/// The centre and other parts of a photo, mirrored, coarser, darker, brighter and paler.
fn variants(photo: &DynamicImage) -> Vec<RgbImage> {
    let (width, height) = (photo.width(), photo.height());
    let part = |left: f32, top: f32, share: f32| {
        let side = width.min(height) as f32 * share;
        let x = ((width as f32 - side) * left) as u32;
        let y = ((height as f32 - side) * top) as u32;
        let cut = photo.crop_imm(x, y, side as u32, side as u32);
        cut.resize_exact(SIDE, SIDE, FilterType::Triangle).into_rgb8()
    };
    let middle = part(0.5, 0.5, 0.875);
    let coarse = imageops::resize(&middle, 96, 96, FilterType::Triangle);
    vec![
        imageops::flip_horizontal(&part(0.5, 0.5, 1.0)),
        part(0.0, 0.0, 0.75),
        part(1.0, 0.5, 0.7),
        imageops::resize(&coarse, SIDE, SIDE, FilterType::Triangle),
        imageops::brighten(&middle, -60),
        imageops::brighten(&middle, 50),
        imageops::contrast(&middle, -40.0),
        imageops::huerotate(&middle, 15),
        middle,
    ]
}

/// All variants of all photos, as three planes each, with values from -1 to 1.
fn photos() -> Option<Vec<f32>> {
    let folder = large("photos")?;
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "jpg" || end == "png"));
    paths.sort();
    let mut planes = Vec::new();
    for path in paths {
        for variant in variants(&image::open(path).unwrap()) {
            for colour in 0..3 {
                let plane = variant.pixels().map(|pixel| f32::from(pixel.0[colour]) / 127.5 - 1.0);
                planes.extend(plane);
            }
        }
    }
    Some(planes)
}

fn logits(network: &MobileNetV2, planes: &[f32]) -> Vec<Vec<f32>> {
    let one = (3 * SIDE * SIDE) as usize;
    let mut rows = Vec::new();
    for batch in planes.chunks(BATCH * one) {
        let shape = (batch.len() / one, 3, SIDE as usize, SIDE as usize);
        let batch = Tensor::from_slice(batch, shape, &Device::Cpu).unwrap();
        rows.extend(network.forward(&batch).unwrap().to_vec2::<f32>().unwrap());
    }
    rows
}

/// How well a network preserves the labels of f32.
#[derive(Debug, Default)]
struct Verdict {
    /// Photos where f32 leads by more than [`LEAD`], and how many of them keep their label.
    clear: usize,
    kept: usize,
    /// How many of all photos keep their label.
    all_kept: usize,
    largest_difference: f32,
}

fn judge(exact: &[Vec<f32>], found: &[Vec<f32>]) -> Verdict {
    let mut verdict = Verdict::default();
    for (exact, found) in exact.iter().zip(found) {
        let best = top_k(exact, 2);
        let is_kept = top_k(found, 1)[0] == best[0];
        verdict.all_kept += usize::from(is_kept);
        if exact[best[0]] - exact[best[1]] > LEAD {
            verdict.clear += 1;
            verdict.kept += usize::from(is_kept);
        }
        let differences = exact.iter().zip(found).map(|(a, b)| (a - b).abs());
        verdict.largest_difference = differences.fold(verdict.largest_difference, f32::max);
    }
    verdict
}

/// The precision, and the instruction set; the fastest of this CPU if `None`.
type Arithmetic = (Precision, Option<IsaKind>);

/// Each precision once, on the fastest instruction set for it: sets differ only in rounding.
fn arithmetics() -> Vec<Arithmetic> {
    let mut found: Vec<Arithmetic> = vec![(Precision::Bf16, None)];
    for (name, precision) in [("f16", Precision::F16), ("int8", Precision::Int8)] {
        let fastest = Target::every().find(|target| target.format().name() == name);
        found.extend(fastest.map(|target| (precision, Some(target.isa().kind()))));
    }
    found
}

#[test]
fn photos_keep_the_label_of_f32_in_every_arithmetic() {
    let Some(weights) = large("mobilenet_v2/model.safetensors") else { return };
    let Some(photos) = photos() else { return };
    let vb = stored(&weights);
    let load = |precision, isa| {
        let options = Options { precision, isa, ..Options::default() };
        MobileNetV2::load(&vb, Padding::TfSame, (SIDE as usize, SIDE as usize), &options)
    };
    let exact = logits(&load(Precision::F32, None).unwrap(), &photos);
    for (precision, isa) in arithmetics() {
        let Ok(network) = load(precision, isa) else {
            skip(&format!("{precision:?} does not run on this machine"));
            continue;
        };
        let verdict = judge(&exact, &logits(&network, &photos));
        eprintln!("{:?} of {} photos: {verdict:?}", network.names(), exact.len());
        assert!(verdict.clear >= 100, "too few clear photos to judge by");
        assert!(verdict.kept * 100 >= verdict.clear * 99, "{:?}: {verdict:?}", network.names());
    }
}
