//! Memory for weights and activations: cache-line aligned, zeroed, and on huge pages where the
//! kernel provides them.
//!
//! Alignment is worth a seventh of the speed: a vector that straddles two lines costs two loads.

use std::mem::MaybeUninit;

use super::{Values, Words};

/// One cache line, which is also one row of a tile.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([u8; 64]);

/// A number type in which every bit pattern is a valid value.
///
/// # Safety
///
/// The type has no padding and no invalid bit patterns, and its size divides 64.
#[allow(unsafe_code, reason = "promises what the cast in Aligned relies on")]
pub(super) unsafe trait Plain: Copy {}

// SAFETY: an integer of two bytes.
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl Plain for u16 {}
// SAFETY: an integer of four bytes.
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl Plain for u32 {}
// SAFETY: a float of four bytes; every bit pattern is a float.
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl Plain for f32 {}

/// A fixed number of values, the first at a multiple of 64 bytes.
#[derive(Debug)]
pub(super) struct Aligned<T> {
    lines: Vec<CacheLine>,
    len: usize,
    kind: std::marker::PhantomData<T>,
}

impl<T: Plain> Aligned<T> {
    /// `len` zeros.
    ///
    /// # Panics
    ///
    /// If that many values do not fit the address space.
    pub(super) fn new(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).expect("buffers fit the address space");
        let count = bytes.div_ceil(64);
        let mut lines = Vec::with_capacity(count);
        // Before the first write: pages that already exist keep their size.
        advise_huge_pages(lines.spare_capacity_mut());
        lines.resize(count, CacheLine([0; 64]));
        Self { lines, len, kind: std::marker::PhantomData }
    }
}

#[allow(unsafe_code, reason = "views lines of bytes as numbers")]
impl<T: Plain> std::ops::Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `lines` holds at least `len * size_of::<T>()` initialised bytes, aligned to 64,
        // and every bit pattern is valid for `T`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

#[allow(unsafe_code, reason = "views lines of bytes as numbers")]
impl<T: Plain> std::ops::DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// The bits of floats, for reading only.
#[allow(unsafe_code, reason = "views floats as words")]
pub(super) fn bits(values: &[f32]) -> &[u32] {
    // SAFETY: both types are four bytes with the same alignment, and every pattern is valid
    // for both.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// The bits of shared floats.
#[allow(unsafe_code, reason = "views floats as words")]
pub(super) fn words(values: Values<'_>) -> Words<'_> {
    // SAFETY: both types are four bytes with the same alignment, and every pattern is valid for
    // both; cells of either type allow the same shared access.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// Requests huge pages for a large buffer: the weights alone span 1,700 ordinary pages, more than
/// the TLB holds. If the kernel declines, only speed is lost.
#[cfg(all(target_os = "linux", not(miri)))]
#[allow(unsafe_code, reason = "madvise")]
fn advise_huge_pages(lines: &[MaybeUninit<CacheLine>]) {
    const PAGE: usize = 4096;
    const WORTHWHILE: usize = 1 << 20;
    let bytes = size_of_val(lines);
    if bytes < WORTHWHILE {
        return;
    }
    let start = lines.as_ptr() as usize;
    let first = start.next_multiple_of(PAGE);
    let length = (start + bytes - first) / PAGE * PAGE;
    // SAFETY: whole pages inside our own allocation; the advice does not change their contents.
    unsafe { libc::madvise(first as *mut libc::c_void, length, libc::MADV_HUGEPAGE) };
}

/// Other systems choose the page size themselves, and Miri has no pages.
#[cfg(not(all(target_os = "linux", not(miri))))]
fn advise_huge_pages(_: &[MaybeUninit<CacheLine>]) {}

#[cfg(test)]
mod tests {
    use super::Aligned;

    #[test]
    #[should_panic(expected = "address space")]
    fn a_length_whose_bytes_cannot_be_counted_is_refused() {
        // The byte count would wrap around to a small number.
        let _values = Aligned::<u32>::new(usize::MAX / 4 + 2);
    }

    #[test]
    fn values_start_on_a_cache_line_and_are_zero() {
        let mut values = Aligned::<u16>::new(33);
        assert_eq!(values.as_ptr() as usize % 64, 0);
        assert_eq!(values.len(), 33);
        assert!(values.iter().all(|&v| v == 0));
        values[32] = 7;
        assert_eq!(values[32], 7);
    }
}
