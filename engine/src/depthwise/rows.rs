//! The kernel: rows of one block of 16 channels.
//!
//! Inputs are f32, outputs are in the format that the next product reads. Each input pixel is
//! loaded once per row of the filter and added to the up to three sums that include it.
#![allow(clippy::needless_range_loop, reason = "constant bounds keep sums in registers")]
#![allow(
    clippy::inline_always,
    reason = "inlined into the function that carries the instruction set"
)]
#![allow(unsafe_code, reason = "the innermost loop; lengths are checked by its only caller")]

use super::super::BLOCK;
use super::super::number::Number;
use super::super::vector::Vector;

/// Rows of a checked filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) input: *const f32,
    /// Where each input row begins, from the leftmost pixel that the first output needs.
    pub(super) starts: *const u32,
    /// `[9][16]`.
    pub(super) weights: *const f32,
    pub(super) bias: *const f32,
    /// Words in the format of the next product, row after row.
    pub(super) output: *mut u32,
    /// Pixels per row.
    pub(super) width: usize,
    /// Rows to write.
    pub(super) height: usize,
}

/// The filter of some channels in registers.
struct Filter<V> {
    taps: [[V; 3]; 3],
    bias: V,
}

/// Filters rows, `WIDE` pixels at a time.
///
/// # Safety
///
/// The CPU has the instructions of `D`; there are `(height - 1) * STRIDE + 3` starts, from each of
/// which `(width - 1) * STRIDE + 3` pixels of 16 floats are readable; the output has `height` times
/// `width` pixels of 16 of `D`'s numbers.
#[inline(always)]
pub(super) unsafe fn rows<D: Number, const WIDE: usize, const STRIDE: usize>(call: &Rows) {
    // A copy, so that the compiler knows that storing a result does not change it.
    let Rows { input, starts, weights, bias, output, width, height } = *call;
    for part in 0..D::Floats::A_BLOCK {
        let lane = part * D::Floats::LANES;
        // SAFETY: the caller's promise; there are nine taps and a bias of 16 lanes.
        unsafe {
            let tap = |at: usize| D::Floats::load(weights.add(at * BLOCK + lane));
            let taps = [0, 3, 6].map(|at| [tap(at), tap(at + 1), tap(at + 2)]);
            let filter = Filter { taps, bias: D::Floats::load(bias.add(lane)) };
            for y in 0..height {
                let start = |tap: usize| *starts.add(y * STRIDE + tap) as usize + lane;
                let input = [0, 1, 2].map(|tap| input.add(start(tap)));
                let output = output.add((y * width * BLOCK + lane) / D::CHANNELS);
                row::<D, WIDE, STRIDE>(&filter, input, output, width);
            }
        }
    }
}

/// # Safety
///
/// Same as [`rows`], for a single row and some of its channels.
#[inline(always)]
unsafe fn row<D: Number, const WIDE: usize, const STRIDE: usize>(
    filter: &Filter<D::Floats>,
    input: [*const f32; 3],
    output: *mut u32,
    width: usize,
) {
    // SAFETY: the caller's promise; `x + pixels <= width` in each call.
    unsafe {
        let mut x = 0;
        while x < width {
            let input = input.map(|row| row.add(x * STRIDE * BLOCK));
            let output = output.add(x * BLOCK / D::CHANNELS);
            let left = width - x;
            x += if left >= WIDE {
                some::<D, WIDE, STRIDE>(filter, input, output);
                WIDE
            } else if left >= 7 {
                some::<D, 7, STRIDE>(filter, input, output);
                7
            } else {
                some::<D, 1, STRIDE>(filter, input, output);
                1
            };
        }
    }
}

/// The first `PIXELS` pixels of a row.
///
/// # Safety
///
/// Same as [`row`], and the row has at least `PIXELS` pixels.
#[inline(always)]
unsafe fn some<D: Number, const PIXELS: usize, const STRIDE: usize>(
    filter: &Filter<D::Floats>,
    input: [*const f32; 3],
    output: *mut u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [filter.bias; PIXELS];
        for y in 0..3 {
            if STRIDE == 1 {
                neighbours(&mut sums, input[y], filter.taps[y]);
            } else {
                strided(&mut sums, input[y], filter.taps[y]);
            }
        }
        let (low, high) = (D::Floats::splat(0.0), D::Floats::splat(D::SIX));
        for pixel in 0..PIXELS {
            let sum = sums[pixel].larger(low).smaller(high);
            D::encode(sum, output.add(pixel * BLOCK / D::CHANNELS));
        }
    }
}

/// # Safety
///
/// Same as [`row`], with `PIXELS + 2` pixels of input.
#[inline(always)]
unsafe fn neighbours<V: Vector, const PIXELS: usize>(
    sums: &mut [V; PIXELS],
    input: *const f32,
    taps: [V; 3],
) {
    // SAFETY: the caller's promise.
    unsafe {
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
/// Same as [`row`], with `2 * PIXELS + 1` pixels of input.
#[inline(always)]
unsafe fn strided<V: Vector, const PIXELS: usize>(
    sums: &mut [V; PIXELS],
    input: *const f32,
    taps: [V; 3],
) {
    // SAFETY: the caller's promise.
    unsafe {
        sums[0] = sums[0].plus_product(V::load(input), taps[0]);
        for pixel in 0..PIXELS {
            let middle = V::load(input.add((2 * pixel + 1) * BLOCK));
            let right = V::load(input.add((2 * pixel + 2) * BLOCK));
            sums[pixel] = sums[pixel].plus_product(middle, taps[1]).plus_product(right, taps[2]);
            if pixel + 1 < PIXELS {
                sums[pixel + 1] = sums[pixel + 1].plus_product(right, taps[0]);
            }
        }
    }
}
