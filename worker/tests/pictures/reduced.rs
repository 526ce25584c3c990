//! JPEG decoded at a fraction of its size against the whole picture, in every chroma layout.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels of test pictures"
)]

use std::path::Path;

use proptest::prelude::*;
use worker::preprocess::{ImageError, Limits, decode, decode_for, prepare};
use worker::repository::{Filter, Input, Resize};

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jpeg");
    std::fs::read(folder.join(name)).unwrap()
}

fn squash(side: usize) -> Input {
    let resize = Resize::Squash { filter: Filter::Bilinear };
    Input { width: side, height: side, resize, mean: vec![0.0; 3], std: vec![1.0 / 255.0; 3] }
}

/// How far a reduced picture is from the whole one.
#[derive(Debug)]
struct Comparison {
    /// Mean and largest difference in levels.
    mean: f32,
    largest: f32,
    /// The factor by which the bytes of pixels are reduced.
    saved: usize,
}

fn compare(bytes: &[u8], input: &Input) -> Comparison {
    let whole = decode(bytes, &Limits::default()).unwrap();
    let reduced = decode_for(bytes, &Limits::default(), &|| false, input).unwrap();
    assert_eq!((reduced.width(), reduced.height()), (whole.width(), whole.height()));
    let (left, right) = (prepare(&whole, input).unwrap(), prepare(&reduced, input).unwrap());
    let differences = left.iter().zip(&right).map(|(a, b)| (a - b).abs());
    let mean = differences.clone().sum::<f32>() / left.len() as f32;
    let largest = differences.fold(0.0, f32::max);
    Comparison { mean, largest, saved: whole.bytes() / reduced.bytes() }
}

#[test]
fn every_layout_of_chroma_stays_close_at_every_reduction() {
    for name in
        ["420.jpg", "422.jpg", "444.jpg", "grey.jpg", "restarts.jpg", "progressive.jpg", "cmyk.jpg"]
    {
        for (side, fewer) in [(16, 64), (30, 16), (60, 4)] {
            let found = compare(&fixture(name), &squash(side));
            assert_eq!(found.saved, fewer, "{name} at {side}");
            assert!(found.mean < 1.2 && found.largest < 16.0, "{name} at {side}: {found:?}");
        }
        let found = compare(&fixture(name), &squash(100));
        assert!(found.largest == 0.0 && found.saved == 1, "{name} is not worth reducing to 100");
    }
}

#[test]
fn a_turned_photo_is_reduced_and_turned() {
    let scene = image::RgbImage::from_fn(300, 240, |x, y| {
        image::Rgb([(x * 5 / 6) as u8, y as u8, if x < 90 && y > 150 { 250 } else { 20 }])
    });
    for orientation in 1..=8 {
        let resize = Resize::ShorterSide { shorter_side: 40, filter: Filter::Bicubic };
        let input = Input { resize, ..squash(32) };
        let found = compare(&sheets::turned(scene.clone(), orientation), &input);
        assert_eq!(found.saved, 16, "orientation {orientation}");
        let is_close = found.mean < 1.2 && found.largest < 40.0;
        assert!(is_close, "orientation {orientation}: {found:?}");
    }
}

#[test]
fn a_cut_off_photo_is_refused() {
    for name in ["420.jpg", "restarts.jpg", "progressive.jpg", "cmyk.jpg"] {
        let bytes = fixture(name);
        for length in [bytes.len() / 2, bytes.len() * 9 / 10] {
            let cut = decode_for(&bytes[..length], &Limits::default(), &|| false, &squash(16));
            assert!(matches!(cut, Err(ImageError::Malformed(_))), "{name}: {cut:?}");
        }
    }
}

#[test]
fn limits_hold_before_anything_is_decoded() {
    let limits = Limits { max_pixels: 1000, ..Limits::default() };
    let refused = decode_for(&fixture("420.jpg"), &limits, &|| false, &squash(16));
    assert!(matches!(refused, Err(ImageError::TooManyPixels { width: 200, .. })), "{refused:?}");
}

proptest! {
    #[test]
    fn damage_never_panics(
        name in prop::sample::select(vec![
            "420.jpg", "422.jpg", "444.jpg", "grey.jpg", "restarts.jpg", "progressive.jpg", "cmyk.jpg",
        ]),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = fixture(name);
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let limits = Limits { max_pixels: 4_000_000, max_bytes: 32 << 20 };
        if let Ok(picture) = decode_for(&bytes, &limits, &|| false, &squash(16)) {
            prop_assert_eq!(prepare(&picture, &squash(16)).unwrap().len(), 3 * 256);
        }
    }
}
