//! File descriptors: every connection takes one, and their number per process is limited.
//!
//! When they run out, connections fail in this program, which looks as if the service had refused
//! them. So the limit is raised as far as possible, and no more connections are opened than fit.

/// The event loops and timers of a sender thread.
#[cfg(unix)]
const PER_THREAD: u64 = 8;
/// Files, standard streams, name lookups.
#[cfg(unix)]
const FIXED: u64 = 16;

/// How many connections `threads` sender threads may open in addition to what is open already.
#[cfg(unix)]
pub(crate) fn connections(threads: usize) -> usize {
    fit(raise(), open(), threads)
}

/// How many connections `threads` sender threads may open in addition to what is open already.
#[cfg(not(unix))]
pub(crate) fn connections(_threads: usize) -> usize {
    usize::MAX
}

#[cfg(unix)]
fn fit(limit: u64, open: u64, threads: usize) -> usize {
    let rest = limit.saturating_sub(open + FIXED + PER_THREAD * threads as u64);
    usize::try_from(rest).unwrap_or(usize::MAX)
}

/// Raises the soft limit to the hard limit and returns it.
#[cfg(unix)]
fn raise() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if maximum.unwrap_or(u64::MAX) > current.unwrap_or(u64::MAX) {
        // If it cannot be raised, the old limit applies and is returned.
        let _kept = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Descriptors in use; a small guess where the system does not report them.
#[cfg(unix)]
fn open() -> u64 {
    const FEW: u64 = 8;
    std::fs::read_dir("/proc/self/fd").map_or(FEW, |entries| entries.count() as u64)
}

#[cfg(all(test, unix))]
mod tests {
    use super::fit;

    #[test]
    fn connections_are_what_the_limit_leaves() {
        assert_eq!(fit(64, 5, 2), 27);
        assert_eq!(fit(16, 5, 2), 0);
        assert!(fit(u64::MAX, 5, 2) > 1_000_000);
    }
}
