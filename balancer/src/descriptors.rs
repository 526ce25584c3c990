//! File descriptors: how many are available, and how many clients may use.
//!
//! Every client connection takes a descriptor, and so does every connection to a worker, every
//! probe and every operator. When clients have taken all of them nothing works any more, and it
//! looks as if the workers had failed. So clients get three quarters of what the system allows, and
//! the rest is reserved.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For operators' connections, files, pipes of spawned workers and the runtimes.
const FIXED: u64 = 128;
/// For the listeners and the runtime of each thread.
const PER_THREAD: u64 = 8;
/// The balancer does not start with room for fewer clients than this.
const FEWEST_CLIENTS: u64 = 16;

/// macOS reports no limit but accepts no more than this (its `OPEN_MAX`).
const PORTABLE: u64 = 10_240;

/// Raises the descriptor limit of this process as far as the system allows, and returns it.
pub fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    for wanted in [maximum, Some(PORTABLE)] {
        let is_more = wanted.unwrap_or(u64::MAX) > current.unwrap_or(u64::MAX);
        if is_more && setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum }).is_ok() {
            break;
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many clients fit into `limit` descriptors besides everything else.
pub(crate) fn clients(limit: u64, threads: usize) -> usize {
    let rest = limit.saturating_sub(reserve(threads));
    let clients = rest - rest.div_ceil(4);
    if clients < FEWEST_CLIENTS { 0 } else { usize::try_from(clients).unwrap_or(usize::MAX) }
}

/// How many descriptors are needed for `clients` clients and everything else.
pub(crate) fn needed(clients: usize, threads: usize) -> u64 {
    let clients = (clients as u64).max(FEWEST_CLIENTS);
    clients.saturating_add(clients.div_ceil(3)).saturating_add(reserve(threads)).saturating_add(1)
}

fn reserve(threads: usize) -> u64 {
    FIXED + PER_THREAD * threads as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clients_leave_a_quarter_to_workers_and_nothing_starts_with_too_few() {
        assert_eq!(clients(1024, 2), 660);
        assert_eq!(clients(u64::MAX, 1) as u64, (u64::MAX - 136) - (u64::MAX - 136).div_ceil(4));
        assert_eq!(clients(150, 2), 0);
        assert_eq!(clients(0, 1024), 0);
    }

    #[test]
    fn the_limit_of_this_process_is_raised_as_far_as_it_goes() {
        let raised = raise();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), raised);
    }

    proptest! {
        #[test]
        fn what_is_said_to_be_needed_is_enough(wanted in 1_usize..2_000_000, threads in 1_usize..1024) {
            prop_assert!(clients(needed(wanted, threads), threads) >= wanted);
        }
    }
}
