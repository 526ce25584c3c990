//! Registers of 256 bits.
#![allow(
    clippy::inline_always,
    reason = "inlined into the function that carries the instruction set"
)]
#![allow(clippy::wildcard_imports, reason = "intrinsics")]
#![allow(unsafe_code, reason = "intrinsics behind the promise of the trait")]

use std::arch::x86_64::*;

use super::Vector;

// SAFETY: eight floats, by instructions of AVX2 and FMA, loaded and stored as one register.
unsafe impl Vector for __m256 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the promise of the trait.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the promise of the trait.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the promise of the trait.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn plus_product(self, left: Self, right: Self) -> Self {
        // SAFETY: the promise of the trait.
        unsafe { _mm256_fmadd_ps(left, right, self) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: the promise of the trait.
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn smaller(self, other: Self) -> Self {
        // SAFETY: the promise of the trait.
        unsafe { _mm256_min_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        // SAFETY: the promise of the trait.
        unsafe { _mm256_max_ps(self, other) }
    }
}
