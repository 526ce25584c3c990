//! The kernel: one row of one block of 16 channels.
//!
//! Inputs are f32, outputs whatever numbers the next product reads. Each input pixel is loaded once a row of the filter and added to the up to three sums that it is
//! part of.
#![allow(clippy::needless_range_loop, reason = "constant bounds keep sums in registers")]
#![allow(
    clippy::inline_always,
    reason = "inlined into the function that carries the instruction set"
)]
#![allow(unsafe_code, reason = "the innermost loop; lengths are checked by its only caller")]

use super::super::BLOCK;
use super::super::number::Number;
use super::super::vector::Vector;

/// One row of a checked filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Three rows of input, from the leftmost pixel that the first output needs.
    pub(super) input: [*const f32; 3],
    /// `[9][16]`.
    pub(super) weights: *const f32,
    pub(super) bias: *const f32,
    /// Words of the products that read it.
    pub(super) output: *mut u32,
    /// Pixels to write.
    pub(super) width: usize,
}

/// Filters a row, `WIDE` pixels at a time.
///
/// # Safety
///
/// The CPU has the instructions of `D`; input rows have `(width - 1) * STRIDE + 3` pixels of 16
/// floats, the output has `width` pixels of 16 of `D`'s numbers.
#[inline(always)]
pub(super) unsafe fn row<D: Number, const WIDE: usize, const STRIDE: usize>(call: &Row) {
    // SAFETY: the caller's promise; `x + pixels <= width` in each call.
    unsafe {
        let mut x = 0;
        while x < call.width {
            let left = call.width - x;
            let pixels = if left >= WIDE {
                some::<D, WIDE, STRIDE>(call, x);
                WIDE
            } else if left >= 7 {
                some::<D, 7, STRIDE>(call, x);
                7
            } else {
                some::<D, 1, STRIDE>(call, x);
                1
            };
            x += pixels;
        }
    }
}

/// `PIXELS` pixels from `x` on.
///
/// # Safety
///
/// As [`row`], and `x + PIXELS <= width`.
#[inline(always)]
unsafe fn some<D: Number, const PIXELS: usize, const STRIDE: usize>(call: &Row, x: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for part in 0..D::Floats::A_BLOCK {
            let lane = part * D::Floats::LANES;
            let mut sums = [D::Floats::load(call.bias.add(lane)); PIXELS];
            for y in 0..3 {
                let input = call.input[y].add(x * STRIDE * BLOCK + lane);
                let weights = call.weights.add(y * 3 * BLOCK + lane);
                if STRIDE == 1 {
                    neighbours(&mut sums, input, weights);
                } else {
                    strided::<D::Floats, PIXELS, STRIDE>(&mut sums, input, weights);
                }
            }
            let (low, high) = (D::Floats::splat(0.0), D::Floats::splat(D::SIX));
            for pixel in 0..PIXELS {
                let at = ((x + pixel) * BLOCK + lane) / D::CHANNELS;
                D::encode(sums[pixel].larger(low).smaller(high), call.output.add(at));
            }
        }
    }
}

/// # Safety
///
/// As [`row`]: `PIXELS + 2` pixels of input, three weights.
#[inline(always)]
unsafe fn neighbours<V: Vector, const PIXELS: usize>(
    sums: &mut [V; PIXELS],
    input: *const f32,
    weights: *const f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let taps: [V; 3] = [0, 1, 2].map(|tap| V::load(weights.add(tap * BLOCK)));
        let first = V::load(input);
        let second = V::load(input.add(BLOCK));
        sums[0] = sums[0].plus_product(first, taps[0]).plus_product(second, taps[1]);
        if PIXELS > 1 {
            sums[1] = sums[1].plus_product(second, taps[0]);
        }
        for pixel in 2..PIXELS + 2 {
            let value = V::load(input.add(pixel * BLOCK));
            sums[pixel - 2] = sums[pixel - 2].plus_product(value, taps[2]);
            if pixel - 1 < PIXELS {
                sums[pixel - 1] = sums[pixel - 1].plus_product(value, taps[1]);
            }
            if pixel < PIXELS {
                sums[pixel] = sums[pixel].plus_product(value, taps[0]);
            }
        }
    }
}

/// # Safety
///
/// As [`row`]: `(PIXELS - 1) * STRIDE + 3` pixels of input, three weights.
#[inline(always)]
unsafe fn strided<V: Vector, const PIXELS: usize, const STRIDE: usize>(
    sums: &mut [V; PIXELS],
    input: *const f32,
    weights: *const f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for tap in 0..3 {
            let weight = V::load(weights.add(tap * BLOCK));
            for pixel in 0..PIXELS {
                let value = V::load(input.add((pixel * STRIDE + tap) * BLOCK));
                sums[pixel] = sums[pixel].plus_product(value, weight);
            }
        }
    }
}
