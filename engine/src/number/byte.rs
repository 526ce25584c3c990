//! Bytes with dot products of four (AVX512-VNNI, and AVX-VNNI in registers of 256 bits).
#![allow(
    clippy::inline_always,
    reason = "inlined into the function that carries the instruction set"
)]
#![allow(clippy::wildcard_imports, reason = "intrinsics")]
#![allow(unsafe_code, reason = "intrinsics behind the promise of the trait")]

use std::arch::x86_64::*;

use super::{BYTES, Header, Number};

/// Four bytes per word, sixteen words per register.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Byte512;

/// Four bytes per word, eight words per register.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Byte256;

// SAFETY: sixteen words per register, by instructions of AVX-512 F, BW and VNNI.
unsafe impl Number for Byte512 {
    type Floats = __m512;
    type Words = __m512i;
    type Sums = __m512i;
    const CHANNELS: usize = 4;
    const SIX: f32 = BYTES;

    #[inline(always)]
    unsafe fn splat(from: *const u32) -> __m512i {
        // SAFETY: the promise of the trait.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m512i {
        // SAFETY: the promise of the trait.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn start(header: Header) -> __m512i {
        // SAFETY: the promise of the trait; the third row of the header.
        unsafe { _mm512_loadu_si512(header.bias.add(2 * header.width).cast()) }
    }

    #[inline(always)]
    unsafe fn plus_product(sums: __m512i, left: __m512i, right: __m512i) -> __m512i {
        // SAFETY: the promise of the trait.
        unsafe { _mm512_dpbusd_epi32(sums, left, right) }
    }

    #[inline(always)]
    unsafe fn finish(sums: __m512i, header: Header, factor: __m512) -> __m512 {
        // SAFETY: the promise of the trait; the second row of the header.
        unsafe {
            let bias = _mm512_loadu_ps(header.bias.cast());
            let scale = _mm512_loadu_ps(header.bias.add(header.width).cast());
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(scale, factor), bias)
        }
    }

    #[inline(always)]
    unsafe fn encode(values: __m512, to: *mut u32) {
        // SAFETY: the promise of the trait.
        unsafe {
            let rounded = _mm512_max_epi32(_mm512_cvtps_epi32(values), _mm512_setzero_si512());
            _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(rounded));
        }
    }
}

// SAFETY: eight words per register, by instructions of AVX2 and AVX-VNNI.
unsafe impl Number for Byte256 {
    type Floats = __m256;
    type Words = __m256i;
    type Sums = __m256i;
    const CHANNELS: usize = 4;
    const SIX: f32 = BYTES;

    #[inline(always)]
    unsafe fn splat(from: *const u32) -> __m256i {
        // SAFETY: the promise of the trait.
        unsafe { _mm256_set1_epi32(from.cast::<i32>().read()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m256i {
        // SAFETY: the promise of the trait.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn start(header: Header) -> __m256i {
        // SAFETY: the promise of the trait; the third row of the header.
        unsafe { _mm256_loadu_si256(header.bias.add(2 * header.width).cast()) }
    }

    #[inline(always)]
    unsafe fn plus_product(sums: __m256i, left: __m256i, right: __m256i) -> __m256i {
        // SAFETY: the promise of the trait.
        unsafe { _mm256_dpbusd_avx_epi32(sums, left, right) }
    }

    #[inline(always)]
    unsafe fn finish(sums: __m256i, header: Header, factor: __m256) -> __m256 {
        // SAFETY: the promise of the trait; the second row of the header.
        unsafe {
            let bias = _mm256_loadu_ps(header.bias.cast());
            let scale = _mm256_loadu_ps(header.bias.add(header.width).cast());
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_mul_ps(scale, factor), bias)
        }
    }

    #[inline(always)]
    unsafe fn encode(values: __m256, to: *mut u32) {
        // SAFETY: the promise of the trait; packing saturates to 0..255.
        unsafe {
            let rounded = _mm256_cvtps_epi32(values);
            let (low, high) =
                (_mm256_castsi256_si128(rounded), _mm256_extracti128_si256::<1>(rounded));
            let words = _mm_packs_epi32(low, high);
            _mm_storel_epi64(to.cast(), _mm_packus_epi16(words, words));
        }
    }
}
