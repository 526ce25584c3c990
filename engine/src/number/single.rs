//! Single precision on any vector.
#![allow(
    clippy::inline_always,
    reason = "inlined into the function that carries the instruction set"
)]
#![allow(unsafe_code, reason = "intrinsics behind the promise of the trait")]

use super::super::vector::Vector;
use super::{Header, Number};

/// One float per word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Single<V>(std::marker::PhantomData<V>);

// SAFETY: a word is the bits of a float, and the vector does everything else.
unsafe impl<V: Vector> Number for Single<V> {
    type Floats = V;
    type Words = V;
    type Sums = V;
    const CHANNELS: usize = 1;
    const SIX: f32 = 6.0;

    #[inline(always)]
    unsafe fn splat(from: *const u32) -> V {
        // SAFETY: the promise of the trait; words hold the bits of floats.
        unsafe { V::splat(*from.cast()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> V {
        // SAFETY: as above.
        unsafe { V::load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn start(header: Header) -> V {
        // SAFETY: as above.
        unsafe { V::load(header.bias.cast()) }
    }

    #[inline(always)]
    unsafe fn plus_product(sums: V, left: V, right: V) -> V {
        // SAFETY: the promise of the trait.
        unsafe { sums.plus_product(left, right) }
    }

    #[inline(always)]
    unsafe fn finish(sums: V, _: Header, _: V) -> V {
        sums
    }

    #[inline(always)]
    unsafe fn encode(values: V, to: *mut u32) {
        // SAFETY: the promise of the trait.
        unsafe { values.store(to.cast()) }
    }
}
