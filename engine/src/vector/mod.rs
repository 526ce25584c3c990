//! What a kernel needs from a vector register, so that each kernel is written once.
//!
//! Kernels are generic over [`Vector`] and inlined into one function per instruction set, which
//! carries the `target_feature`; this lets the compiler turn each method into one instruction.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

pub(super) use portable::Four;

/// A register of floats.
///
/// Every method may be called only on a CPU that has the implementor's instructions, and pointers
/// must be valid for [`Vector::LANES`] floats.
///
/// # Safety
///
/// Kernels rely on the implementor's guarantees: [`Vector::LANES`] divides a block of 16; `load`
/// reads and `store` writes that many floats, no more and nowhere else, at any alignment; and no
/// method needs CPU features beyond the set that kernels of this register are compiled for.
#[allow(unsafe_code, reason = "kernels rely on it")]
pub(super) unsafe trait Vector: Copy {
    /// Floats per register.
    const LANES: usize;
    /// Registers per block of 16 channels.
    const A_BLOCK: usize = super::BLOCK / Self::LANES;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + left * right`.
    unsafe fn plus_product(self, left: Self, right: Self) -> Self;
    unsafe fn plus(self, other: Self) -> Self;
    unsafe fn smaller(self, other: Self) -> Self;
    unsafe fn larger(self, other: Self) -> Self;
}
