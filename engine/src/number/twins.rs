//! Halves and bytes in plain Rust: the twins that the other sets are tested against, and the path
//! for CPUs without them.
#![allow(
    clippy::inline_always,
    reason = "inlined into the function that carries the instruction set"
)]
#![allow(unsafe_code, reason = "pointers behind the promise of the trait")]

use ::half::f16;

use super::super::vector::{Four, Vector};
use super::{BYTES, Header, Number};

/// Two halves per word, four words per register.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HalfFour;

/// Four bytes per word, four words per register.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByteFour;

// SAFETY: four words per register, in plain Rust.
unsafe impl Number for HalfFour {
    type Floats = Four;
    type Words = [[f16; 2]; 4];
    type Sums = [[f16; 2]; 4];
    const CHANNELS: usize = 2;
    const SIX: f32 = 6.0;

    #[inline(always)]
    unsafe fn splat(from: *const u32) -> Self::Words {
        // SAFETY: the promise of the trait.
        [unsafe { from.cast::<[f16; 2]>().read_unaligned() }; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self::Words {
        // SAFETY: the promise of the trait.
        unsafe { from.cast::<Self::Words>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn start(_: Header) -> Self::Sums {
        [[f16::ZERO; 2]; 4]
    }

    #[inline(always)]
    unsafe fn plus_product(sums: Self::Sums, left: Self::Words, right: Self::Words) -> Self::Sums {
        let fused = |sum: f16, a: f16, b: f16| {
            f16::from_f32(f32::from(a).mul_add(f32::from(b), f32::from(sum)))
        };
        std::array::from_fn(|lane| {
            std::array::from_fn(|at| fused(sums[lane][at], left[lane][at], right[lane][at]))
        })
    }

    #[inline(always)]
    unsafe fn finish(sums: Self::Sums, header: Header, _: Four) -> Four {
        let values = sums.map(|[even, odd]| f32::from(even) + f32::from(odd));
        // SAFETY: the promise of the trait, and four floats on the stack.
        unsafe { Four::load(values.as_ptr()).plus(Four::load(header.bias.cast())) }
    }

    #[inline(always)]
    unsafe fn encode(values: Four, to: *mut u32) {
        let mut floats = [0.0; 4];
        // SAFETY: four floats on the stack; the promise of the trait.
        unsafe {
            values.store(floats.as_mut_ptr());
            to.cast::<[f16; 4]>().write_unaligned(floats.map(f16::from_f32));
        }
    }
}

// SAFETY: four words per register, in plain Rust.
unsafe impl Number for ByteFour {
    type Floats = Four;
    type Words = [[u8; 4]; 4];
    type Sums = [i32; 4];
    const CHANNELS: usize = 4;
    const SIX: f32 = BYTES;

    #[inline(always)]
    unsafe fn splat(from: *const u32) -> Self::Words {
        // SAFETY: the promise of the trait.
        [unsafe { from.cast::<[u8; 4]>().read_unaligned() }; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self::Words {
        // SAFETY: the promise of the trait.
        unsafe { from.cast::<Self::Words>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn start(header: Header) -> Self::Sums {
        // SAFETY: the promise of the trait; the third row of the header.
        unsafe { header.bias.add(2 * header.width).cast::<[i32; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn plus_product(sums: Self::Sums, left: Self::Words, right: Self::Words) -> Self::Sums {
        std::array::from_fn(|lane| {
            let pairs = left[lane].into_iter().zip(right[lane]);
            let products = pairs.map(|(a, b)| i32::from(a) * i32::from(b.cast_signed()));
            sums[lane] + products.sum::<i32>()
        })
    }

    #[inline(always)]
    unsafe fn finish(sums: Self::Sums, header: Header, factor: Four) -> Four {
        let floats = sums.map(|sum| sum as f32);
        // SAFETY: the promise of the trait, and four floats on the stack; the second row of the
        // header.
        unsafe {
            let scale = Four::load(header.bias.add(header.width).cast());
            let scale = Four::splat(0.0).plus_product(scale, factor);
            let bias = Four::load(header.bias.cast());
            bias.plus_product(Four::load(floats.as_ptr()), scale)
        }
    }

    #[inline(always)]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, as the instructions do"
    )]
    unsafe fn encode(values: Four, to: *mut u32) {
        let mut floats = [0.0f32; 4];
        // SAFETY: four floats on the stack; the promise of the trait.
        unsafe {
            values.store(floats.as_mut_ptr());
            to.cast::<[u8; 4]>().write_unaligned(floats.map(|value| value.round_ties_even() as u8));
        }
    }
}
