//! Turns the channels of a JPEG into pixels, enlarging coarser channels and converting colours as
//! libjpeg and Pillow do.

#![allow(
    clippy::inline_always,
    reason = "inner loops run over lanes where nothing is called in them"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "products of two bytes and fractions, and clamped"
)]

use image::{GrayImage, RgbImage};

use super::channel::Plane;
use super::header::Colour;
use crate::preprocess::picture::Pixels;

/// A picture whose rows are being computed.
pub(super) struct Canvas {
    colour: Colour,
    size: (usize, usize),
    /// Rows so far.
    made: usize,
    bytes: Vec<u8>,
    /// The enlarged row of each channel that is coarser than the picture.
    wide: [Vec<u8>; 4],
}

impl Canvas {
    /// A picture of the given size, without any rows yet.
    pub(super) fn new(colour: Colour, size: (u32, u32)) -> Self {
        let size = (size.0 as usize, size.1 as usize);
        let channels = if colour == Colour::Gray { 1 } else { 3 };
        let bytes = vec![0; size.0 * size.1 * channels];
        Self { colour, size, made: 0, bytes, wide: Default::default() }
    }

    /// Computes the missing rows before `end`, as far as the picture goes; `None` if the channels
    /// are not those of its colour.
    pub(super) fn paint(&mut self, planes: &[&Plane], end: usize) -> Option<()> {
        let end = end.min(self.size.1);
        match (planes, self.colour) {
            ([gray], Colour::Gray) => self.grey(gray, end),
            ([luma, blue, red], Colour::YCbCr) => self.rows([luma, blue, red], end, ycbcr_row),
            ([red, green, blue], Colour::Rgb) => self.rows([red, green, blue], end, rgb_row),
            ([cyan, magenta, yellow, black], Colour::Cmyk) => {
                self.rows([cyan, magenta, yellow, black], end, cmyk_row);
            }
            ([luma, blue, red, black], Colour::Ycck) => {
                self.rows([luma, blue, red, black], end, ycck_row);
            }
            _ => return None,
        }
        self.made = end;
        Some(())
    }

    /// The picture, once all rows are computed.
    pub(super) fn finish(self) -> Option<Pixels> {
        let (width, height) = (self.size.0 as u32, self.size.1 as u32);
        if self.colour == Colour::Gray {
            return GrayImage::from_raw(width, height, self.bytes).map(Pixels::Gray);
        }
        RgbImage::from_raw(width, height, self.bytes).map(Pixels::Rgb)
    }

    fn grey(&mut self, plane: &Plane, end: usize) {
        let width = self.size.0;
        for y in self.made..end {
            self.bytes[y * width..][..width].copy_from_slice(&plane.line(y)[..width]);
        }
    }

    fn rows<const N: usize>(&mut self, planes: [&Plane; N], end: usize, convert: Convert<N>) {
        let width = self.size.0;
        let lines = &mut self.bytes[self.made * width * 3..end * width * 3];
        for (y, line) in (self.made..).zip(lines.chunks_exact_mut(width * 3)) {
            let mut buffers = self.wide.iter_mut();
            let channels = planes.map(|plane| {
                let buffer = buffers.next().expect("four, and no colour has more channels");
                plane.row(y, width, buffer)
            });
            convert(line.as_chunks_mut::<3>().0, channels);
        }
    }
}

/// A row of pixels from a row of each channel.
type Convert<const N: usize> = fn(&mut [[u8; 3]], [&[u8]; N]);

/// The fractional part of a factor, in 16 bits.
const fn part(factor: f64) -> i32 {
    (factor * 65_536.0 + 0.5) as i32
}

/// JFIF's YCbCr to RGB, rounded as in libjpeg. Written this way, all factors are between minus one
/// half and one half, so that sixteen bits are enough for the operands.
#[inline(always)]
fn ycbcr(light: u8, blue: u8, red: u8) -> [u8; 3] {
    let narrow = |value: i16| value.clamp(0, 255) as u8;
    let light = i16::from(light);
    let (blue, red) = (i16::from(blue) - 128, i16::from(red) - 128);
    let times = |value: i16, factor: i32| {
        let twice = (i32::from(value * 2) * factor) >> 16;
        (twice as i16 + 1) >> 1
    };
    let (red_of_red, blue_of_blue) = (times(red, part(0.402)), times(blue, -part(0.228)));
    let green = i32::from(blue) * -part(0.344_136) + i32::from(red) * part(0.285_864) + (1 << 15);
    [
        narrow(light + red + red_of_red),
        narrow(light - red + (green >> 16) as i16),
        narrow(light + 2 * blue + blue_of_blue),
    ]
}

/// Pixels that are converted together.
const LANES: usize = 16;

fn ycbcr_row(line: &mut [[u8; 3]], [light, blue, red]: [&[u8]; 3]) {
    let (chunks, rest) = line.as_chunks_mut::<LANES>();
    let ((lights, light), (blues, blue), (reds, red)) =
        (light.as_chunks::<LANES>(), blue.as_chunks::<LANES>(), red.as_chunks::<LANES>());
    for (pixels, ((light, blue), red)) in chunks.iter_mut().zip(lights.iter().zip(blues).zip(reds))
    {
        let mut planes = [[0; LANES]; 3];
        for at in 0..LANES {
            let [r, g, b] = ycbcr(light[at], blue[at], red[at]);
            (planes[0][at], planes[1][at], planes[2][at]) = (r, g, b);
        }
        for (at, pixel) in pixels.iter_mut().enumerate() {
            *pixel = [planes[0][at], planes[1][at], planes[2][at]];
        }
    }
    for (pixel, ((&light, &blue), &red)) in rest.iter_mut().zip(light.iter().zip(blue).zip(red)) {
        *pixel = ycbcr(light, blue, red);
    }
}

fn rgb_row(line: &mut [[u8; 3]], [red, green, blue]: [&[u8]; 3]) {
    for (pixel, ((&red, &green), &blue)) in line.iter_mut().zip(red.iter().zip(green).zip(blue)) {
        *pixel = [red, green, blue];
    }
}

/// Adobe stores how much light each ink leaves, and all other writers have followed.
fn cmyk_row(line: &mut [[u8; 3]], [cyan, magenta, yellow, black]: [&[u8]; 4]) {
    let inks = cyan.iter().zip(magenta).zip(yellow).zip(black);
    for (pixel, (((&cyan, &magenta), &yellow), &black)) in line.iter_mut().zip(inks) {
        *pixel = [cyan, magenta, yellow].map(|ink| times(ink, black));
    }
}

/// The inks other than black are the complements of RGB, stored as YCbCr.
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
    /// The first `width` bytes of row `y` of the picture, enlarged by `spread`.
    fn row<'a>(&'a self, y: usize, width: usize, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        let line = self.line(y / self.spread.1);
        if self.spread == (1, 1) {
            return &line[..width];
        }
        buffer.resize(self.spread.0 * self.size.0, 0);
        match self.spread {
            (1, 2) => self.blend(y, |near, far| (3 * near + far + [1, 2][y % 2]) >> 2, buffer),
            (2, 1) if self.size.0 > 2 => {
                widen(line, buffer, |near, far, side| (3 * near + far + 1 + side) >> 2);
            }
            (2, 2) if self.size.0 > 2 => {
                let mut sums = vec![0u16; self.size.0];
                self.blend(y, |near, far| 3 * near + far, &mut sums);
                widen(&sums, buffer, |near, far, side| (3 * near + far + 8 - side) >> 4);
            }
            (across, _) => {
                for (wide, &byte) in buffer.chunks_exact_mut(across).zip(line) {
                    wide.fill(byte);
                }
            }
        }
        &buffer[..width]
    }

    /// The part of a row of this plane that belongs to the picture.
    fn line(&self, y: usize) -> &[u8] {
        let y = y.min(self.size.1 - 1) - self.first;
        &self.bytes[y * self.stride..][..self.size.0]
    }

    /// The row that covers row `y` of the picture, mixed with the next nearest one.
    #[inline(always)]
    fn blend<T: Level>(&self, y: usize, mix: impl Fn(u16, u16) -> u16, row: &mut [T]) {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { near + 1 };
        let pairs = self.line(near).iter().zip(self.line(far));
        for (value, (&near, &far)) in row.iter_mut().zip(pairs) {
            *value = T::narrow(mix(u16::from(near), u16::from(far)));
        }
    }
}

/// A level of grey, or a sum of levels.
trait Level: Copy + Into<u16> {
    fn narrow(value: u16) -> Self;
}

impl Level for u8 {
    #[inline(always)]
    fn narrow(value: u16) -> Self {
        value.to_le_bytes()[0]
    }
}

impl Level for u16 {
    #[inline(always)]
    fn narrow(value: u16) -> Self {
        value
    }
}

/// Makes two pixels of each value by mixing it with the neighbour on either side. The last argument
/// of `mix` is the side: 0 left, 1 right.
#[inline(always)]
fn widen<T: Level>(line: &[T], wide: &mut [u8], mix: impl Fn(u16, u16, u16) -> u16) {
    let pairs = wide.as_chunks_mut::<2>().0;
    let mixed = |left: T, near: T, right: T| {
        let (left, near, right) = (left.into(), near.into(), right.into());
        [u8::narrow(mix(near, left, 0)), u8::narrow(mix(near, right, 1))]
    };
    let ([first, second, ..], [.., next_to_last, last]) = (line, line) else { return };
    let [first_pair, pairs @ .., last_pair] = pairs else { return };
    *first_pair = mixed(*first, *first, *second);
    *last_pair = mixed(*next_to_last, *last, *last);
    for (pair, around) in pairs.iter_mut().zip(line.windows(3)) {
        *pair = mixed(around[0], around[1], around[2]);
    }
}
