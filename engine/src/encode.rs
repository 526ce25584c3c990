//! Converts floats to the number format that a product reads.
//!
//! Bytes are scaled by the largest magnitude of the whole tensor, computed per image. No
//! calibration has to be stored with the weights, and the scale fits every image.
#![allow(unsafe_code, reason = "calls kernels after checking the lengths")]
#![allow(
    clippy::inline_always,
    reason = "inlined into the function that carries the instruction set"
)]

#[cfg(target_arch = "x86_64")]
use super::isa::Kind;
use super::number::{BYTES, ByteFour, FloatFour, HalfFour, Number, STEPS, ZERO};
#[cfg(target_arch = "x86_64")]
use super::number::{Byte256, Byte512, Float256, Float512, Half512};
use super::target::{Format, Target};
use super::vector::Vector;
use super::{BLOCK, Values, Words};

/// How floats become numbers: times `factor`, plus `zero`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    factor: f32,
    zero: f32,
}

impl Scale {
    /// The scale for values from 0 to 6.
    pub(super) fn clamped(target: Target) -> Self {
        let factor = if target.format() == Format::Int8 { BYTES / 6.0 } else { 1.0 };
        Self { factor, zero: 0.0 }
    }

    /// The scale that fits these values.
    pub(super) fn of(target: Target, values: Values) -> Self {
        if target.format() != Format::Int8 {
            return Self { factor: 1.0, zero: 0.0 };
        }
        let largest = largest(target, values);
        let factor = if largest > 0.0 { STEPS / largest } else { 1.0 };
        Self { factor, zero: ZERO }
    }

    /// The factor by which a product undoes the scale.
    pub(super) fn back(self) -> f32 {
        1.0 / self.factor
    }
}

/// Encodes blocks of 16 values.
///
/// # Panics
///
/// When `values` is not whole blocks or `out` is too short for them.
pub(super) fn encode(target: Target, scale: Scale, values: Values, out: Words) {
    let blocks = values.len() / BLOCK;
    assert!(values.len().is_multiple_of(BLOCK) && out.len() >= blocks * target.words());
    let call =
        Call { values: values.as_ptr().cast(), out: out.as_ptr().cast_mut().cast(), blocks, scale };
    // SAFETY: lengths are as asserted, and a target exists only where the CPU has it.
    unsafe { (kernels(target).encode)(&call) }
}

/// Largest magnitude of the values.
fn largest(target: Target, values: Values) -> f32 {
    let mut lanes = [0f32; BLOCK];
    let call = Call {
        values: values.as_ptr().cast(),
        out: lanes.as_mut_ptr().cast(),
        blocks: values.len() / BLOCK,
        scale: Scale { factor: 1.0, zero: 0.0 },
    };
    // SAFETY: whole blocks of the values are read, one block of floats is written, and a target
    // exists only where the CPU has it.
    unsafe { (kernels(target).largest)(&call) }
    lanes.iter().fold(0.0, |most, &lane| most.max(lane))
}

/// A call whose lengths have been checked.
struct Call {
    values: *const f32,
    out: *mut u32,
    blocks: usize,
    scale: Scale,
}

struct Kernels {
    /// # Safety
    ///
    /// The CPU has the target; `values` has `blocks` blocks, and `out` has room for them.
    encode: unsafe fn(&Call),
    /// # Safety
    ///
    /// The CPU has the target; `values` has `blocks` blocks, and `out` has room for one block
    /// of floats.
    largest: unsafe fn(&Call),
}

/// # Safety
///
/// Same as [`Kernels::encode`].
#[inline(always)]
unsafe fn encode_blocks<D: Number>(call: &Call) {
    let lanes = D::Floats::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let factor = D::Floats::splat(call.scale.factor);
        let zero = D::Floats::splat(call.scale.zero);
        for at in (0..call.blocks * BLOCK).step_by(lanes) {
            let values = zero.plus_product(D::Floats::load(call.values.add(at)), factor);
            D::encode(values, call.out.add(at / D::CHANNELS));
        }
    }
}

/// # Safety
///
/// Same as [`Kernels::largest`].
#[inline(always)]
unsafe fn largest_lanes<V: Vector>(call: &Call) {
    // SAFETY: the caller's promise.
    unsafe {
        for lane in (0..BLOCK).step_by(V::LANES) {
            let mut most = V::splat(0.0);
            let mut least = most;
            for block in 0..call.blocks {
                let values = V::load(call.values.add(block * BLOCK + lane));
                most = most.larger(values);
                least = least.smaller(values);
            }
            let negated = V::splat(0.0).plus_product(least, V::splat(-1.0));
            most.larger(negated).store(call.out.add(lane).cast());
        }
    }
}

fn kernels(target: Target) -> &'static Kernels {
    match (target.isa().kind(), target.format()) {
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::F32) => &avx512::KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::F16) => &avx512_f16::KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Format::Int8) => &avx512_int8::KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Format::F32) => &avx2::KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Format::Int8) => &avx2_int8::KERNELS,
        (_, Format::F32) => &portable::KERNELS,
        (_, Format::F16) => &portable_f16::KERNELS,
        (_, Format::Int8) => &portable_int8::KERNELS,
    }
}

/// Defines the kernels of one target.
macro_rules! kernels {
    ($name:ident, $number:ty, [$($feature:meta)?]) => {
        mod $name {
            #[allow(clippy::wildcard_imports, reason = "the target's numbers")]
            use super::*;

            pub(super) static KERNELS: Kernels = Kernels { encode, largest };

            /// # Safety
            ///
            /// Same as [`Kernels::encode`].
            $(#[$feature])?
            unsafe fn encode(call: &Call) {
                // SAFETY: the caller's promise.
                unsafe { encode_blocks::<$number>(call) }
            }

            /// # Safety
            ///
            /// Same as [`Kernels::largest`].
            $(#[$feature])?
            unsafe fn largest(call: &Call) {
                // SAFETY: the caller's promise.
                unsafe { largest_lanes::<<$number as Number>::Floats>(call) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(
    avx512,
    Float512,
    [target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
);
#[cfg(target_arch = "x86_64")]
kernels!(
    avx512_f16,
    Half512,
    [target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx2,fma")]
);
#[cfg(target_arch = "x86_64")]
kernels!(
    avx512_int8,
    Byte512,
    [target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, Float256, [target_feature(enable = "avx2,fma")]);
#[cfg(target_arch = "x86_64")]
kernels!(avx2_int8, Byte256, [target_feature(enable = "avx2,fma,avxvnni")]);
kernels!(portable, FloatFour, []);
kernels!(portable_f16, HalfFour, []);
kernels!(portable_int8, ByteFour, []);
