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

pub(super) use packed::{Packed, Panel};
pub(super) use places::{Places, Spots};

use super::isa::Isa;
use super::{BLOCK, Values};
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
    /// Floats from a pixel to the next.
    fn step(self) -> usize {
        match self {
            Self::Blocks => BLOCK,
            Self::Pairs => 2,
            Self::Singles => 1,
        }
    }

    /// Channels a tap.
    pub(super) fn depth(self) -> usize {
        if self == Self::Blocks { BLOCK } else { 1 }
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
    pub(super) input: Values<'a>,
    /// Offsets of the taps, as many as the panel's channels need.
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
pub(super) fn multiply(isa: Isa, product: &Product) {
    product.check();
    let Product { panel, gather, .. } = product;
    let kernels = sizes::kernels(isa, *gather, panel.blocks);
    let taps = panel.channels.div_ceil(gather.depth());
    let tiles = product.pixels.div_ceil(kernels[0].pixels);
    let lines = (panel.ahead.len() / BLOCK).div_ceil((tiles * taps).max(1));
    let mut ahead = panel.ahead.as_ptr();
    let mut done = 0;
    while done < product.pixels {
        let kernel = sizes::next(kernels, product.pixels - done);
        let tile = product.tile(done, (ahead, lines));
        // SAFETY: `check` compared every reach with its slice, and `isa` exists only where the CPU
        // has it.
        unsafe { (kernel.run)(&tile) };
        ahead = ahead.wrapping_add(taps * lines * BLOCK);
        done += kernel.pixels;
    }
}

impl Product<'_> {
    /// Panics unless every value that the kernels touch is inside its slice.
    fn check(&self) {
        let Panel { channels, blocks, weights, bias, .. } = self.panel;
        assert!(weights.len() >= channels * blocks * BLOCK && bias.len() >= blocks * BLOCK);
        if self.pixels == 0 {
            return;
        }
        assert!(self.taps.len() >= channels.div_ceil(self.gather.depth()));
        let last_pixel = (self.pixels - 1) * self.gather.step();
        assert!(self.taps.reach() + last_pixel + self.gather.depth() <= self.input.len());
        let is_pooling = matches!(self.finish, Finish::Pool);
        assert!(is_pooling || self.places.len() >= self.pixels);
        let reach = if is_pooling { 0 } else { self.places.reach() };
        let last = reach + (blocks - 1) * self.stride + BLOCK;
        assert!(last <= self.output.len());
        if let Finish::Skip(values) = self.finish {
            assert!(last <= values.len());
        }
    }

    /// The tile that begins at pixel `first`.
    fn tile(&self, first: usize, (ahead, ahead_lines): (*const f32, usize)) -> Tile {
        let input = self.input.as_ptr().cast::<f32>();
        let finish = match self.finish {
            Finish::Relu6 => tile::Finish::Clamp(0.0, 6.0),
            Finish::Relu => tile::Finish::Clamp(0.0, f32::INFINITY),
            Finish::Linear => tile::Finish::Store,
            Finish::Skip(values) => tile::Finish::Add(values.as_ptr().cast()),
            Finish::Pool => tile::Finish::Pool(0.0, 6.0),
        };
        Tile {
            input: input.wrapping_add(first * self.gather.step()),
            taps: self.taps.as_ptr(),
            channels: self.panel.channels,
            weights: self.panel.weights.as_ptr(),
            bias: self.panel.bias.as_ptr(),
            ahead,
            ahead_lines,
            output: self.output.as_ptr().cast_mut().cast(),
            places: self.places.as_ptr().wrapping_add(first),
            stride: self.stride,
            finish,
        }
    }
}
