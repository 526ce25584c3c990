//! Pins threads to cores.
#![allow(unsafe_code, reason = "the system offers this by calls only")]

/// Keeps the calling thread on one of the cores that this process may use.
#[cfg(target_os = "linux")]
pub(super) fn pin(index: usize) {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a set of zeros is an empty set; both calls read or write one set on the stack.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size, &raw mut allowed) != 0 {
            return;
        }
        let cores = (0..usize::try_from(libc::CPU_SETSIZE).unwrap_or(0))
            .filter(|&core| libc::CPU_ISSET(core, &allowed));
        let cores: Vec<usize> = cores.collect();
        let Some(&core) = cores.get(index % cores.len().max(1)) else { return };
        let mut own: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut own);
        libc::sched_setaffinity(0, size, &raw const own);
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn pin(_: usize) {}
