//! Uploads of every kind: what is decoded, what is refused and why, and what a network receives.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels of test pictures"
)]

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use proptest::prelude::*;
use worker::preprocess::{ImageError, Limits, decode, prepare};
use worker::repository::{Filter, Input, Resize};

fn input(resize: Resize, side: usize) -> Input {
    Input { width: side, height: side, resize, mean: vec![0.0; 3], std: vec![1.0 / 255.0; 3] }
}

fn squash(side: usize) -> Input {
    input(Resize::Squash { filter: Filter::Bilinear }, side)
}

/// A picture without any symmetry.
fn scene(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
        Rgb([x * 250.0, y * y * 250.0, if x < 0.3 && y > 0.6 { 250.0 } else { 20.0 }]
            .map(|v: f32| v as u8))
    })
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn decoded(bytes: &[u8], input: &Input) -> Vec<f32> {
    prepare(&decode(bytes, &Limits::default()).unwrap(), input).unwrap()
}

fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A PNG file that declares a size but has no pixels.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encoded(RgbImage::new(1, 1), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn every_format_gives_the_same_picture() {
    let picture = scene(60, 40);
    let expected = decoded(&encoded(picture.clone(), ImageFormat::Png), &squash(20));
    for (format, tolerance) in [
        (ImageFormat::Jpeg, 16.0),
        (ImageFormat::WebP, 0.0),
        (ImageFormat::Bmp, 0.0),
        (ImageFormat::Tiff, 0.0),
        (ImageFormat::Gif, 40.0),
    ] {
        let bytes = encoded(picture.clone(), format);
        let difference = largest_difference(&expected, &decoded(&bytes, &squash(20)));
        assert!(difference <= tolerance, "{format:?}: {difference}");
    }
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    let refused = decode(&bomb(20_000, 20_000), &Limits::default());
    assert!(matches!(refused, Err(ImageError::TooManyPixels { width: 20_000, .. })), "{refused:?}");
    let limits = Limits { max_bytes: 1000, ..Limits::default() };
    let refused = decode(&encoded(scene(30, 30), ImageFormat::Png), &limits);
    assert!(matches!(refused, Err(ImageError::TooMuchMemory { max_bytes: 1000 })), "{refused:?}");
}

#[test]
fn what_is_no_image_is_told_from_a_damaged_one() {
    for bytes in [&b""[..], b"just text", &[0; 40]] {
        assert!(matches!(decode(bytes, &Limits::default()), Err(ImageError::UnknownFormat)));
    }
    let document = decode(b"%PDF-1.7 and so on", &Limits::default());
    assert!(matches!(document, Err(ImageError::NotDecoded(why)) if why.contains("PDF")));
    for format in
        [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp]
    {
        let bytes = encoded(scene(64, 64), format);
        let cut = decode(&bytes[..bytes.len() / 2], &Limits::default());
        assert!(matches!(cut, Err(ImageError::Malformed(_))), "{format:?}: {cut:?}");
    }
}

#[test]
fn transparency_is_laid_over_white() {
    let mut clear = RgbaImage::from_pixel(8, 8, Rgba([0, 0, 0, 0]));
    clear.put_pixel(0, 0, Rgba([200, 100, 0, 255]));
    clear.put_pixel(1, 0, Rgba([0, 0, 0, 128]));
    let planes = decoded(&encoded(clear, ImageFormat::Png), &squash(8));
    let pixel = |at: usize| {
        [planes[at], planes[64 + at], planes[128 + at]].map(|value| value.round() as u8)
    };
    assert_eq!(pixel(0), [200, 100, 0]);
    assert_eq!(pixel(1), [127; 3]);
    assert_eq!(pixel(9), [255; 3]);
}

#[test]
fn a_turned_camera_changes_nothing() {
    let crop = input(Resize::ShorterSide { shorter_side: 32, filter: Filter::Bicubic }, 24);
    for size in [(90, 61), (61, 90)] {
        let upright = scene(size.0, size.1);
        let expected = decoded(&sheets::turned(upright.clone(), 1), &crop);
        for orientation in 2..=8 {
            let bytes = sheets::turned(upright.clone(), orientation);
            let picture = decode(&bytes, &Limits::default()).unwrap();
            assert_eq!((picture.width(), picture.height()), size, "orientation {orientation}");
            let difference = largest_difference(&expected, &prepare(&picture, &crop).unwrap());
            assert!(difference < 8.0, "orientation {orientation}: {difference}");
        }
    }
}

#[test]
fn one_channel_is_luma_and_grey_fills_three() {
    let gray = Input { mean: vec![0.5], std: vec![0.5], ..squash(4) };
    let colour = RgbImage::from_pixel(4, 4, Rgb([255, 0, 0]));
    let planes = decoded(&encoded(colour, ImageFormat::Png), &gray);
    assert_eq!(planes.len(), 16);
    assert!((planes[0] - (76.0 / 127.5 - 1.0)).abs() < 1e-5, "{}", planes[0]);
    let gray = image::GrayImage::from_pixel(4, 4, image::Luma([51]));
    let planes = decoded(&encoded(gray, ImageFormat::Png), &squash(4));
    assert!(planes.len() == 48 && planes.iter().all(|value| (value - 51.0).abs() < 1e-3));
}

#[test]
fn a_sliver_of_a_million_pixels_costs_nothing() {
    let crop = input(Resize::ShorterSide { shorter_side: 256, filter: Filter::Bicubic }, 224);
    for (width, height) in [(60_000, 1), (1, 60_000)] {
        let sliver = RgbImage::from_pixel(width, height, Rgb([10, 20, 30]));
        let planes = decoded(&encoded(sliver, ImageFormat::Png), &crop);
        assert!((planes[0] - 10.0).abs() < 1.0 && (planes[2 * 224 * 224] - 30.0).abs() < 1.0);
    }
}

proptest! {
    #[test]
    fn damage_never_panics(
        format in prop::sample::select(vec![
            ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif,
            ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff,
        ]),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = encoded(scene(33, 21), format);
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let limits = Limits { max_pixels: 1_000_000, max_bytes: 16 << 20 };
        if let Ok(picture) = decode(&bytes, &limits) {
            prop_assert_eq!(prepare(&picture, &squash(8)).unwrap().len(), 192);
        }
    }
}
