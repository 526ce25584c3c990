//! A decoded picture, kept as the file stores it.
//!
//! Turning twelve million pixels upright costs more than classifying them, so the orientation is
//! carried along and applied to the few pixels that are left after resizing. For the same reason a
//! decoder may have shrunk the picture already (`shrink`): all sizes that are reported or used in
//! computations are those of the whole picture, upright.

use image::metadata::Orientation;
use image::{GrayImage, RgbImage};

use super::orient::Turn;

/// A decoded picture without transparency.
#[derive(Debug, Clone)]
pub struct Picture {
    pub(super) pixels: Pixels,
    /// What turns the stored pixels upright.
    pub(super) orientation: Orientation,
    /// Size of the file's pixels, as stored.
    pub(super) stored: (u32, u32),
    /// Each stored side was divided by this while decoding, rounding up.
    pub(super) shrink: u32,
}

/// Eight bits per channel.
#[derive(Debug, Clone)]
pub(super) enum Pixels {
    /// One channel of brightness.
    Gray(GrayImage),
    /// Red, green and blue.
    Rgb(RgbImage),
}

impl Picture {
    /// A picture of opaque colours that is already upright.
    pub fn from_rgb(pixels: RgbImage) -> Self {
        let stored = pixels.dimensions();
        Self {
            pixels: Pixels::Rgb(pixels),
            orientation: Orientation::NoTransforms,
            stored,
            shrink: 1,
        }
    }

    /// A grey picture that is already upright.
    pub fn from_gray(pixels: GrayImage) -> Self {
        let stored = pixels.dimensions();
        Self {
            pixels: Pixels::Gray(pixels),
            orientation: Orientation::NoTransforms,
            stored,
            shrink: 1,
        }
    }

    /// Width of the upload in pixels, upright.
    pub fn width(&self) -> u32 {
        self.upright().0
    }

    /// Height of the upload in pixels, upright.
    pub fn height(&self) -> u32 {
        self.upright().1
    }

    /// Memory that the pixels take, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.pixels {
            Pixels::Gray(image) => image.as_raw().len(),
            Pixels::Rgb(image) => image.as_raw().len(),
        }
    }

    pub(super) fn upright(&self) -> (u32, u32) {
        Turn::of(self.orientation).upright(self.stored)
    }
}
