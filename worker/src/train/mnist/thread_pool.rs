//! Threads that each compute whole micro-batches.
//!
//! Every member owns a rayon pool of one thread, which keeps candle's matrix products inside it:
//! two members then never wait for each other in the middle of a product, and a result depends on
//! its job alone, not on which member computed it or on how many there are.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::Error;

/// A fixed number of members.
#[derive(Debug)]
pub(super) struct ThreadPool {
    members: Vec<rayon::ThreadPool>,
}

impl ThreadPool {
    /// Starts `threads` members.
    pub(super) fn new(threads: NonZeroUsize) -> Result<Self, Error> {
        let member = |_| rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let members = (0..threads.get()).map(member).collect::<Result<_, _>>();
        members
            .map(|members| Self { members })
            .map_err(|e| Error::Invalid(format!("{threads} threads: {e}")))
    }

    /// The results of `work(0), …, work(jobs - 1)`, in that order.
    pub(super) fn map<T: Send>(&self, jobs: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(jobs));
        let take_jobs = || {
            loop {
                let job = next.fetch_add(1, Ordering::Relaxed);
                if job >= jobs {
                    break;
                }
                let result = work(job);
                done.lock().expect("no member panics holding the lock").push((job, result));
            }
        };
        std::thread::scope(|scope| {
            for member in &self.members {
                scope.spawn(|| member.install(take_jobs));
            }
        });
        let mut done = done.into_inner().expect("no member panics holding the lock");
        done.sort_unstable_by_key(|(job, _)| *job);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for threads in 1..4 {
            let pool = ThreadPool::new(NonZeroUsize::new(threads).unwrap()).unwrap();
            assert_eq!(pool.map(50, |i| i * i), (0..50).map(|i| i * i).collect::<Vec<_>>());
        }
    }
}
