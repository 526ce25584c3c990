//! Threads that work on one batch together: the caller and its helpers.
//!
//! A batch of one is split inside each layer, with a spin barrier between; a larger one is spread
//! image by image. Helpers sleep between batches. A member that panics releases the others, which
//! panic in turn, so that a failed batch stays one failed batch.
#![allow(unsafe_code, reason = "members share planes of activations")]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Turns of a spin before a waiting member offers its core to others.
const SPINS: u32 = 20_000;

/// Data that members may use at the same time.
///
/// # Safety
///
/// Between two waits no member writes an element that another reads or writes.
pub(super) unsafe trait Together: Copy {}

/// A caller and its helper threads.
#[derive(Debug)]
pub struct Team {
    helpers: Option<rayon::ThreadPool>,
    size: usize,
}

/// One member's part in a common run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member<'a> {
    index: usize,
    barrier: &'a Barrier,
}

impl Team {
    /// The calling thread only.
    pub fn alone() -> Self {
        Self { helpers: None, size: 1 }
    }

    /// The calling thread and `size - 1` helpers; without helpers when none can be started.
    ///
    /// Pinned helpers keep to the second and later cores that this process may use; the caller, who
    /// comes and goes, is left alone.
    pub fn new(size: usize, is_pinned: bool) -> Self {
        if size <= 1 {
            return Self::alone();
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(size - 1)
            .thread_name(|index| format!("engine-{index}"))
            .start_handler(move |index| {
                if is_pinned {
                    pin(index + 1);
                }
            });
        match pool.build() {
            Ok(pool) => Self { helpers: Some(pool), size },
            Err(error) => {
                tracing::warn!(%error, "inference stays on one thread");
                Self::alone()
            }
        }
    }

    /// Members, the caller included.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Runs `work` once for each of `own`, at most a member each, at the same time.
    pub(super) fn run<T: Send, S: Together>(
        &self,
        own: &mut [T],
        shared: S,
        work: impl Fn(&mut T, S, Member) + Sync,
    ) {
        let count = self.size.min(own.len());
        let barrier = Barrier::new(count);
        let packet = Packet(shared);
        let run = |own: &mut T, index: usize, packet: Packet<S>| {
            let member = Member { index, barrier: &barrier };
            let release = Release(&barrier);
            work(own, packet.open(), member);
            std::mem::forget(release);
        };
        let Some((first, others)) = own[..count].split_first_mut() else { return };
        self.scatter(
            |scope| {
                for (index, own) in (1..).zip(others) {
                    let run = &run;
                    scope(Box::new(move || run(own, index, packet)));
                }
            },
            || run(first, 0, packet),
        );
    }

    /// Runs `work` on each of `items`, spread over the members.
    pub(super) fn spread<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T) + Sync) {
        let Some((first, others)) = items.split_first_mut() else { return };
        let work = &work;
        self.scatter(
            |scope| {
                for item in others {
                    scope(Box::new(move || work(item)));
                }
            },
            || work(first),
        );
    }

    /// Hands jobs to the helpers, does `own` here meanwhile, and waits for all.
    fn scatter<'a>(
        &self,
        others: impl FnOnce(&mut dyn FnMut(Box<dyn FnOnce() + Send + 'a>)),
        own: impl FnOnce(),
    ) {
        if let Some(pool) = &self.helpers {
            pool.in_place_scope(|scope| {
                others(&mut |job| scope.spawn(move |_| job()));
                own();
            });
        } else {
            own();
            others(&mut |job| job());
        }
    }
}

impl Member<'_> {
    /// This member's part of `count` things.
    pub(super) fn share(&self, count: usize) -> Range<usize> {
        let members = self.barrier.members;
        count * self.index / members..count * (self.index + 1) / members
    }

    /// Waits until every member has come here.
    ///
    /// # Panics
    ///
    /// When another member panicked.
    pub(super) fn wait(&self) {
        self.barrier.wait();
    }
}

/// Keeps the calling thread on one of the cores that this process may use.
#[cfg(target_os = "linux")]
fn pin(index: usize) {
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
fn pin(_: usize) {}

/// Carries shared data to another thread.
#[derive(Debug, Clone, Copy)]
struct Packet<S>(S);

// SAFETY: `Together` promises that members do not race.
unsafe impl<S: Together> Send for Packet<S> {}
// SAFETY: as above.
unsafe impl<S: Together> Sync for Packet<S> {}

impl<S> Packet<S> {
    /// A method, so that closures capture the packet and not its content.
    fn open(self) -> S {
        self.0
    }
}

/// A spin barrier that can be used again and again.
#[derive(Debug)]
struct Barrier {
    members: usize,
    arrivals: AtomicUsize,
    is_broken: AtomicBool,
}

impl Barrier {
    fn new(members: usize) -> Self {
        Self { members, arrivals: AtomicUsize::new(0), is_broken: AtomicBool::new(false) }
    }

    fn wait(&self) {
        if self.members == 1 {
            return;
        }
        let arrival = self.arrivals.fetch_add(1, Ordering::AcqRel) + 1;
        let target = arrival.next_multiple_of(self.members);
        let mut spins = 0;
        while self.arrivals.load(Ordering::Acquire) < target {
            assert!(!self.is_broken.load(Ordering::Relaxed), "another thread of the team panicked");
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// Breaks the barrier when a member unwinds.
struct Release<'a>(&'a Barrier);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.is_broken.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Member, Team, Together};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Clone, Copy)]
    struct Counter<'a>(&'a AtomicUsize);

    // SAFETY: an atomic.
    unsafe impl Together for Counter<'_> {}

    #[test]
    fn nobody_passes_a_wait_before_all_have_come() {
        let team = Team::new(3, false);
        let count = AtomicUsize::new(0);
        let mut seen = vec![[0; 50]; 3];
        team.run(&mut seen, Counter(&count), |seen, counter, member: Member| {
            for turn in seen.iter_mut() {
                counter.0.fetch_add(1, Ordering::Relaxed);
                member.wait();
                *turn = counter.0.load(Ordering::Relaxed);
                member.wait();
            }
        });
        for seen in seen {
            assert!((1..).zip(seen).all(|(turn, seen)| seen == turn * 3), "{seen:?}");
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        let team = Team::new(3, false);
        let total = AtomicUsize::new(0);
        team.run(&mut [(); 3], Counter(&total), |(), counter, member: Member| {
            counter.0.fetch_add(member.share(100).len(), Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 100);
    }

    #[test]
    fn a_panic_of_one_member_ends_the_run_of_all() {
        let team = Team::new(2, true);
        let zero = AtomicUsize::new(0);
        let run = std::panic::AssertUnwindSafe(|| {
            team.run(&mut [false, true], Counter(&zero), |fails, _, member: Member| {
                assert!(!*fails, "on purpose");
                member.wait();
            });
        });
        assert!(std::panic::catch_unwind(run).is_err());
    }
}
