//! One channel of a picture on its way from coefficients to pixels.
//!
//! Chroma that is stored at half the resolution is reduced half as much as the rest, which saves
//! enlarging it.

#![allow(clippy::inline_always, reason = "blocks are put down in the innermost loop")]

use super::header::{Component, Frame};
use super::inverse::{ZIGZAG, inverse, level};

/// Fills the missing parts of a picture.
const GREY: u8 = 128;
/// The zigzag places below this lie in the corner of four by four coefficients.
const WITHIN_4_BY_4: usize = 10;

/// The pixels of a channel, in whole units: all of them, or a band.
#[derive(Debug)]
pub(super) struct Plane {
    /// Bytes per row.
    pub(super) stride: usize,
    pub(super) bytes: Vec<u8>,
    /// The line of the channel that `bytes` begins with.
    pub(super) first: usize,
    /// The part that belongs to the picture, across and down.
    pub(super) size: (usize, usize),
    /// Pixels of the reduced picture that one pixel of this plane covers, across and down.
    pub(super) spread: (usize, usize),
}

/// A channel whose pixels are being computed.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) plane: Plane,
    /// The last coefficient in zigzag order that a block needs.
    pub(super) last: usize,
    /// Pixels of a block, across and down.
    block: (usize, usize),
    /// Quantisation step and place of each coefficient.
    pub(super) steps: [(f32, u8); 64],
}

/// Where the blocks of a channel lie, known before memory is allocated for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Blocks in whole units, across and down.
    pub(super) blocks: (usize, usize),
    /// Rows of blocks in a unit.
    unit: usize,
    block: (usize, usize),
    spread: (usize, usize),
    size: (usize, usize),
}

impl Layout {
    /// The layout of a channel that is reduced by `shrink` (1, 2, 4 or 8).
    pub(super) fn new(frame: &Frame, component: &Component, shrink: usize) -> Self {
        let (most, units, blocks) = (frame.most(), frame.units(), component.blocks);
        let coarser = (most.0 / blocks.0, most.1 / blocks.1);
        let pixels = |coarser: usize| match coarser {
            3 => 8 / shrink,
            coarser => (8 / shrink * coarser).min(8),
        };
        let block = (pixels(coarser.0), pixels(coarser.1));
        let spread = (8 / shrink * coarser.0 / block.0, 8 / shrink * coarser.1 / block.1);
        let size = frame.size_of(component);
        Self {
            blocks: (units.0 * blocks.0, units.1 * blocks.1),
            unit: blocks.1,
            block,
            spread,
            size: ((size.0 * block.0).div_ceil(8), (size.1 * block.1).div_ceil(8)),
        }
    }

    /// Bytes of the whole plane.
    pub(super) fn bytes(&self) -> usize {
        self.stride() * self.blocks.1 * self.block.1
    }

    /// Bytes of a band, which has as many rows of blocks as a unit.
    pub(super) fn band_bytes(&self) -> usize {
        self.stride() * self.band_lines()
    }

    fn stride(&self) -> usize {
        self.blocks.0 * self.block.0
    }

    /// The lines of a unit and the one above them, which enlarging needs.
    fn band_lines(&self) -> usize {
        1 + self.unit * self.block.1
    }

    /// The last coefficient in zigzag order that a block needs.
    pub(super) fn last(&self) -> usize {
        let is_needed = |place: &usize| {
            let at = usize::from(ZIGZAG[*place]);
            at % 8 < self.block.0 && at / 8 < self.block.1
        };
        (0..64).rfind(is_needed).expect("the first coefficient is needed")
    }
}

impl Channel {
    /// An empty channel; `steps` is its quantisation table in zigzag order.
    pub(super) fn new(layout: &Layout, steps: &[f32; 64]) -> Self {
        Self::of(layout, steps, layout.bytes())
    }

    /// A channel that is kept a band at a time, starting with the first.
    pub(super) fn band(layout: &Layout, steps: &[f32; 64]) -> Self {
        Self::of(layout, steps, layout.band_bytes())
    }

    fn of(layout: &Layout, steps: &[f32; 64], bytes: usize) -> Self {
        let plane = Plane {
            stride: layout.stride(),
            bytes: vec![GREY; bytes],
            first: 0,
            size: layout.size,
            spread: layout.spread,
        };
        Self {
            plane,
            last: layout.last(),
            block: layout.block,
            steps: std::array::from_fn(|place| (steps[place], ZIGZAG[place])),
        }
    }

    /// Moves on from the unit in row `row` to the one below it.
    pub(super) fn advance(&mut self, row: usize) {
        let plane = &mut self.plane;
        let lines = plane.bytes.len() / plane.stride - 1;
        let last = (row + 1) * lines - 1;
        let from = (last - plane.first) * plane.stride;
        plane.bytes.copy_within(from..from + plane.stride, 0);
        plane.bytes[plane.stride..].fill(GREY);
        plane.first = last;
    }

    /// Index in the plane at which a block begins.
    #[inline(always)]
    pub(super) fn corner(&self, column: usize, row: usize) -> usize {
        (row * self.block.1 - self.plane.first) * self.plane.stride + column * self.block.0
    }

    /// Writes the pixel of a block that is reduced to one pixel.
    #[inline(always)]
    pub(super) fn put_pixel(&mut self, average: f32, corner: usize) {
        self.plane.bytes[corner] = level(average / 8.0);
    }

    /// Writes the pixels of a block. Its coefficients are given row by row, and those beyond zigzag
    /// place `highest` are zero.
    #[inline(always)]
    pub(super) fn put(&mut self, coefficients: &[f32; 64], highest: usize, corner: usize) {
        if highest == 0 {
            return self.put_flat(coefficients[0], corner);
        }
        match self.block {
            (8, 8) if highest < WITHIN_4_BY_4 => self.transform::<4, 4, 8, 8>(coefficients, corner),
            (8, 8) => self.transform::<8, 8, 8, 8>(coefficients, corner),
            _ => self.put_reduced(coefficients, corner),
        }
    }

    fn put_reduced(&mut self, coefficients: &[f32; 64], corner: usize) {
        match self.block {
            (2, 2) => self.transform::<2, 2, 2, 2>(coefficients, corner),
            (4, 4) => self.transform::<4, 4, 4, 4>(coefficients, corner),
            (1, 2) => self.transform::<1, 2, 1, 2>(coefficients, corner),
            (2, 1) => self.transform::<2, 1, 2, 1>(coefficients, corner),
            (2, 4) => self.transform::<2, 4, 2, 4>(coefficients, corner),
            (4, 2) => self.transform::<4, 2, 4, 2>(coefficients, corner),
            (4, 8) => self.transform::<4, 8, 4, 8>(coefficients, corner),
            (8, 4) => self.transform::<8, 4, 8, 4>(coefficients, corner),
            (1, 4) => self.transform::<1, 4, 1, 4>(coefficients, corner),
            (4, 1) => self.transform::<4, 1, 4, 1>(coefficients, corner),
            (2, 8) => self.transform::<2, 8, 2, 8>(coefficients, corner),
            _ => self.transform::<8, 2, 8, 2>(coefficients, corner),
        }
    }

    /// Writes the pixels of a block whose only nonzero coefficient is the first.
    fn put_flat(&mut self, average: f32, corner: usize) {
        let level = level(average / 8.0);
        for y in 0..self.block.1 {
            self.plane.bytes[corner + y * self.plane.stride..][..self.block.0].fill(level);
        }
    }

    fn transform<const X: usize, const Y: usize, const W: usize, const H: usize>(
        &mut self,
        coefficients: &[f32; 64],
        corner: usize,
    ) {
        let pixels = inverse::<X, Y, W, H>(coefficients);
        let stride = self.plane.stride;
        let bytes = &mut self.plane.bytes[corner..][..(H - 1) * stride + W];
        for (y, row) in pixels.iter().enumerate() {
            bytes[y * stride..][..W].copy_from_slice(&row.map(level));
        }
    }
}
