//! Bytes to normalised planes, in one pass over the pixels.

use image::{GrayImage, RgbImage};

use super::picture::Pixels;
use crate::repository::Input;

/// `(p / 255 - mean) / std` for each channel, plane by plane.
pub(super) fn normalise(small: &Pixels, input: &Input) -> Vec<f32> {
    let channels = input.channels();
    let mut planes = vec![0.0; channels * input.width * input.height];
    match small {
        Pixels::Gray(image) => {
            let area = input.width * input.height;
            for (channel, plane) in planes.chunks_exact_mut(area).enumerate() {
                fill(plane, image.as_raw().iter().copied(), &levels(input, channel));
            }
        }
        Pixels::Rgb(image) if channels == 1 => {
            fill(&mut planes, luma(image).as_raw().iter().copied(), &levels(input, 0));
        }
        Pixels::Rgb(image) => {
            let area = input.width * input.height;
            let pixels = image.as_raw().as_chunks::<3>().0;
            for (channel, plane) in planes.chunks_exact_mut(area).enumerate().take(3) {
                let bytes = pixels.iter().map(|pixel| pixel[channel]);
                fill(plane, bytes, &levels(input, channel));
            }
        }
    }
    planes
}

/// The value of each byte in a channel: `p * scale + offset`, equal to dividing twice except for
/// the last bit or two.
///
/// A table, because a fused multiply-add is a function call in builds that may not assume the
/// instruction, which costs a third of a millisecond per picture.
fn levels(input: &Input, channel: usize) -> [f32; 256] {
    let (mean, std) = (input.mean[channel], input.std[channel]);
    let (scale, offset) = (1.0 / (255.0 * std), -mean / std);
    let mut levels = [0.0; 256];
    for (byte, level) in (0u16..).zip(&mut levels) {
        *level = f32::from(byte).mul_add(scale, offset);
    }
    levels
}

fn fill(plane: &mut [f32], bytes: impl Iterator<Item = u8>, levels: &[f32; 256]) {
    for (value, byte) in plane.iter_mut().zip(bytes) {
        *value = levels[usize::from(byte)];
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
