//! Bytes to normalised planes, in one pass over the pixels.

use super::picture::Pixels;
use crate::repository::Input;
use image::{GrayImage, RgbImage};

/// `(p / 255 - mean) / std` for each channel, plane by plane.
pub(super) fn normalise(small: &Pixels, input: &Input) -> Vec<f32> {
    let channels = input.channels();
    let mut planes = vec![0.0; channels * input.width * input.height];
    match small {
        Pixels::Gray(image) => {
            let area = input.width * input.height;
            for (channel, plane) in planes.chunks_exact_mut(area).enumerate() {
                fill(plane, image.as_raw().iter(), Affine::of(input, channel));
            }
        }
        Pixels::Rgb(image) if channels == 1 => {
            fill(&mut planes, luma(image).as_raw().iter(), Affine::of(input, 0));
        }
        Pixels::Rgb(image) => {
            let area = input.width * input.height;
            for (channel, plane) in planes.chunks_exact_mut(area).enumerate().take(3) {
                let bytes = image.as_raw()[channel..].iter().step_by(3);
                fill(plane, bytes, Affine::of(input, channel));
            }
        }
    }
    planes
}

/// `p * scale + offset`, the same as dividing twice to the last bit or two.
#[derive(Debug, Clone, Copy)]
struct Affine {
    scale: f32,
    offset: f32,
}

impl Affine {
    fn of(input: &Input, channel: usize) -> Self {
        let (mean, std) = (input.mean[channel], input.std[channel]);
        Self { scale: 1.0 / (255.0 * std), offset: -mean / std }
    }
}

fn fill<'a>(plane: &mut [f32], bytes: impl Iterator<Item = &'a u8>, affine: Affine) {
    for (value, &byte) in plane.iter_mut().zip(bytes) {
        *value = f32::from(byte).mul_add(affine.scale, affine.offset);
    }
}

/// ITU-R 601 luma with Pillow's rounding.
pub(super) fn luma(image: &RgbImage) -> GrayImage {
    let pixels = image.as_raw().as_chunks::<3>().0;
    let gray = pixels.iter().map(|&[r, g, b]| {
        let sum = u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000;
        u8::try_from(sum >> 16).expect("the weights sum to one")
    });
    GrayImage::from_raw(image.width(), image.height(), gray.collect())
        .expect("one byte was made for each pixel")
}
