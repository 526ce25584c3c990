//! 1x1 convolutions as products of tiles: 32 pixels by 32 outputs at a time.
//!
//! Activations are `[input block][pixel][32]` bf16, weights `[output block][input block]` of two
//! tiles. Each step of the inner loop loads two activation tiles and two weight tiles for four
//! products. Sums leave the tile unit through a staging buffer in L1. Turning them into activations
//! (the [`Sink`]) costs as many cycles as the products do, but on other ports, so the sums of the
//! previous 32 pixels are drained in slices between the products of the next.
//!
//! A remainder of pixels is computed by moving the last 32 back over pixels that are already done.
//! The results are the same, so only a sink that sums has to know.
#![allow(unsafe_code, reason = "tiles over slices that were checked at the door")]

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::pointwise::{BLOCK, Layer};
use super::sink::{Drain, Pending, Sink};
use super::tile::{ROWS, SUMS, TILE, Tiles, dot, load, store, zero};

/// Pixels of one pass of the kernel.
pub(super) const PASS: usize = 2 * ROWS;
/// Values of the staging buffer: two sets of four tiles of sums.
pub(super) const STAGING: usize = 2 * 4 * SUMS;
/// How far ahead of their use weights are prefetched, in bytes: an eighth of the L2 cache.
const PREFETCH_DISTANCE: usize = 256 * 1024;

/// The activations that a layer reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// `[input block][plane][32]` bf16, from the first pixel to read.
    pub(super) values: &'a [u16],
    /// Pixels from one input block to the next.
    pub(super) plane: usize,
    /// Pixels to compute.
    pub(super) pixels: usize,
}

/// Computes one output block for every pixel of `source`.
///
/// `staging` holds [`STAGING`] values. Even for fewer than [`PASS`] pixels a whole pass is read, so
/// `source.values` and every sink must be long enough for [`PASS`] pixels.
pub(super) fn multiply(_: &Tiles, layer: Layer, source: Source, staging: &mut [f32], sink: Sink) {
    let Source { values, plane, pixels } = source;
    let steps = layer.pointwise.steps();
    let weights = layer.weights();
    let reach = pixels.max(PASS);
    assert!(pixels > 0 && staging.len() >= STAGING);
    assert!(values.len() >= ((steps - 1) * plane + reach) * BLOCK);
    let drain = sink.check(reach);
    let job = KernelCall {
        weights: weights.as_ptr(),
        bias: layer.bias().as_ptr(),
        steps,
        values: values.as_ptr(),
        plane,
        pixels,
        staging: staging.as_mut_ptr(),
    };
    // SAFETY: a `Tiles` exists only on a thread whose CPU has tiles, AVX-512, FP16 and BF16; every
    // pointer of the job covers `reach` pixels, `steps` steps and one output block as asserted.
    unsafe {
        match (layer.is_half(), steps) {
            (true, _) => job.run::<1>(drain),
            (false, 1) => job.run_single_step(drain),
            (false, _) => job.run::<2>(drain),
        }
    }
}

/// A checked call of the kernel.
struct KernelCall {
    weights: *const u16,
    bias: *const f32,
    steps: usize,
    values: *const u16,
    plane: usize,
    pixels: usize,
    staging: *mut f32,
}

impl KernelCall {
    /// First pixel of pass `index`, and its first row that no earlier pass computed.
    fn pass(&self, index: usize) -> (usize, usize) {
        let first = index * PASS;
        let last = self.pixels.saturating_sub(PASS);
        if first <= last { (first, 0) } else { (last, first - last) }
    }

    /// Runs any number of steps; `TILES` is how many of the block's two weight tiles are in use.
    ///
    /// # Safety
    ///
    /// As [`multiply`] asserts.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx512bf16")]
    unsafe fn run<const TILES: usize>(&self, drain: Drain) {
        let passes = self.pixels.div_ceil(PASS);
        let ahead = (self.steps * BLOCK).div_ceil(passes);
        let mut prefetch = self.weights.cast::<i8>().wrapping_add(PREFETCH_DISTANCE);
        let mut pending: Option<Pending> = None;
        for index in 0..passes {
            let (first, fresh) = self.pass(index);
            // SAFETY: every pass stays within `reach` pixels and `steps` steps; both halves of the
            // staging buffer hold four tiles of sums; prefetches may point anywhere.
            unsafe {
                let sums = self.staging.add(index % 2 * 4 * SUMS);
                zero!(0);
                zero!(1);
                zero!(2);
                zero!(3);
                let mut activations = self.values.add(first * BLOCK);
                let mut weights = self.weights;
                for step in 0..self.steps {
                    load!(4, activations);
                    load!(6, weights);
                    dot!(0, 4, 6);
                    load!(5, activations.add(TILE));
                    dot!(2, 5, 6);
                    if TILES == 2 {
                        load!(7, weights.add(TILE));
                        dot!(1, 4, 7);
                        dot!(3, 5, 7);
                    }
                    if let Some(pending) = pending {
                        let rows = PASS * step / self.steps..PASS * (step + 1) / self.steps;
                        drain.rows(pending, rows);
                    }
                    activations = activations.wrapping_add(self.plane * BLOCK);
                    weights = weights.wrapping_add(2 * TILE);
                }
                for _ in 0..ahead {
                    _mm_prefetch::<_MM_HINT_T1>(prefetch);
                    prefetch = prefetch.wrapping_add(64);
                }
                store!(0, sums);
                store!(2, sums.add(2 * SUMS));
                if TILES == 2 {
                    store!(1, sums.add(SUMS));
                    store!(3, sums.add(3 * SUMS));
                }
                pending = Some(Pending { sums, first, fresh, bias: self.bias });
            }
        }
        if let Some(pending) = pending {
            // SAFETY: as above.
            unsafe { drain.rows(pending, 0..PASS) };
        }
    }

    /// Runs a single step: the weights stay in their tiles, and draining is interleaved with the
    /// four products.
    ///
    /// # Safety
    ///
    /// As [`multiply`] asserts.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx512bf16")]
    unsafe fn run_single_step(&self, drain: Drain) {
        let mut pending: Option<Pending> = None;
        // SAFETY: one step of two weight tiles; passes stay within `reach` pixels.
        unsafe {
            load!(6, self.weights);
            load!(7, self.weights.add(TILE));
        }
        for index in 0..self.pixels.div_ceil(PASS) {
            let (first, fresh) = self.pass(index);
            // SAFETY: as above; each half of the staging buffer holds four tiles of sums.
            unsafe {
                let sums = self.staging.add(index % 2 * 4 * SUMS);
                let slice = |at: usize| {
                    if let Some(pending) = pending {
                        drain.rows(pending, at..at + PASS / 4);
                    }
                };
                let activations = self.values.add(first * BLOCK);
                load!(4, activations);
                zero!(0);
                dot!(0, 4, 6);
                slice(0);
                load!(5, activations.add(TILE));
                zero!(1);
                dot!(1, 4, 7);
                slice(8);
                store!(0, sums);
                zero!(2);
                dot!(2, 5, 6);
                slice(16);
                store!(1, sums.add(SUMS));
                zero!(3);
                dot!(3, 5, 7);
                slice(24);
                store!(2, sums.add(2 * SUMS));
                store!(3, sums.add(3 * SUMS));
                pending = Some(Pending { sums, first, fresh, bias: self.bias });
            }
        }
        if let Some(pending) = pending {
            // SAFETY: as above.
            unsafe { drain.rows(pending, 0..PASS) };
        }
    }
}
