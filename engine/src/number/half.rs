//! Half precision in registers of 512 bits (AVX512-FP16).
//!
//! Even and odd channels of an output have separate sums, which are added in f32: half the terms
//! per sum, and no instruction needed to broadcast a half over a register.
#![allow(
    clippy::inline_always,
    reason = "inlined into the function that carries the instruction set"
)]
#![allow(clippy::wildcard_imports, reason = "intrinsics")]
#![allow(unsafe_code, reason = "intrinsics behind the promise of the trait")]

use std::arch::x86_64::*;

use super::{Header, Number};

/// Two halves per word, sixteen words per register.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Half512;

// SAFETY: sixteen words per register, by instructions of AVX-512 F and FP16.
unsafe impl Number for Half512 {
    type Floats = __m512;
    type Words = __m512h;
    type Sums = __m512h;
    const CHANNELS: usize = 2;
    const SIX: f32 = 6.0;

    #[inline(always)]
    unsafe fn splat(from: *const u32) -> __m512h {
        // SAFETY: the promise of the trait.
        unsafe { _mm512_castsi512_ph(_mm512_set1_epi32(from.cast::<i32>().read())) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m512h {
        // SAFETY: the promise of the trait.
        unsafe { _mm512_castsi512_ph(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn start(_: Header) -> __m512h {
        // SAFETY: the promise of the trait.
        unsafe { _mm512_setzero_ph() }
    }

    #[inline(always)]
    unsafe fn plus_product(sums: __m512h, left: __m512h, right: __m512h) -> __m512h {
        // SAFETY: the promise of the trait.
        unsafe { _mm512_fmadd_ph(left, right, sums) }
    }

    #[inline(always)]
    unsafe fn finish(sums: __m512h, header: Header, _: __m512) -> __m512 {
        // SAFETY: the promise of the trait.
        unsafe {
            let words = _mm512_castph_si512(sums);
            let even = _mm512_cvtepi32_epi16(words);
            let odd = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(words));
            let even = _mm512_cvtxph_ps(_mm256_castsi256_ph(even));
            let odd = _mm512_cvtxph_ps(_mm256_castsi256_ph(odd));
            let bias = _mm512_loadu_ps(header.bias.cast());
            _mm512_add_ps(_mm512_add_ps(even, bias), odd)
        }
    }

    #[inline(always)]
    unsafe fn encode(values: __m512, to: *mut u32) {
        // SAFETY: the promise of the trait.
        unsafe { _mm256_storeu_si256(to.cast(), _mm256_castph_si256(_mm512_cvtxps_ph(values))) }
    }
}
