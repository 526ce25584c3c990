//! Threads that work on one batch together: the caller and its helpers.
//!
//! A batch of one is split inside each layer; a larger one is spread image by image. Cores may be
//! shared with other programs, and the system may stop any thread for milliseconds. So work is
//! assigned to members but not bound to them ([`phases`]): a thread that waits too long yields its
//! core, and a team that had to wait uses fewer helpers for a multiple of that time ([`trust`]). A
//! member that panics ends the run for all, so that a failed batch stays one failed batch.
#![allow(unsafe_code, reason = "members share planes of activations")]

#[cfg(test)]
mod model;
mod phases;
mod pin;
mod seat;
mod sleeper;
mod sync;
#[cfg(test)]
mod tests;
mod trust;

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) use phases::Member;
use phases::Phases;
use seat::{ErasedTask, Seat};
use trust::Trust;

/// Data that members may use at the same time.
///
/// # Safety
///
/// Members access it only in the parts of phases, and no part writes an element that another part
/// of the same phase reads or writes.
pub(crate) unsafe trait DisjointShared: Copy {}

/// A caller and its helper threads.
pub struct ThreadGroup {
    pool: Option<HelperPool>,
}

/// The helper threads, and what they share with their caller.
struct HelperPool {
    group: Arc<GroupState>,
    helpers: Box<[JoinHandle<()>]>,
    /// The thread that holds the lock is the caller; the value is how far it relies on the helpers.
    turn: Mutex<Trust>,
}

/// State that all members of a team share.
struct GroupState {
    phases: Phases,
    seats: Box<[Seat]>,
}

impl ThreadGroup {
    /// The calling thread only.
    pub fn alone() -> Self {
        Self { pool: None }
    }

    /// The calling thread and `size - 1` helpers, or the calling thread alone if a helper cannot be
    /// started.
    ///
    /// Pinned helpers stay on the second and later cores that this process may use. The caller, which
    /// may be any thread, is not pinned. No more members run than there are cores.
    pub fn new(size: usize, is_pinned: bool) -> Self {
        if size <= 1 {
            return Self::alone();
        }
        let cores = std::thread::available_parallelism().map_or(size, NonZeroUsize::get);
        match HelperPool::new(size, is_pinned, Trust::new(size.min(cores) - 1)) {
            Ok(pool) => Self { pool: Some(pool) },
            Err(error) => {
                tracing::warn!(%error, "inference stays on one thread");
                Self::alone()
            }
        }
    }

    /// Number of members, including the caller.
    pub fn size(&self) -> usize {
        self.pool.as_ref().map_or(1, |pool| pool.helpers.len() + 1)
    }

    /// Runs `work` on this thread and, at the same time, on the helpers that join, at most once per
    /// element of `own`.
    pub(crate) fn run<T: Send, S: DisjointShared>(
        &self,
        own: &mut [T],
        shared: S,
        work: impl Fn(&mut T, S, &Member) + Sync,
    ) {
        let most = own.len().saturating_sub(1);
        let pool = self.pool.as_ref().filter(|_| most > 0);
        if let Some(pool) = pool
            && let Some(mut trust) = pool.turn()
            && let helpers @ 1.. = trust.helpers(most)
        {
            let (asserted, own) = (AssertSync(shared), DisjointItems::new(own));
            let stall = pool.gather(helpers, &|index| {
                let member = pool.group.phases.member(index, helpers + 1);
                // SAFETY: there is one member per index, and all are below `own.len()`.
                work(unsafe { own.borrow(index) }, asserted.open(), &member);
            });
            trust.learn(helpers, stall);
        } else if let Some(first) = own.first_mut() {
            work(first, shared, &Member::alone());
        }
    }

    /// Runs `work` on each of `items`, spread over the members.
    pub(crate) fn spread<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T) + Sync) {
        let most = items.len().saturating_sub(1);
        let pool = self.pool.as_ref().filter(|_| most > 0);
        let Some((pool, trust)) = pool.and_then(|pool| Some((pool, pool.turn()?))) else {
            return items.iter_mut().for_each(work);
        };
        let (count, items, next) = (items.len(), DisjointItems::new(items), AtomicUsize::new(0));
        // Each item is a whole image, so waiting for a helper that has begun one is worth it.
        let _stall = pool.gather(most.min(trust.all()), &|_| {
            loop {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= count {
                    break;
                }
                // SAFETY: the counter returns each index once.
                work(unsafe { items.borrow(item) });
            }
        });
    }
}

impl fmt::Debug for ThreadGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadGroup").field("size", &self.size()).finish()
    }
}

impl HelperPool {
    fn new(size: usize, is_pinned: bool, trust: Trust) -> std::io::Result<Self> {
        let seats = (1..size).map(|_| Seat::new()).collect();
        let group = Arc::new(GroupState { phases: Phases::new(size), seats });
        let mut pool = Self { group, helpers: Box::default(), turn: Mutex::new(trust) };
        let mut helpers = Vec::new();
        for index in 1..size {
            let group = Arc::clone(&pool.group);
            let help = move || {
                if is_pinned {
                    pin::pin(index);
                }
                group.help(index);
            };
            let helper = std::thread::Builder::new().name(format!("engine-{index}")).spawn(help);
            match helper {
                Ok(helper) => helpers.push(helper),
                Err(error) => {
                    pool.helpers = helpers.into();
                    return Err(error);
                }
            }
        }
        pool.helpers = helpers.into();
        Ok(pool)
    }

    /// The right to use the helpers; `None` while another thread, or a frame further up this stack,
    /// holds it.
    fn turn(&self) -> Option<MutexGuard<'_, Trust>> {
        match self.turn.try_lock() {
            Ok(trust) => Some(trust),
            Err(TryLockError::Poisoned(trust)) => Some(trust.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Runs `job` on this thread as member 0 and on up to `helpers` helpers as members 1 and up.
    /// Only the thread that holds the lock may call this. Returns how long members waited in vain.
    ///
    /// # Panics
    ///
    /// If any member panics.
    fn gather<F: Fn(usize) + Sync>(&self, helpers: usize, job: &F) -> Duration {
        let group = &*self.group;
        group.phases.begin();
        let mut gathering = Gathering { group, invited: &group.seats[..helpers], is_over: false };
        for (seat, helper) in gathering.invited.iter().zip(&self.helpers) {
            // SAFETY: this thread has the turn; the seat was free when the last gathering was
            // dropped, and this one is dropped while the job is still alive.
            unsafe { seat.invite(ErasedTask::new(job)) };
            helper.thread().unpark();
        }
        job(0);
        gathering.is_over = true;
        let late = gathering.end();
        assert!(!group.phases.is_broken(), "another thread of the team panicked");
        group.phases.stall() + late
    }
}

impl Drop for HelperPool {
    fn drop(&mut self) {
        for (seat, helper) in self.group.seats.iter().zip(std::mem::take(&mut self.helpers)) {
            seat.close();
            helper.thread().unpark();
            // A helper that panicked outside of a job has reported it already.
            drop(helper.join());
        }
    }
}

impl GroupState {
    /// The loop of a helper thread.
    fn help(&self, index: usize) {
        let seat = &self.seats[index - 1];
        while let Some(job) = seat.take() {
            // SAFETY: the caller keeps the job alive until the seat is free again.
            let work = || unsafe { job.run(index) };
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                self.phases.break_off();
            }
            seat.leave(self.phases.caller());
        }
    }
}

/// A job that helpers are running. Dropping it waits until all of them have returned, even
/// when unwinding.
struct Gathering<'a> {
    group: &'a GroupState,
    invited: &'a [Seat],
    /// The caller has finished its own part without a panic.
    is_over: bool,
}

impl Gathering<'_> {
    /// Waits for all helpers; returns how long that took beyond what their work explains.
    fn end(&self) -> Duration {
        self.invited.iter().map(Seat::recall).sum()
    }
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.group.phases.break_off();
        }
        self.end();
    }
}

/// Shared data on its way to another thread.
struct AssertSync<S>(S);

// SAFETY: `DisjointShared` promises that members do not race.
unsafe impl<S: DisjointShared> Sync for AssertSync<S> {}

impl<S: Copy> AssertSync<S> {
    /// A method, so that closures capture the wrapper and not its content.
    fn open(&self) -> S {
        self.0
    }
}

/// Values that go to one thread each.
struct DisjointItems<'a, T> {
    first: *mut T,
    len: usize,
    values: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: threads take different values out of it, which may be sent to them.
unsafe impl<T: Send> Sync for DisjointItems<'_, T> {}

impl<'a, T> DisjointItems<'a, T> {
    fn new(values: &'a mut [T]) -> Self {
        let (first, len) = (values.as_mut_ptr(), values.len());
        Self { first, len, values: std::marker::PhantomData }
    }

    /// # Safety
    ///
    /// No value is borrowed twice.
    #[allow(clippy::mut_from_ref, reason = "each value is borrowed once")]
    unsafe fn borrow(&self, index: usize) -> &'a mut T {
        assert!(index < self.len, "one value a member");
        // SAFETY: inside the slice, which is borrowed for 'a, and borrowed once.
        unsafe { &mut *self.first.add(index) }
    }
}
