//! Pixels times weights: the one product that 1x1 convolutions, the first layers and dense layers
//! are made of.
//!
//! A pixel's input is a list of taps, each a run of adjacent channels; a 1x1 convolution has one
//! tap per block of 16 channels, a 3x3 convolution of an image one per row and colour. Outputs come
//! in panels of 1 to 4 blocks whose weights are packed in order of use ([`Packed`]). Everything a
//! kernel will touch is checked here, once per call, against the slices it was given.
#![allow(unsafe_code, reason = "calls kernels after checking the lengths")]

mod packed;
mod sizes;
#[cfg(test)]
mod tests;
mod tile;

pub(super) use packed::{Inputs, Packed, Packer, Panel};
use tile::Tiles;

use super::number::HEADER;
use super::offsets::OffsetsRef;
use super::target::Target;
use super::{BLOCK, Values, Words};

/// How the values of neighbouring pixels are laid out in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gather {
    /// Blocks of 16 channels, pixel after pixel.
    Blocks,
    /// Three values of an image row per tap, the next pixel two values further: 3x3 at stride 2.
    Threes,
    /// Five values of an image row per tap, the next pixel one value further: 5x5 at stride 1.
    Fives,
}

impl Gather {
    /// Words from one pixel to the next.
    fn step(self, target: Target) -> usize {
        match self {
            Self::Blocks => target.words(),
            Self::Threes => 2,
            Self::Fives => 1,
        }
    }

    /// Words per tap.
    fn depth(self, target: Target) -> usize {
        match self {
            Self::Blocks => target.words(),
            Self::Threes => 3,
            Self::Fives => 5,
        }
    }
}

/// What happens to the sums.
#[derive(Debug, Clone, Copy)]
pub(super) enum Epilogue<'a> {
    /// Clamped to 0..6 and stored.
    Relu6,
    /// Clamped to 0.. and stored.
    Relu,
    /// Stored as they are.
    Linear,
    /// Added to the values at the same places here, and stored.
    Skip(Values<'a>),
    /// Clamped to 0..6 and added to the single place of the output.
    Pool,
}

/// Some pixels times one panel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) gather: Gather,
    /// Begins with the first pixel.
    pub(super) input: Words<'a>,
    /// Factor that scales the inputs back, where the weights do not contain it.
    pub(super) factor: f32,
    /// Offsets of the taps in words, as many as the panel's channels need.
    pub(super) taps: OffsetsRef<'a>,
    pub(super) panel: Panel<'a>,
    pub(super) pixels: usize,
    /// Begins with the first block of the panel.
    pub(super) output: Values<'a>,
    /// Where each pixel goes in a block; one place when pooling.
    pub(super) places: OffsetsRef<'a>,
    /// Floats between blocks.
    pub(super) stride: usize,
    pub(super) epilogue: Epilogue<'a>,
}

/// Computes a product.
pub(super) fn multiply(target: Target, product: &Product) {
    product.check(target);
    let Product { panel, gather, .. } = product;
    let kernels = sizes::kernels(target, *gather, panel.blocks);
    let mut tiles = product.tiles();
    if !panel.ahead.is_empty() {
        let taps = panel.words.div_ceil(gather.depth(target));
        let each = taps * product.pixels.div_ceil(kernels[0].pixels);
        tiles.ahead_lines = (panel.ahead.len() / BLOCK).div_ceil(each.max(1));
    }
    let mut left = product.pixels;
    while left > 0 {
        let kernel;
        (kernel, tiles.count) = sizes::next(kernels, left);
        // SAFETY: `check` compared every reach with its slice, and a target exists only where the
        // CPU has it.
        unsafe { (kernel.run)(&mut tiles) };
        left -= kernel.pixels * tiles.count;
    }
}

impl Product<'_> {
    /// Panics unless every value that the kernels touch is inside its slice.
    fn check(&self, target: Target) {
        let Panel { words, blocks, weights, header, .. } = self.panel;
        let width = blocks * BLOCK;
        assert!(weights.len() >= words * width && header.len() >= HEADER * width);
        if self.pixels == 0 {
            return;
        }
        let depth = self.gather.depth(target);
        assert!(self.taps.len() >= words.div_ceil(depth));
        let last_pixel = (self.pixels - 1) * self.gather.step(target);
        assert!(self.taps.reach() + last_pixel + depth <= self.input.len());
        let is_pooling = matches!(self.epilogue, Epilogue::Pool);
        assert!(is_pooling || self.places.len() >= self.pixels);
        let reach = if is_pooling { 0 } else { self.places.reach() };
        let last = reach + (blocks - 1) * self.stride + BLOCK;
        assert!(last <= self.output.len());
        if let Epilogue::Skip(values) = self.epilogue {
            assert!(last <= values.len());
        }
    }

    /// The whole product as tiles that are not counted yet.
    fn tiles(&self) -> Tiles {
        let epilogue = match self.epilogue {
            Epilogue::Relu6 => tile::Epilogue::Clamp(0.0, 6.0),
            Epilogue::Relu => tile::Epilogue::Clamp(0.0, f32::INFINITY),
            Epilogue::Linear => tile::Epilogue::Store,
            Epilogue::Skip(values) => tile::Epilogue::Add(values.as_ptr().cast()),
            Epilogue::Pool => tile::Epilogue::Pool(0.0, 6.0),
        };
        Tiles {
            count: 0,
            input: self.input.as_ptr().cast(),
            factor: self.factor,
            taps: self.taps.as_ptr(),
            words: self.panel.words,
            weights: self.panel.weights.as_ptr(),
            header: self.panel.header.as_ptr(),
            ahead: self.panel.ahead.as_ptr(),
            ahead_lines: 0,
            output: self.output.as_ptr().cast_mut().cast(),
            places: self.places.as_ptr(),
            stride: self.stride,
            epilogue,
        }
    }
}
