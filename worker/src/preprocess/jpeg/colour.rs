//! From the channels of a JPEG to pixels: coarser channels enlarged, colours converted, as libjpeg
//! and Pillow do it.

use super::channel::Plane;
use super::header::Colour;
use crate::preprocess::picture::Pixels;
use image::{GrayImage, RgbImage};

/// The picture of the given size; `None` when the channels are not those of `colour`.
pub(super) fn pixels(planes: &[Plane], colour: Colour, size: (u32, u32)) -> Option<Pixels> {
    match (planes, colour) {
        ([gray], Colour::Gray) => gray_image(gray, size).map(Pixels::Gray),
        ([luma, blue, red], Colour::YCbCr) => {
            rows([luma, blue, red], size, ycbcr_row).map(Pixels::Rgb)
        }
        ([red, green, blue], Colour::Rgb) => {
            rows([red, green, blue], size, rgb_row).map(Pixels::Rgb)
        }
        ([cyan, magenta, yellow, black], Colour::Cmyk) => {
            rows([cyan, magenta, yellow, black], size, cmyk_row).map(Pixels::Rgb)
        }
        ([luma, blue, red, black], Colour::Ycck) => {
            rows([luma, blue, red, black], size, ycck_row).map(Pixels::Rgb)
        }
        _ => None,
    }
}

fn gray_image(plane: &Plane, (width, height): (u32, u32)) -> Option<GrayImage> {
    let rows = plane.bytes.chunks_exact(plane.stride).take(height as usize);
    let bytes: Vec<u8> = rows.flat_map(|row| &row[..width as usize]).copied().collect();
    GrayImage::from_raw(width, height, bytes)
}

/// A row of pixels from a row of each channel.
type Convert<const N: usize> = fn(&mut [[u8; 3]], [&[u8]; N]);

fn rows<const N: usize>(
    planes: [&Plane; N],
    size: (u32, u32),
    convert: Convert<N>,
) -> Option<RgbImage> {
    let (width, height) = (size.0 as usize, size.1 as usize);
    let mut bytes = vec![0; width * height * 3];
    let mut wide: [Vec<u8>; N] = std::array::from_fn(|_| Vec::new());
    for (y, line) in bytes.chunks_exact_mut(width * 3).enumerate() {
        let mut buffers = wide.iter_mut();
        let channels = planes.map(|plane| {
            let buffer = buffers.next().expect("as many as planes");
            plane.row(y, width, buffer)
        });
        convert(line.as_chunks_mut::<3>().0, channels);
    }
    RgbImage::from_raw(size.0, size.1, bytes)
}

/// YCbCr of JFIF to RGB, in 16-bit fixed point.
fn ycbcr(light: u8, blue: u8, red: u8) -> [u8; 3] {
    let light = (i32::from(light) << 16) + (1 << 15);
    let (blue, red) = (i32::from(blue) - 128, i32::from(red) - 128);
    [light + 91_881 * red, light - 22_554 * blue - 46_802 * red, light + 116_130 * blue]
        .map(|value| u8::try_from((value >> 16).clamp(0, 255)).unwrap_or(u8::MAX))
}

fn ycbcr_row(line: &mut [[u8; 3]], [light, blue, red]: [&[u8]; 3]) {
    for (pixel, ((&light, &blue), &red)) in line.iter_mut().zip(light.iter().zip(blue).zip(red)) {
        *pixel = ycbcr(light, blue, red);
    }
}

fn rgb_row(line: &mut [[u8; 3]], [red, green, blue]: [&[u8]; 3]) {
    for (pixel, ((&red, &green), &blue)) in line.iter_mut().zip(red.iter().zip(green).zip(blue)) {
        *pixel = [red, green, blue];
    }
}

/// Adobe stores how much light each ink leaves, and everyone else has followed.
fn cmyk_row(line: &mut [[u8; 3]], [cyan, magenta, yellow, black]: [&[u8]; 4]) {
    let inks = cyan.iter().zip(magenta).zip(yellow).zip(black);
    for (pixel, (((&cyan, &magenta), &yellow), &black)) in line.iter_mut().zip(inks) {
        *pixel = [cyan, magenta, yellow].map(|ink| times(ink, black));
    }
}

/// The inks but black as the complements of RGB, in YCbCr.
fn ycck_row(line: &mut [[u8; 3]], [light, blue, red, black]: [&[u8]; 4]) {
    let channels = light.iter().zip(blue).zip(red).zip(black);
    for (pixel, (((&light, &blue), &red), &black)) in line.iter_mut().zip(channels) {
        *pixel = ycbcr(light, blue, red).map(|ink| times(255 - ink, black));
    }
}

fn times(left: u8, right: u8) -> u8 {
    let product = u32::from(left) * u32::from(right) + 127;
    u8::try_from(product / 255).unwrap_or(u8::MAX)
}

impl Plane {
    /// The first `width` bytes of row `y` of the picture, enlarged as `spread` says.
    fn row<'a>(&'a self, y: usize, width: usize, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        if self.spread == (1, 1) {
            return &self.line(y)[..width];
        }
        buffer.clear();
        match self.spread {
            (1, 2) => buffer.extend(self.blend(y, [1, 2]).map(|sum| narrow(sum >> 2))),
            (2, 1) if self.size.0 > 2 => {
                let line = self.line(y);
                let value = |at: usize| u32::from(line[at]);
                widen(self.size.0, value, buffer, |near, far, side| {
                    (3 * near + far + 1 + side) >> 2
                });
            }
            (2, 2) if self.size.0 > 2 => {
                let sums: Vec<u32> = self.blend(y, [0, 0]).collect();
                widen(
                    self.size.0,
                    |at| sums[at],
                    buffer,
                    |near, far, side| (3 * near + far + 8 - side) >> 4,
                );
            }
            (across, down) => {
                let line = self.line(y / down);
                buffer.extend(line.iter().flat_map(|&byte| std::iter::repeat_n(byte, across)));
            }
        }
        &buffer[..width]
    }

    /// What belongs to the picture of a row of this plane.
    fn line(&self, y: usize) -> &[u8] {
        let y = y.min(self.size.1 - 1);
        &self.bytes[y * self.stride..][..self.size.0]
    }

    /// Three parts of the row that covers row `y` of the picture and one of the nearest other, and
    /// what is added for rounding in the upper and the lower half.
    fn blend(&self, y: usize, rounding: [u32; 2]) -> impl Iterator<Item = u32> {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { near + 1 };
        let pairs = self.line(near).iter().zip(self.line(far));
        pairs.map(move |(&near, &far)| 3 * u32::from(near) + u32::from(far) + rounding[y % 2])
    }
}

/// Two pixels of each: three parts of it and one of the neighbour on that side, of which the last
/// argument of `mix` tells: 0 left, 1 right.
fn widen(
    count: usize,
    value: impl Fn(usize) -> u32,
    buffer: &mut Vec<u8>,
    mix: impl Fn(u32, u32, u32) -> u32,
) {
    for at in 0..count {
        let near = value(at);
        let (left, right) = (value(at.saturating_sub(1)), value((at + 1).min(count - 1)));
        buffer.push(narrow(mix(near, left, 0)));
        buffer.push(narrow(mix(near, right, 1)));
    }
}

fn narrow(value: u32) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
