//! How the C library's allocator treats large buffers.
//!
//! Decoded pictures take tens of megabytes each. After the first one, the allocator keeps buffers
//! of that size for reuse in every thread's arena, and resident memory grows severalfold. With the
//! limits set here, it returns them to the system when they are freed.

/// Buffers of at least this many bytes get a mapping of their own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED: libc::c_int = 1 << 20;
/// Free memory that an arena keeps at its end, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 4 << 20;

/// Makes the allocator return large buffers to the system; call it at the start of a
/// long-lived process.
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

/// Other allocators do this on their own.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back_large_buffers() {}

/// Returns the memory of freed small allocations to the system, which takes milliseconds; call it
/// after work that made very many of them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the C library offers this by a call only")]
pub fn give_back_small_buffers() {
    // SAFETY: malloc_trim takes a number and locks each arena while it looks through it.
    let _was_any = unsafe { libc::malloc_trim(0) };
}

/// Other allocators do this on their own.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back_small_buffers() {}
