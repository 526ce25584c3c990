//! How the C library's allocator treats large buffers.
//!
//! Pixels come and go by tens of megabytes. The allocator learns from the first of them to keep such
//! buffers for reuse, in every thread's arena, and a worker of 50 MB grows to 200. Told the limits
//! beforehand, it gives them back to the system when they are freed.

/// Buffers from this size on are mappings of their own, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED: libc::c_int = 1 << 20;
/// Free memory that an arena keeps at its end, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 4 << 20;

/// Makes the allocator give large buffers back to the system; for the start of a long-lived process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the C library offers this by a call only")]
pub fn give_back_large_buffers() {
    // SAFETY: mallopt takes two numbers and locks the allocator while it stores them.
    let taken = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED) & libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT)
    };
    if taken == 0 {
        tracing::debug!("the allocator keeps its own limits");
    }
}

/// Other allocators do so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back_large_buffers() {}

/// Gives what small allocations have left free back to the system, which takes milliseconds; for the end
/// of work that made very many of them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the C library offers this by a call only")]
pub fn give_back_small_buffers() {
    // SAFETY: malloc_trim takes a number and locks each arena while it looks through it.
    let _was_any = unsafe { libc::malloc_trim(0) };
}

/// Other allocators do so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back_small_buffers() {}
