//! The numbers that products multiply, so that a product is written once for all of them.
//!
//! Inputs and weights are stored in 32-bit words: one f32, two f16 or four bytes of neighbouring
//! channels. A word of a pixel is broadcast and multiplied with a register of words, one per
//! output, and every output sums up its own lane, so the loops of all formats are the same.
//!
//! Input bytes are unsigned. Outputs of a ReLU6 are scaled by 255/6; other values are scaled by
//! their largest magnitude and shifted by [`ZERO`], and packed weights undo the shift.

#[cfg(target_arch = "x86_64")]
mod byte;
#[cfg(target_arch = "x86_64")]
mod half;
mod single;
mod twins;

#[cfg(target_arch = "x86_64")]
pub(super) use byte::{Byte256, Byte512};
#[cfg(target_arch = "x86_64")]
pub(super) use half::Half512;
pub(super) use twins::{ByteFour, HalfFour};

#[cfg(target_arch = "x86_64")]
pub(super) type Float512 = single::Single<std::arch::x86_64::__m512>;
#[cfg(target_arch = "x86_64")]
pub(super) type Float256 = single::Single<std::arch::x86_64::__m256>;
pub(super) type FloatFour = single::Single<super::vector::Four>;

use super::vector::Vector;

/// The byte that represents 0 where values may be negative.
pub(super) const ZERO: f32 = 128.0;
/// Steps of a byte from 0 to the largest magnitude, where values may be negative.
pub(super) const STEPS: f32 = 127.0;
/// Bytes that ReLU6 can produce, apart from 0.
pub(super) const BYTES: f32 = 255.0;

/// Rows of a panel's header, one word per output each; see [`Header`] for their contents.
pub(super) const HEADER: usize = 3;

/// What a register of outputs needs besides its weights: the first word of its lanes in the row of
/// biases. The factors are `width` words further on, and the initial sums `2 * width` words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) bias: *const u32,
    pub(super) width: usize,
}

/// Numbers of one format in registers of one instruction set.
///
/// Every method may be called only on a CPU that has the implementor's instructions. Pointers
/// must be valid for as many words as the method reads or writes: one in `splat`, the lanes
/// of a register in `load` and each row of a header, the lanes divided by
/// [`Number::CHANNELS`] in `encode`.
///
/// # Safety
///
/// Kernels rely on the implementor's guarantees: [`Number::CHANNELS`] is 1, 2 or 4; a register of
/// words has as many lanes as one of [`Number::Floats`]; methods read and write the words named
/// above, no more and nowhere else, at any alignment; and no method needs CPU features beyond the
/// set that kernels of these numbers are compiled for.
#[allow(unsafe_code, reason = "kernels rely on it")]
pub(super) unsafe trait Number: Copy {
    /// Floats with the same number of lanes.
    type Floats: Vector;
    /// A register of words.
    type Words: Copy;
    /// A register of sums, one per output.
    type Sums: Copy;
    /// Channels in a word.
    const CHANNELS: usize;
    /// The value of 6.0 before `encode`; depthwise weights are scaled to match.
    const SIX: f32;

    /// The same word in every lane.
    unsafe fn splat(from: *const u32) -> Self::Words;
    /// A word for every lane.
    unsafe fn load(from: *const u32) -> Self::Words;
    /// Initial sums.
    unsafe fn start(header: Header) -> Self::Sums;
    /// Adds the products of the channels of each word.
    unsafe fn plus_product(sums: Self::Sums, left: Self::Words, right: Self::Words) -> Self::Sums;
    /// The outputs, with their biases; `factor` scales the inputs back.
    unsafe fn finish(sums: Self::Sums, header: Header, factor: Self::Floats) -> Self::Floats;
    /// Stores values as inputs of a product.
    unsafe fn encode(values: Self::Floats, to: *mut u32);
}
