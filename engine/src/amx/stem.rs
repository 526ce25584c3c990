//! The first convolution's input: f32 planes to bf16 patches that one tile step multiplies.
//!
//! A 3x3 patch of three colours is 27 numbers, fewer than the 32 of a step, so the first layer is a
//! pointwise layer over patches. Planes are interleaved once, with a margin of zeros; then a patch
//! is three runs of nine neighbouring values, put together by one permutation.
#![allow(unsafe_code, reason = "vectors over slices that were checked at the door")]

#[allow(clippy::wildcard_imports, reason = "intrinsics")]
use std::arch::x86_64::*;

use super::pointwise::BLOCK;
use super::tile::Permit;

/// Pixels per side of the input image.
pub(super) const SIDE: usize = 224;
/// Pixels per side of the first layer's output.
pub(super) const OUT: usize = SIDE / 2;
/// Values in a row of the interleaved image with its margins.
const PITCH: usize = (SIDE + 2) * 3;
/// Values of the interleaved image; the last patch reads a few past its end.
pub(super) const INTERLEAVED: usize = (SIDE + 3) * PITCH;
/// Slots of one kernel row in a patch: nine values and a zero.
const SLOTS: usize = 10;

/// Weights `[outputs, 3, 3, 3]` in the order of a patch: `[outputs, 32]`.
pub(super) fn patch_weights(weight: &[f32]) -> Vec<f32> {
    let outputs = weight.len() / 27;
    let mut ordered = vec![0.0; outputs * BLOCK];
    for (index, &value) in weight.iter().enumerate() {
        let (output, colour, row, column) = (index / 27, index % 27 / 9, index % 9 / 3, index % 3);
        ordered[output * BLOCK + row * SLOTS + column * 3 + colour] = value;
    }
    ordered
}

/// Interleaves `[3, 224, 224]` f32 into rows of bf16 with a margin of one pixel.
pub(super) fn interleave(_: Permit, image: &[f32], out: &mut [u16]) {
    assert!(image.len() >= 3 * SIDE * SIDE && out.len() >= INTERLEAVED);
    // SAFETY: the permit proves that the CPU has BF16; lengths are asserted.
    unsafe { interleave_rows(image.as_ptr(), out.as_mut_ptr()) }
}

/// # Safety
///
/// `3 * SIDE * SIDE` values in, `INTERLEAVED` out.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn interleave_rows(image: *const f32, out: *mut u16) {
    const PLANE: usize = SIDE * SIDE;
    // Sixteen pixels: words 0..16 are red, 16..32 green, 32..48 blue.
    let mut order = [0u16; 64];
    for (place, word) in order[..48].iter_mut().zip(0u16..) {
        *place = word % 3 * 16 + word / 3;
    }
    // SAFETY: sixteen pixels of each plane at a time; a row of the output has its margin.
    unsafe {
        let first = _mm512_loadu_si512(order.as_ptr().cast());
        let second = _mm512_loadu_si512(order.as_ptr().add(32).cast());
        for y in 0..SIDE {
            for x in (0..SIDE).step_by(16) {
                let from = image.add(y * SIDE + x);
                let to = out.add((y + 1) * PITCH + (x + 1) * 3);
                let (red, green) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(PLANE)));
                let red_green = _mm512_cvtne2ps_pbh(green, red);
                let red_green = std::mem::transmute::<__m512bh, __m512i>(red_green);
                let blue = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.add(2 * PLANE)));
                let blue = _mm512_castsi256_si512(std::mem::transmute::<__m256bh, __m256i>(blue));
                let lower = _mm512_permutex2var_epi16(red_green, first, blue);
                let upper = _mm512_permutex2var_epi16(red_green, second, blue);
                _mm512_storeu_si512(to.cast(), lower);
                _mm256_storeu_si256(to.add(32).cast(), _mm512_castsi512_si256(upper));
            }
        }
    }
}

/// Writes the patches of output rows `rows` as `[pixel][32]`; `lead` is 1 when there is no margin
/// before the image (TensorFlow's padding) and 0 when there is.
pub(super) fn patches(
    _: Permit,
    interleaved: &[u16],
    rows: std::ops::Range<usize>,
    lead: usize,
    out: &mut [u16],
) {
    assert!(interleaved.len() >= INTERLEAVED && rows.end <= OUT && lead <= 1);
    assert!(out.len() >= rows.len() * OUT * BLOCK);
    // SAFETY: the permit proves that the CPU has AVX-512 BW; lengths are asserted.
    unsafe { gather(interleaved.as_ptr(), rows, lead, out.as_mut_ptr()) }
}

/// # Safety
///
/// `INTERLEAVED` values in, a patch for each pixel of `rows` out.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn gather(from: *const u16, rows: std::ops::Range<usize>, lead: usize, out: *mut u16) {
    let mut order = [0u16; BLOCK];
    let mut used = 0u32;
    for row in 0..3u16 {
        for value in 0..9 {
            let slot = usize::from(row) * SLOTS + usize::from(value);
            order[slot] = row * 16 + value;
            used |= 1 << slot;
        }
    }
    // SAFETY: the last patch starts at row 223 + lead, column 222 + lead of 226 and reads 16 values
    // of each of three rows: `INTERLEAVED` has one row more than that.
    unsafe {
        let order = _mm512_loadu_si512(order.as_ptr().cast());
        let mut to = out;
        for y in rows {
            let mut at = from.add((2 * y + lead) * PITCH + lead * 3);
            for _ in 0..OUT {
                let first = _mm512_castsi256_si512(_mm256_loadu_si256(at.cast()));
                let second = _mm256_loadu_si256(at.add(PITCH).cast());
                let third = _mm512_castsi256_si512(_mm256_loadu_si256(at.add(2 * PITCH).cast()));
                let both = _mm512_inserti64x4::<1>(first, second);
                let patch = _mm512_maskz_permutex2var_epi16(used, both, order, third);
                _mm512_storeu_si512(to.cast(), patch);
                at = at.add(6);
                to = to.add(BLOCK);
            }
        }
    }
}
