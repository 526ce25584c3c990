//! Pixels times weights: the one product that 1x1 convolutions, the first layers and dense layers
//! are made of.
//!
//! A pixel's input is a list of taps, each so many channels side by side; a 1x1 convolution has one
//! tap a block of 16 channels, a 3x3 convolution of an image has 27 of one channel. Outputs come in
//! panels of 1 to 4 blocks whose weights are packed in the order of use ([`Packed`]). Everything a
//! kernel will touch is checked here, once a call, against the slices it was given.
#![allow(unsafe_code, reason = "calls kernels after checking the lengths")]

mod packed;
mod places;
mod sizes;
#[cfg(test)]
mod tests;
mod tile;

pub(super) use packed::{Inputs, Packed, Packer, Panel};
pub(super) use places::{Places, Spots};

use super::number::HEADER;
use super::target::Target;
use super::{BLOCK, Values, Words};
use tile::Tile;

/// How the values of neighbouring pixels lie in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gather {
    /// Blocks of 16 channels, pixel after pixel.
    Blocks,
    /// One channel a tap, every second value: an image seen with stride 2.
    Pairs,
    /// One channel a tap, every value: an image seen with stride 1.
    Singles,
}

impl Gather {
    /// Words from a pixel to the next.
    fn step(self, target: Target) -> usize {
        match self {
            Self::Blocks => target.words(),
            Self::Pairs => 2,
            Self::Singles => 1,
        }
    }

    /// Words a tap.
    pub(super) fn depth(self, target: Target) -> usize {
        if self == Self::Blocks { target.words() } else { 1 }
    }
}

/// What becomes of the sums.
#[derive(Debug, Clone, Copy)]
pub(super) enum Finish<'a> {
    /// Clamped to 0..6 and stored.
    Relu6,
    /// Clamped to 0.. and stored.
    Relu,
    /// Stored.
    Linear,
    /// Added to what lies at the same places here, and stored.
    Skip(Values<'a>),
    /// Clamped to 0..6 and added to the output's one place.
    Pool,
}

/// Some pixels times one panel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) gather: Gather,
    /// Begins with the first pixel.
    pub(super) input: Words<'a>,
    /// What brings the inputs to their true size, where it is not in the weights.
    pub(super) factor: f32,
    /// Offsets of the taps in words, as many as the panel's channels need.
    pub(super) taps: Spots<'a>,
    pub(super) panel: Panel<'a>,
    pub(super) pixels: usize,
    /// Begins with the first block of the panel.
    pub(super) output: Values<'a>,
    /// Where each pixel goes in a block; one place when pooling.
    pub(super) places: Spots<'a>,
    /// Floats between blocks.
    pub(super) stride: usize,
    pub(super) finish: Finish<'a>,
}

/// Computes a product.
pub(super) fn multiply(target: Target, product: &Product) {
    product.check(target);
    let Product { panel, gather, .. } = product;
    let kernels = sizes::kernels(target, *gather, panel.blocks);
    let taps = panel.words.div_ceil(gather.depth(target));
    let tiles = product.pixels.div_ceil(kernels[0].pixels);
    let lines = (panel.ahead.len() / BLOCK).div_ceil((tiles * taps).max(1));
    let mut ahead = panel.ahead.as_ptr();
    let mut done = 0;
    while done < product.pixels {
        let kernel = sizes::next(kernels, product.pixels - done);
        let tile = product.tile(done * gather.step(target), done, (ahead, lines));
        // SAFETY: `check` compared every reach with its slice, and a target exists only where the
        // CPU has it.
        unsafe { (kernel.run)(&tile) };
        ahead = ahead.wrapping_add(taps * lines * BLOCK);
        done += kernel.pixels;
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
        let is_pooling = matches!(self.finish, Finish::Pool);
        assert!(is_pooling || self.places.len() >= self.pixels);
        let reach = if is_pooling { 0 } else { self.places.reach() };
        let last = reach + (blocks - 1) * self.stride + BLOCK;
        assert!(last <= self.output.len());
        if let Finish::Skip(values) = self.finish {
            assert!(last <= values.len());
        }
    }

    /// The tile that begins at pixel `first`, whose input is so many words further on.
    fn tile(&self, words: usize, first: usize, (ahead, ahead_lines): (*const u32, usize)) -> Tile {
        let input = self.input.as_ptr().cast::<u32>();
        let finish = match self.finish {
            Finish::Relu6 => tile::Finish::Clamp(0.0, 6.0),
            Finish::Relu => tile::Finish::Clamp(0.0, f32::INFINITY),
            Finish::Linear => tile::Finish::Store,
            Finish::Skip(values) => tile::Finish::Add(values.as_ptr().cast()),
            Finish::Pool => tile::Finish::Pool(0.0, 6.0),
        };
        Tile {
            input: input.wrapping_add(words),
            factor: self.factor,
            taps: self.taps.as_ptr(),
            words: self.panel.words,
            weights: self.panel.weights.as_ptr(),
            header: self.panel.header.as_ptr(),
            ahead,
            ahead_lines,
            output: self.output.as_ptr().cast_mut().cast(),
            places: self.places.as_ptr().wrapping_add(first),
            stride: self.stride,
            finish,
        }
    }
}
