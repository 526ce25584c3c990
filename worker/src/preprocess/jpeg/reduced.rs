//! Decodes a baseline JPEG at a half, a quarter or an eighth of its size.
//!
//! The low-frequency corner of a block's cosine transform is the transform of the block at a smaller
//! size, so a smaller inverse transform gives the reduced picture directly, better filtered than by
//! averaging pixels, and most coefficients need not be looked at. Chroma that is stored at half the
//! resolution is reduced half as much, which saves its enlargement.

#![allow(clippy::inline_always, reason = "the reader must stay in registers over a whole block")]

use super::header::{Component, Header};
use super::huffman::Bits;
use std::borrow::Cow;

/// A reduced channel.
#[derive(Debug)]
pub(super) struct Plane {
    /// Bytes a row.
    pub(super) stride: usize,
    pub(super) bytes: Vec<u8>,
    /// Pixels of the picture that one of this plane covers, beyond the reduction.
    pub(super) spread: (usize, usize),
}

impl Plane {
    /// The first `width` bytes of row `y` of the picture, repeated as `spread` says.
    pub(super) fn row(&self, y: usize, width: usize) -> Cow<'_, [u8]> {
        let row = &self.bytes[y / self.spread.1 * self.stride..][..self.stride];
        match self.spread.0 {
            1 => Cow::Borrowed(&row[..width]),
            spread => {
                let wide = row.iter().flat_map(|&byte| std::iter::repeat_n(byte, spread));
                Cow::Owned(wide.take(width).collect())
            }
        }
    }
}

/// The channels of a picture reduced by `shrink` (2, 4 or 8). `None` for damaged data.
pub(super) fn planes(header: &Header, shrink: usize) -> Option<Vec<Plane>> {
    let most = header.components.iter().fold((1, 1), |most, component| {
        (most.0.max(component.blocks.0), most.1.max(component.blocks.1))
    });
    let units = (header.width.div_ceil(8 * most.0), header.height.div_ceil(8 * most.1));
    let mut channels: Vec<Channel> = header
        .components
        .iter()
        .map(|component| Channel::new(component, most, units, shrink))
        .collect();
    let mut bits = Bits::new(header.data);
    let mut done = 0;
    for row in 0..units.1 {
        for column in 0..units.0 {
            if done > 0 && header.restart_interval > 0 && done % header.restart_interval == 0 {
                bits.restart()?;
                for channel in &mut channels {
                    channel.before = 0;
                }
            }
            done += 1;
            for channel in &mut channels {
                channel.read_unit(&mut bits, column, row)?;
            }
        }
        if bits.is_overrun() {
            return None;
        }
    }
    Some(channels.into_iter().map(|channel| channel.plane).collect())
}

/// A channel while it is read.
struct Channel<'a> {
    component: &'a Component,
    plane: Plane,
    /// Pixels of a reduced block, across and down.
    block: (usize, usize),
    /// The last coefficient in zigzag order that the reduced block needs.
    last: usize,
    /// Quantisation step and place of each coefficient.
    steps: [(f32, u8); 64],
    /// DC coefficient of the block before.
    before: i32,
}

impl<'a> Channel<'a> {
    fn new(
        component: &'a Component,
        most: (usize, usize),
        units: (usize, usize),
        shrink: usize,
    ) -> Self {
        let blocks = component.blocks;
        let coarser = (most.0 / blocks.0, most.1 / blocks.1);
        let block = ((8 / shrink * coarser.0).min(8), (8 / shrink * coarser.1).min(8));
        let spread = (8 / shrink * coarser.0 / block.0, 8 / shrink * coarser.1 / block.1);
        let is_needed = |place: &usize| {
            let at = usize::from(ZIGZAG[*place]);
            at % 8 < block.0 && at / 8 < block.1
        };
        let last = (0..64).rfind(is_needed).expect("the first coefficient is needed");
        let stride = units.0 * blocks.0 * block.0;
        let bytes = vec![0; stride * units.1 * blocks.1 * block.1];
        Self {
            component,
            plane: Plane { stride, bytes, spread },
            block,
            last,
            steps: std::array::from_fn(|place| (component.quantisation[place], ZIGZAG[place])),
            before: 0,
        }
    }

    fn read_unit(&mut self, bits: &mut Bits, column: usize, row: usize) -> Option<()> {
        let (across, down) = self.component.blocks;
        let mut reader = *bits;
        for y in 0..down {
            for x in 0..across {
                let left = (column * across + x) * self.block.0;
                let top = (row * down + y) * self.block.1;
                self.read_block(&mut reader, top * self.plane.stride + left)?;
            }
        }
        *bits = reader;
        Some(())
    }

    #[inline(always)]
    fn read_block(&mut self, bits: &mut Bits, corner: usize) -> Option<()> {
        self.before = self.before.wrapping_add(bits.dc(&self.component.dc)?);
        let average = self.before as f32 * self.steps[0].0;
        if self.last == 0 {
            bits.ac(&self.component.ac, 0, |_, _| {})?;
            self.plane.bytes[corner] = level(average / 8.0);
            return Some(());
        }
        let mut coefficients = [0.0; 64];
        let (steps, mut is_flat) = (&self.steps, true);
        bits.ac(&self.component.ac, self.last, |place, value| {
            let (step, at) = steps[place];
            coefficients[usize::from(at)] = value as f32 * step;
            is_flat = false;
        })?;
        if is_flat {
            self.put_flat(level(average / 8.0), corner);
        } else {
            coefficients[0] = average;
            self.put(&coefficients, corner);
        }
        Some(())
    }

    fn put_flat(&mut self, level: u8, corner: usize) {
        for y in 0..self.block.1 {
            self.plane.bytes[corner + y * self.plane.stride..][..self.block.0].fill(level);
        }
    }

    fn put(&mut self, coefficients: &[f32; 64], corner: usize) {
        match self.block {
            (2, 2) => self.transform::<2, 2>(coefficients, corner),
            (4, 4) => self.transform::<4, 4>(coefficients, corner),
            (8, 8) => self.transform::<8, 8>(coefficients, corner),
            (1, 2) => self.transform::<1, 2>(coefficients, corner),
            (2, 1) => self.transform::<2, 1>(coefficients, corner),
            (2, 4) => self.transform::<2, 4>(coefficients, corner),
            (4, 2) => self.transform::<4, 2>(coefficients, corner),
            (4, 8) => self.transform::<4, 8>(coefficients, corner),
            (8, 4) => self.transform::<8, 4>(coefficients, corner),
            (1, 4) => self.transform::<1, 4>(coefficients, corner),
            (4, 1) => self.transform::<4, 1>(coefficients, corner),
            (2, 8) => self.transform::<2, 8>(coefficients, corner),
            _ => self.transform::<8, 2>(coefficients, corner),
        }
    }

    fn transform<const W: usize, const H: usize>(
        &mut self,
        coefficients: &[f32; 64],
        corner: usize,
    ) {
        let pixels = inverse::<W, H>(coefficients);
        for (y, row) in pixels.iter().enumerate() {
            let start = corner + y * self.plane.stride;
            for (byte, value) in self.plane.bytes[start..start + W].iter_mut().zip(row) {
                *byte = level(*value);
            }
        }
    }
}

/// The inverse transform of the corner of `W` by `H` coefficients.
///
/// Written so that all loops unroll and the inner ones run over lanes.
fn inverse<const W: usize, const H: usize>(coefficients: &[f32; 64]) -> [[f32; W]; H] {
    let mut columns = [[0.0; W]; H];
    for (frequency, line) in coefficients.as_chunks::<8>().0.iter().take(H).enumerate() {
        for (y, column) in columns.iter_mut().enumerate() {
            let height = wave::<H>(frequency, y);
            for (value, coefficient) in column.iter_mut().zip(line) {
                *value += coefficient * height;
            }
        }
    }
    let mut pixels = [[0.0; H]; W];
    let lines: [[f32; H]; W] = std::array::from_fn(|x| std::array::from_fn(|y| columns[y][x]));
    for (frequency, line) in lines.iter().enumerate() {
        for (x, pixel) in pixels.iter_mut().enumerate() {
            let height = wave::<W>(frequency, x);
            for (value, part) in pixel.iter_mut().zip(line) {
                *value += part * height;
            }
        }
    }
    std::array::from_fn(|y| std::array::from_fn(|x| pixels[x][y]))
}

/// Value at a pixel of a cosine over `N` pixels, scaled so that a flat block keeps its level.
const fn wave<const N: usize>(frequency: usize, pixel: usize) -> f32 {
    if frequency == 0 {
        return HALF_COSINE[4];
    }
    let phase = (2 * pixel + 1) * frequency * (8 / N) % 32;
    let folded = if phase > 16 { 32 - phase } else { phase };
    if folded > 8 { -HALF_COSINE[16 - folded] } else { HALF_COSINE[folded] }
}

/// Half the cosine of each sixteenth of a half turn.
const HALF_COSINE: [f32; 9] = [
    0.5,
    0.490_392_64,
    0.461_939_77,
    0.415_734_8,
    0.353_553_39,
    0.277_785_12,
    0.191_341_72,
    0.097_545_16,
    0.0,
];

/// Back from around zero to a byte.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn level(value: f32) -> u8 {
    (value + 128.5) as u8
}

/// Place in the block, row by row, of each coefficient in the order of the file.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];
