//! The kernel: a few pixels times a few registers of outputs, all sums in registers.
//!
//! For every input channel the weights are loaded once and each pixel's value is broadcast, so a
//! tile of 14 pixels by 2 registers performs 28 multiply-adds with 16 loads. Sizes are constants:
//! the compiler must see that the sums fit the registers. One word of input contains one or
//! several channels, depending on the [`Number`]; sums become floats before anything else is done
//! with them.
#![allow(clippy::needless_range_loop, reason = "constant bounds keep sums in registers")]
#![allow(
    clippy::inline_always,
    reason = "inlined into the function that carries the instruction set"
)]
#![allow(unsafe_code, reason = "the innermost loop; lengths are checked by its only caller")]

use super::super::number::{Header, Number};
use super::super::vector::Vector;

/// Words of a cache line.
const LINE: usize = 16;

/// Consecutive tiles of one size of a checked product.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    /// Number of tiles to compute.
    pub(super) count: usize,
    /// The first pixel's word of channel 0, before the tap's offset.
    pub(super) input: *const u32,
    /// Factor that scales the inputs back.
    pub(super) factor: f32,
    /// Offsets of the taps from `input`.
    pub(super) taps: *const u32,
    /// Words per pixel in total; every tap but the last has the kernel's `DEPTH`.
    pub(super) words: usize,
    /// `[words][registers]`.
    pub(super) weights: *const u32,
    /// Header rows, one 32-bit word per output channel.
    pub(super) header: *const u32,
    /// Memory that will be needed soon, and how many of its lines to prefetch per tap; only a hint.
    pub(super) ahead: *const u32,
    pub(super) ahead_lines: usize,
    /// Where results go, with the offset of each pixel.
    pub(super) output: *mut f32,
    pub(super) places: *const u32,
    /// Floats between blocks of 16 outputs.
    pub(super) stride: usize,
    pub(super) epilogue: Epilogue,
}

/// What happens to the sums.
#[derive(Debug, Clone, Copy)]
pub(super) enum Epilogue {
    /// Clamped and stored.
    Clamp(f32, f32),
    /// Stored as they are.
    Store,
    /// Added to the values at the same place here, and stored.
    Add(*const f32),
    /// Clamped and added to one sum per output.
    Pool(f32, f32),
}

/// Computes `count` tiles and leaves `call` at the pixel after them.
///
/// # Safety
///
/// The CPU has the instructions of `D`. For every pixel `m < count * M`, tap `t` and word
/// `w < DEPTH` of it, `input[taps[t] + m * STEP + w]` is readable (in the last tap only the
/// remaining words); `weights` has `words * N` registers, `header` has rows of `N`; every block's
/// output at `places[m]` is writable for 16 floats and, for `Add`, readable there. With `Pool`,
/// `output` has one place.
#[inline(always)]
pub(super) unsafe fn tiles<
    D: Number,
    const M: usize,
    const N: usize,
    const STEP: usize,
    const DEPTH: usize,
>(
    call: &mut Tiles,
) {
    // A copy, so that the compiler knows that storing a result does not change it.
    let mut tile = *call;
    for _ in 0..call.count {
        // SAFETY: the caller's promise, for `M` of its pixels.
        unsafe { one::<D, M, N, STEP, DEPTH>(&mut tile) };
        tile.input = tile.input.wrapping_add(M * STEP);
        tile.places = tile.places.wrapping_add(M);
    }
    *call = tile;
}

/// # Safety
///
/// Same as [`tiles`], for one tile.
#[inline(always)]
unsafe fn one<D: Number, const M: usize, const N: usize, const STEP: usize, const DEPTH: usize>(
    tile: &mut Tiles,
) {
    let lanes = D::Floats::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let header = |n: usize| Header { bias: tile.header.add(n * lanes), width: N * lanes };
        let mut sums: [[D::Sums; N]; M] = [std::array::from_fn(|n| D::start(header(n))); M];
        let mut weights = tile.weights;
        let mut left = tile.words;
        let mut tap = tile.taps;
        let mut ahead = tile.ahead;
        while left > 0 {
            let depth = if left < DEPTH { left } else { DEPTH };
            let input = tile.input.add(*tap as usize);
            // Two words per iteration: with one, the loop's own instructions cost too much.
            for pair in 0..depth / 2 {
                let next = weights.add(N * lanes);
                step::<D, M, N, STEP>(&mut sums, input.add(2 * pair), weights);
                step::<D, M, N, STEP>(&mut sums, input.add(2 * pair + 1), next);
                weights = weights.add(2 * N * lanes);
            }
            if depth % 2 == 1 {
                step::<D, M, N, STEP>(&mut sums, input.add(depth - 1), weights);
                weights = weights.add(N * lanes);
            }
            for _ in 0..tile.ahead_lines {
                prefetch(ahead);
                ahead = ahead.wrapping_add(LINE);
            }
            tap = tap.add(1);
            left -= depth;
        }
        let factor = D::Floats::splat(tile.factor);
        let mut values = [[factor; N]; M];
        for n in 0..N {
            for m in 0..M {
                values[m][n] = D::finish(sums[m][n], header(n), factor);
            }
        }
        finish(values, tile);
        tile.ahead = ahead;
    }
}

/// Adds the products of one word of every pixel.
///
/// # Safety
///
/// Same as [`tiles`], for that word.
#[inline(always)]
unsafe fn step<D: Number, const M: usize, const N: usize, const STEP: usize>(
    sums: &mut [[D::Sums; N]; M],
    input: *const u32,
    weights: *const u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let columns: [D::Words; N] =
            std::array::from_fn(|n| D::load(weights.add(n * D::Floats::LANES)));
        for m in 0..M {
            let value = D::splat(input.add(m * STEP));
            for n in 0..N {
                sums[m][n] = D::plus_product(sums[m][n], value, columns[n]);
            }
        }
    }
}

/// # Safety
///
/// Same as [`tiles`].
#[inline(always)]
unsafe fn finish<V: Vector, const M: usize, const N: usize>(mut sums: [[V; N]; M], tile: &Tiles) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.epilogue {
            Epilogue::Store => store(&sums, tile),
            Epilogue::Clamp(low, high) => {
                clamp(&mut sums, low, high);
                store(&sums, tile);
            }
            Epilogue::Add(skip) => {
                for m in 0..M {
                    let place = skip.add(*tile.places.add(m) as usize);
                    for n in 0..N {
                        let before = V::load(place.add(register::<V>(n, tile.stride)));
                        sums[m][n] = sums[m][n].plus(before);
                    }
                }
                store(&sums, tile);
            }
            Epilogue::Pool(low, high) => {
                clamp(&mut sums, low, high);
                for n in 0..N {
                    let place = tile.output.add(register::<V>(n, tile.stride));
                    let mut total = V::load(place);
                    for m in 0..M {
                        total = total.plus(sums[m][n]);
                    }
                    total.store(place);
                }
            }
        }
    }
}

/// # Safety
///
/// Same as [`tiles`].
#[inline(always)]
unsafe fn store<V: Vector, const M: usize, const N: usize>(sums: &[[V; N]; M], tile: &Tiles) {
    // SAFETY: the caller's promise.
    unsafe {
        for m in 0..M {
            let place = tile.output.add(*tile.places.add(m) as usize);
            for n in 0..N {
                sums[m][n].store(place.add(register::<V>(n, tile.stride)));
            }
        }
    }
}

/// # Safety
///
/// The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn clamp<V: Vector, const M: usize, const N: usize>(
    sums: &mut [[V; N]; M],
    low: f32,
    high: f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (V::splat(low), V::splat(high));
        for m in 0..M {
            for n in 0..N {
                sums[m][n] = sums[m][n].larger(low).smaller(high);
            }
        }
    }
}

/// Offset of register `n` of the outputs, when blocks of 16 are `stride` apart.
#[inline(always)]
fn register<V: Vector>(n: usize, stride: usize) -> usize {
    n / V::A_BLOCK * stride + n % V::A_BLOCK * V::LANES
}

/// Prefetches a line into the L2 cache; any address is allowed.
#[inline(always)]
fn prefetch(at: *const u32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction, and it does not fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
