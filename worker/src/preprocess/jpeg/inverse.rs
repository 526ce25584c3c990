//! The inverse cosine transform, at the full size of a block or a smaller one.
//!
//! The low-frequency corner of a block's cosine transform is the transform of the block at a smaller
//! size, so a smaller inverse transform gives the reduced picture directly, better filtered than by
//! averaging pixels, and most coefficients need not be looked at.

#![allow(clippy::inline_always, reason = "sizes are known where it is called, and loops unroll")]

/// The inverse transform of the corner of `X` by `Y` coefficients to `W` by `H` pixels, ignoring
/// all other coefficients.
#[inline(always)]
pub(super) fn inverse<const X: usize, const Y: usize, const W: usize, const H: usize>(
    coefficients: &[f32; 64],
) -> [[f32; W]; H] {
    let lines = coefficients.as_chunks::<8>().0;
    let corner: [[f32; X]; Y] = std::array::from_fn(|y| std::array::from_fn(|x| lines[y][x]));
    let rows = along::<Y, H, X>(&corner);
    // Where a row fills the lanes, transposing the block twice costs more than the second
    // pass itself.
    if W != 8 {
        return transposed(&along(&transposed(&rows)));
    }
    let mut pixels = [[0.0; W]; H];
    for (line, row) in pixels.iter_mut().zip(&rows) {
        across(row, line);
    }
    pixels
}

/// Transforms `K` frequencies along the first axis to `N` pixels, for `M` columns at a time.
///
/// Written so that all loops unroll and the inner ones run over lanes.
#[inline(always)]
fn along<const K: usize, const N: usize, const M: usize>(
    frequencies: &[[f32; M]; K],
) -> [[f32; M]; N] {
    let mut pixels = [[0.0; M]; N];
    for first in 0..N.div_ceil(2) {
        let mut sums = [[0.0; M]; 2];
        for (frequency, line) in frequencies.iter().enumerate() {
            let height = wave::<N>(frequency, first);
            for (sum, value) in sums[frequency % 2].iter_mut().zip(line) {
                *sum += value * height;
            }
        }
        // The second half of a cosine mirrors the first, upside down if the frequency is odd.
        let [even, odd] = sums;
        for lane in 0..M {
            pixels[N - 1 - first][lane] = even[lane] - odd[lane];
            pixels[first][lane] = even[lane] + odd[lane];
        }
    }
    pixels
}

/// Transforms a row to eight pixels, four at a time.
#[inline(always)]
fn across<const K: usize>(frequencies: &[f32; K], pixels: &mut [f32]) {
    let mut sums = [[0.0; 4]; 2];
    for (frequency, value) in frequencies.iter().enumerate() {
        for (pixel, sum) in sums[frequency % 2].iter_mut().enumerate() {
            *sum += value * wave::<8>(frequency, pixel);
        }
    }
    let [even, odd] = sums;
    for at in 0..4 {
        pixels[at] = even[at] + odd[at];
        pixels[7 - at] = even[at] - odd[at];
    }
}

#[inline(always)]
fn transposed<const N: usize, const M: usize>(lines: &[[f32; M]; N]) -> [[f32; N]; M] {
    std::array::from_fn(|x| std::array::from_fn(|y| lines[y][x]))
}

/// Value at a pixel of a cosine over `N` pixels, scaled so that a flat block keeps its level.
const fn wave<const N: usize>(frequency: usize, pixel: usize) -> f32 {
    if frequency == 0 {
        return HALF_COSINE[4];
    }
    let phase = (2 * pixel + 1) * frequency * (8 / N) % 32;
    let folded = if phase > 16 { 32 - phase } else { phase };
    if folded > 8 { -HALF_COSINE[16 - folded] } else { HALF_COSINE[folded] }
}

/// Half the cosine of each sixteenth of a half turn.
const HALF_COSINE: [f32; 9] = [
    0.5,
    0.490_392_64,
    0.461_939_77,
    0.415_734_8,
    0.353_553_39,
    0.277_785_12,
    0.191_341_72,
    0.097_545_16,
    0.0,
];

/// Shifts a value around zero back to a byte.
#[inline(always)]
pub(super) fn level(value: f32) -> u8 {
    // At this magnitude the unit in the last place is one, so the addition rounds, and eight values
    // are rounded as fast as one.
    const UNITS: f32 = 12_582_912.0;
    (value.clamp(-128.0, 127.0) + (UNITS + 128.0)).to_bits().to_le_bytes()[0]
}

/// Index in the block, row by row, of each coefficient in file order.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];
