//! Photographs digits: puts an MNIST digit on a sheet of paper under a lamp, from a seed.
//!
//! Every picture differs in size, position, ink, paper, light and noise; its sort determines what
//! else is difficult about it. The result is the bytes of a file, as a user would upload it.

#![allow(missing_docs, reason = "sorts and scenes are called by what they show")]
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels of test pictures"
)]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "most sorts of photo differ from a plain one in one respect"
)]

pub mod scenes;

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage, imageops};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What is difficult about a photo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Plain,
    Gradient,
    Shadow,
    Noise,
    Pencil,
    Colour,
    Chalk,
    Tiny,
    Specks,
    Compressed,
    Turned,
    Transparent,
}

pub const SORTS: [Sort; 12] = [
    Sort::Plain,
    Sort::Gradient,
    Sort::Shadow,
    Sort::Noise,
    Sort::Pencil,
    Sort::Colour,
    Sort::Chalk,
    Sort::Tiny,
    Sort::Specks,
    Sort::Compressed,
    Sort::Turned,
    Sort::Transparent,
];

/// A photo of `digit` (white on black) as the bytes of a JPEG or PNG file.
pub fn photograph(digit: &GrayImage, sort: Sort, seed: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let coverage = place(digit, sort, &mut rng);
    if sort == Sort::Transparent {
        return transparent(&coverage);
    }
    let sheet = shoot(&coverage, sort, &mut rng);
    match sort {
        Sort::Turned => turned(sheet, rng.random_range(2..=8)),
        Sort::Compressed => jpeg(&sheet, 20),
        _ => jpeg(&sheet, rng.random_range(60..95)),
    }
}

/// How much of each pixel of the sheet is covered by ink.
fn place(digit: &GrayImage, sort: Sort, rng: &mut StdRng) -> GrayImage {
    let (width, height, side) = match sort {
        Sort::Tiny => (1000, 800, rng.random_range(50..100)),
        _ => (rng.random_range(200..420), rng.random_range(200..420), rng.random_range(60..180)),
    };
    let large = imageops::resize(digit, side, side, imageops::FilterType::CatmullRom);
    let mut coverage = GrayImage::new(width, height);
    let left = rng.random_range(4..i64::from(width - side) - 4);
    let top = rng.random_range(4..i64::from(height - side) - 4);
    imageops::replace(&mut coverage, &large, left, top);
    // A pen has sharper edges than an enlarged image of 28 pixels.
    for pixel in coverage.pixels_mut() {
        pixel[0] = ((f32::from(pixel[0]) - 80.0) * 2.5).clamp(0.0, 255.0) as u8;
    }
    coverage
}

fn shoot(coverage: &GrayImage, sort: Sort, rng: &mut StdRng) -> RgbImage {
    let (paper, ink) = materials(sort, rng);
    let (width, height) = (coverage.width() as f32, coverage.height() as f32);
    let angle: f32 = rng.random_range(0.0..std::f32::consts::TAU);
    let fall = match sort {
        Sort::Plain => 0.0,
        Sort::Gradient => rng.random_range(0.2..0.5),
        _ => rng.random_range(0.0..0.2),
    };
    let grain = if sort == Sort::Noise { 14.0 } else { rng.random_range(0.0..5.0) };
    let mut sheet = RgbImage::from_fn(coverage.width(), coverage.height(), |x, y| {
        let along =
            (x as f32 / width - 0.5) * angle.cos() + (y as f32 / height - 0.5) * angle.sin();
        let mut light = 1.0 - fall * (along + 0.5);
        if sort == Sort::Shadow {
            light *= 1.0 - 0.35 / (1.0 + (-along / 0.04).exp());
        }
        let share = f32::from(coverage.get_pixel(x, y)[0]) / 255.0;
        Rgb(std::array::from_fn(|channel| {
            let colour = paper[channel] * (1.0 - share) + ink[channel] * share;
            let noise: f32 = rng.random_range(-1.7..1.7);
            (colour * light + noise * grain).clamp(0.0, 255.0) as u8
        }))
    });
    if sort == Sort::Specks {
        for _ in 0..8 {
            let (x, y) = (rng.random_range(0..sheet.width()), rng.random_range(0..sheet.height()));
            sheet.put_pixel(x, y, Rgb([10; 3]));
        }
    }
    sheet
}

/// Colours of paper and ink.
fn materials(sort: Sort, rng: &mut StdRng) -> ([f32; 3], [f32; 3]) {
    let white: f32 = rng.random_range(190.0..255.0);
    let paper = [white, white * rng.random_range(0.93..1.0), white * rng.random_range(0.85..1.0)];
    let black = [rng.random_range(10.0..60.0); 3];
    match sort {
        Sort::Pencil => (paper, paper.map(|channel| channel * 0.65)),
        Sort::Colour => {
            let inks = [
                [180.0, 30.0, 40.0],
                [30.0, 40.0, 160.0],
                [20.0, 120.0, 50.0],
                [230.0, 200.0, 40.0],
            ];
            (paper, inks[rng.random_range(0..inks.len())])
        }
        Sort::Chalk => ([25.0, 60.0, 45.0], [rng.random_range(180.0..250.0); 3]),
        _ => (paper, black),
    }
}

fn transparent(coverage: &GrayImage) -> Vec<u8> {
    let drawing = RgbaImage::from_fn(coverage.width(), coverage.height(), |x, y| {
        Rgba([0, 0, 0, coverage.get_pixel(x, y)[0]])
    });
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(drawing).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

pub fn jpeg(image: &RgbImage, quality: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(image).unwrap();
    bytes
}

/// A JPEG with its pixels as stored by a camera held in that orientation, and the EXIF tag for it.
pub fn turned(upright: RgbImage, orientation: u8) -> Vec<u8> {
    let upright = DynamicImage::from(upright);
    let stored = match orientation {
        2 => upright.fliph(),
        3 => upright.rotate180(),
        4 => upright.flipv(),
        5 => upright.rotate90().fliph(),
        6 => upright.rotate270(),
        7 => upright.rotate270().fliph(),
        8 => upright.rotate90(),
        _ => upright,
    };
    let mut bytes = jpeg(&stored.into_rgb8(), 92);
    // One little-endian IFD with the single tag 0x0112.
    let mut exif = b"\xFF\xE1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    bytes.splice(2..2, exif);
    bytes
}
