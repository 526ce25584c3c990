//! 3x3 depthwise convolutions in f16, 32 channels per register.
//!
//! Reads the f16 plane that an expansion wrote and writes bf16, the input format of the
//! projection's tiles. Sums stay in f16: nine products of values below 6 lose less precision than
//! the bf16 around them.
#![allow(unsafe_code, reason = "vectors over slices that were checked at the door")]

#[allow(clippy::wildcard_imports, reason = "intrinsics")]
use std::arch::x86_64::*;

use half::f16;

use super::super::aligned::Aligned;
use super::pointwise::{BLOCK, blocks_of};
use super::tile::Permit;

/// 6.0 in f16.
pub(super) const SIX: i16 = 0x4600;
/// Pixels per pass; every width in the network is a multiple of it.
const PASS: usize = 7;

/// One layer: `[channel block][9][32]` weights and `[channel block][32]` biases.
#[derive(Debug)]
pub(super) struct Depthwise {
    weight: Aligned<u16>,
    bias: Aligned<u16>,
    /// 1 or 2.
    pub(super) stride: usize,
}

impl Depthwise {
    /// Packs weights `[channels, 3, 3]`.
    pub(super) fn pack(weight: &[f32], bias: &[f32], stride: usize) -> Self {
        let blocks = blocks_of(bias.len());
        let mut packed = Aligned::new(blocks * 9 * BLOCK);
        for (channel, taps) in weight.chunks_exact(9).enumerate() {
            for (tap, &value) in taps.iter().enumerate() {
                let place = (channel / BLOCK * 9 + tap) * BLOCK + channel % BLOCK;
                packed[place] = f16::from_f32(value).to_bits();
            }
        }
        let mut padded = Aligned::new(blocks * BLOCK);
        for (place, &value) in padded.iter_mut().zip(bias) {
            *place = f16::from_f32(value).to_bits();
        }
        Self { weight: packed, bias: padded, stride }
    }

    /// Filters one row of channel block `block`: three padded rows in, `width` pixels out.
    pub(super) fn filter(
        &self,
        _: Permit,
        block: usize,
        rows: [&[u16]; 3],
        (out, width): (&mut [u16], usize),
    ) {
        let weight = &self.weight[block * 9 * BLOCK..][..9 * BLOCK];
        let bias = &self.bias[block * BLOCK..][..BLOCK];
        assert!(width.is_multiple_of(PASS) && out.len() >= width * BLOCK);
        let reach = ((width - 1) * self.stride + 3) * BLOCK;
        assert!(rows.iter().all(|row| row.len() >= reach));
        let rows = rows.map(<[u16]>::as_ptr);
        // SAFETY: the permit proves that the CPU has FP16 and BF16; rows, weights and output are as
        // long as asserted.
        unsafe {
            match self.stride {
                1 => row::<1>(weight.as_ptr(), bias.as_ptr(), rows, (out.as_mut_ptr(), width)),
                _ => row::<2>(weight.as_ptr(), bias.as_ptr(), rows, (out.as_mut_ptr(), width)),
            }
        }
    }
}

/// # Safety
///
/// Three rows of `(width - 1) * STRIDE + 3` pixels, nine weights, one bias, `width` pixels out.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx512bf16")]
unsafe fn row<const STRIDE: usize>(
    weight: *const u16,
    bias: *const u16,
    rows: [*const u16; 3],
    (out, width): (*mut u16, usize),
) {
    // SAFETY: the caller's promise; pass `x` reads pixels up to (x + PASS - 1) * STRIDE + 2.
    unsafe {
        let taps: [__m512h; 9] = std::array::from_fn(|tap| half_lanes(weight.add(tap * BLOCK)));
        let bias = half_lanes(bias);
        for x in (0..width).step_by(PASS) {
            let mut sums = [bias; PASS];
            for (y, row) in rows.iter().enumerate() {
                let first = row.add(x * STRIDE * BLOCK);
                for column in 0..3 {
                    for (pixel, sum) in sums.iter_mut().enumerate() {
                        let value = half_lanes(first.add((column + pixel * STRIDE) * BLOCK));
                        *sum = _mm512_fmadd_ph(value, taps[y * 3 + column], *sum);
                    }
                }
            }
            for (pixel, &sum) in sums.iter().enumerate() {
                let to = out.add((x + pixel) * BLOCK);
                _mm512_storeu_si512(to.cast(), relu6_bf16(sum));
            }
        }
    }
}

/// # Safety
///
/// 64 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512fp16")]
unsafe fn half_lanes(from: *const u16) -> __m512h {
    // SAFETY: the caller's promise.
    unsafe { _mm512_castsi512_ph(_mm512_loadu_si512(from.cast())) }
}

/// Clamps to 0..6 and rebiases the bits of f16 as bf16, rounding to nearest.
///
/// After the clamp the sign is clear, so a shift by the three mantissa bits that bf16 lacks and a
/// constant for the exponent convert all 32 lanes at once. Zero and subnormals become 2^-15 or
/// slightly more, far below what bf16 resolves next to the values they are added to.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
fn relu6_bf16(value: __m512h) -> __m512i {
    const HALF_STEP: i16 = 4;
    const EXPONENT: i16 = (127 - 15) << 7;
    let six = _mm512_castsi512_ph(_mm512_set1_epi16(SIX));
    let clamped = _mm512_min_ph(_mm512_max_ph(value, _mm512_setzero_ph()), six);
    let rounded = _mm512_add_epi16(_mm512_castph_si512(clamped), _mm512_set1_epi16(HALF_STEP));
    let shifted = _mm512_srli_epi16::<3>(rounded);
    _mm512_add_epi16(shifted, _mm512_set1_epi16(EXPONENT))
}
