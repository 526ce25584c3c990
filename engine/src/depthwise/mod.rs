//! 3x3 depthwise convolutions with ReLU6, rows of one block of 16 channels per call.
#![allow(unsafe_code, reason = "calls kernels after checking the lengths")]

mod rows;
#[cfg(test)]
mod tests;

use rows::{Rows, rows};

use super::aligned::Aligned;
#[cfg(target_arch = "x86_64")]
use super::isa::Kind;
use super::number::{BYTES, ByteFour, FloatFour, HalfFour};
#[cfg(target_arch = "x86_64")]
use super::number::{Byte256, Byte512, Float256, Float512, Half512};
use super::offsets::OffsetsRef;
use super::target::{Format, Target};
use super::{BLOCK, Values, Words};

/// Rows and columns of the filter's window.
const WINDOW: usize = 3;
/// Taps of the filter.
const TAPS: usize = WINDOW * WINDOW;

/// One layer: `[block][9][16]` weights and `[block][16]` biases.
#[derive(Debug)]
pub(super) struct Depthwise {
    weights: Aligned<f32>,
    bias: Aligned<f32>,
    stride: usize,
    target: Target,
}

impl Depthwise {
    /// Packs weights `[channels, 3, 3]` for outputs that a product of `target` can read; `stride`
    /// is 1 or 2.
    pub(super) fn pack(target: Target, weight: &[f32], bias: &[f32], stride: usize) -> Self {
        assert!(stride == 1 || stride == 2, "strides of this network");
        let scale = if target.format() == Format::Int8 { BYTES / 6.0 } else { 1.0 };
        let blocks = bias.len().div_ceil(BLOCK);
        let mut weights = Aligned::new(blocks * TAPS * BLOCK);
        for (channel, taps) in weight.chunks_exact(TAPS).enumerate() {
            for (tap, &value) in taps.iter().enumerate() {
                weights[(channel / BLOCK * TAPS + tap) * BLOCK + channel % BLOCK] = value * scale;
            }
        }
        let mut padded = Aligned::new(blocks * BLOCK);
        for (padded, bias) in padded.iter_mut().zip(bias) {
            *padded = bias * scale;
        }
        Self { weights, bias: padded, stride, target }
    }

    /// 1 or 2.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Filters rows of block `block`. `starts` contains, for each input row, the offset in `plane`
    /// of the leftmost pixel that the first output of a row needs. Output rows have `width` pixels
    /// and are contiguous.
    pub(super) fn filter(
        &self,
        block: usize,
        (plane, starts): (Values, OffsetsRef),
        (output, width): (Words, usize),
    ) {
        if width == 0 || starts.len() < WINDOW {
            return;
        }
        let height = (starts.len() - WINDOW) / self.stride + 1;
        assert!(starts.reach() + ((width - 1) * self.stride + WINDOW) * BLOCK <= plane.len());
        assert!(output.len() >= height * width * self.target.words());
        let weights = &self.weights[block * TAPS * BLOCK..][..TAPS * BLOCK];
        let bias = &self.bias[block * BLOCK..][..BLOCK];
        let call = Rows {
            input: plane.as_ptr().cast(),
            starts: starts.as_ptr(),
            weights: weights.as_ptr(),
            bias: bias.as_ptr(),
            output: output.as_ptr().cast_mut().cast(),
            width,
            height,
        };
        let run = kernel(self.target, self.stride);
        // SAFETY: lengths are as asserted, and a target exists only where the CPU has it.
        unsafe { run(&call) }
    }
}

/// A kernel for one target and stride.
type Kernel = unsafe fn(&Rows);

fn kernel(target: Target, stride: usize) -> Kernel {
    let strides: [Kernel; 2] = match (target.isa().kind(), target.format()) {
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::F32) => [avx512::<1>, avx512::<2>],
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::F16) => [avx512_f16::<1>, avx512_f16::<2>],
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::Int8) => [avx512_int8::<1>, avx512_int8::<2>],
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Format::F32) => [avx2::<1>, avx2::<2>],
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Format::Int8) => [avx2_int8::<1>, avx2_int8::<2>],
        (_, Format::F32) => [portable::<1>, portable::<2>],
        (_, Format::F16) => [portable_f16::<1>, portable_f16::<2>],
        (_, Format::Int8) => [portable_int8::<1>, portable_int8::<2>],
    };
    strides[stride - 1]
}

/// Defines a function that compiles [`rows()`] for an instruction set.
macro_rules! kernel {
    ($name:ident, $number:ty, $wide:literal, [$($feature:meta)?]) => {
        /// # Safety
        ///
        /// Same as [`rows()`].
        $(#[$feature])?
        unsafe fn $name<const STRIDE: usize>(call: &Rows) {
            // SAFETY: the caller's promise.
            unsafe { rows::<$number, $wide, STRIDE>(call) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernel!(
    avx512,
    Float512,
    14,
    [target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
);
#[cfg(target_arch = "x86_64")]
kernel!(
    avx512_f16,
    Half512,
    14,
    [target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx2,fma")]
);
#[cfg(target_arch = "x86_64")]
kernel!(
    avx512_int8,
    Byte512,
    14,
    [target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
);
#[cfg(target_arch = "x86_64")]
kernel!(avx2, Float256, 7, [target_feature(enable = "avx2,fma")]);
#[cfg(target_arch = "x86_64")]
kernel!(avx2_int8, Byte256, 7, [target_feature(enable = "avx2,fma,avxvnni")]);
kernel!(portable, FloatFour, 7, []);
kernel!(portable_f16, HalfFour, 7, []);
kernel!(portable_int8, ByteFour, 7, []);
