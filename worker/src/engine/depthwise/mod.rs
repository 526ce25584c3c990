//! 3x3 depthwise convolutions with ReLU6, one row of one block of 16 channels a call.
#![allow(unsafe_code, reason = "calls kernels after checking the lengths")]

mod row;
#[cfg(test)]
mod tests;

use super::aligned::Aligned;
use super::isa::{Isa, Kind};
use super::vector::Four;
use super::{BLOCK, Values};
use row::{Row, row};

/// Taps of the filter.
const TAPS: usize = 9;

/// One layer: `[block][9][16]` weights and `[block][16]` biases.
#[derive(Debug)]
pub(super) struct Depthwise {
    weights: Aligned<f32>,
    bias: Aligned<f32>,
    stride: usize,
}

impl Depthwise {
    /// Packs weights `[channels, 3, 3]`; `stride` is 1 or 2.
    pub(super) fn pack(weight: &[f32], bias: &[f32], stride: usize) -> Self {
        assert!(stride == 1 || stride == 2, "strides of this network");
        let blocks = bias.len().div_ceil(BLOCK);
        let mut weights = Aligned::new(blocks * TAPS * BLOCK);
        for (channel, taps) in weight.chunks_exact(TAPS).enumerate() {
            for (tap, &value) in taps.iter().enumerate() {
                weights[(channel / BLOCK * TAPS + tap) * BLOCK + channel % BLOCK] = value;
            }
        }
        let mut padded = Aligned::new(blocks * BLOCK);
        padded[..bias.len()].copy_from_slice(bias);
        Self { weights, bias: padded, stride }
    }

    /// 1 or 2.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Filters one row of block `block`: three rows that begin with the leftmost pixel of the first
    /// output, `width` pixels out.
    pub(super) fn filter(
        &self,
        isa: Isa,
        block: usize,
        rows: [Values; 3],
        (output, width): (Values, usize),
    ) {
        if width == 0 {
            return;
        }
        let reach = ((width - 1) * self.stride + 3) * BLOCK;
        assert!(rows.iter().all(|row| row.len() >= reach) && output.len() >= width * BLOCK);
        let weights = &self.weights[block * TAPS * BLOCK..][..TAPS * BLOCK];
        let bias = &self.bias[block * BLOCK..][..BLOCK];
        let call = Row {
            input: rows.map(|row| row.as_ptr().cast()),
            weights: weights.as_ptr(),
            bias: bias.as_ptr(),
            output: output.as_ptr().cast_mut().cast(),
            width,
        };
        // SAFETY: lengths are as asserted, the strides as constructed, and `isa` exists only where
        // the CPU has it.
        unsafe {
            match (isa.kind(), self.stride) {
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512, 1) => avx512::<1>(&call),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512, _) => avx512::<2>(&call),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx2, 1) => avx2::<1>(&call),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx2, _) => avx2::<2>(&call),
                (_, 1) => row::<Four, 7, 1>(&call),
                (_, _) => row::<Four, 7, 2>(&call),
            }
        }
    }
}

/// # Safety
///
/// As [`row`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512<const STRIDE: usize>(call: &Row) {
    // SAFETY: the caller's promise.
    unsafe { row::<std::arch::x86_64::__m512, 14, STRIDE>(call) }
}

/// # Safety
///
/// As [`row`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const STRIDE: usize>(call: &Row) {
    // SAFETY: the caller's promise.
    unsafe { row::<std::arch::x86_64::__m256, 7, STRIDE>(call) }
}
