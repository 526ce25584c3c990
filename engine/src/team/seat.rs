//! Lends a job on the caller's own stack to a helper, and takes it back.
//!
//! An invitation that the helper has not taken up is withdrawn, so a caller never waits for a
//! thread that the system is not running.
#![allow(unsafe_code, reason = "a job is lent to a thread that outlives it")]

use std::time::Duration;

use super::sleeper::Sleeper;
use super::sync::{AtomicUsize, Ordering, Patience, Turned, park};

/// Nothing to do.
const FREE: usize = 0;
/// A job is waiting.
const INVITED: usize = 1;
/// The helper is running the job.
const BUSY: usize = 2;
/// The same, and the caller is asleep.
const AWAITED: usize = 3;
/// There will be no more jobs.
const CLOSED: usize = 4;

/// Where one helper finds its jobs.
#[derive(Debug)]
pub(super) struct Seat {
    state: AtomicUsize,
    /// Belongs to the caller while the seat is free, and to the helper while it is busy.
    job: Turned<Option<ErasedTask>>,
}

/// A function of a number, without its lifetime.
#[derive(Debug, Clone, Copy)]
pub(super) struct ErasedTask {
    function: *const (),
    call: unsafe fn(*const (), usize),
}

// SAFETY: `ErasedTask::new` takes only functions that threads may share, and `state` says whose
// turn it is.
unsafe impl Send for Seat {}
// SAFETY: as above.
unsafe impl Sync for Seat {}

impl ErasedTask {
    pub(super) fn new<F: Fn(usize) + Sync>(function: &F) -> Self {
        /// # Safety
        ///
        /// `function` points to an `F` that is alive.
        unsafe fn call<F: Fn(usize)>(function: *const (), index: usize) {
            // SAFETY: the caller's promise.
            let function = unsafe { &*function.cast::<F>() };
            function(index);
        }
        Self { function: std::ptr::from_ref(function).cast(), call: call::<F> }
    }

    /// # Safety
    ///
    /// The function that the job was made from is alive.
    pub(super) unsafe fn run(self, index: usize) {
        // SAFETY: the caller's promise; pointer and function were made together.
        unsafe { (self.call)(self.function, index) };
    }
}

impl Seat {
    pub(super) fn new() -> Self {
        Self { state: AtomicUsize::new(FREE), job: Turned::new(None) }
    }

    /// Offers a job; the helper must be woken afterwards.
    ///
    /// # Safety
    ///
    /// The seat is free, only one thread invites at a time, and what the job was made from lives
    /// until [`Seat::recall`] has returned.
    pub(super) unsafe fn invite(&self, job: ErasedTask) {
        // SAFETY: the seat is free, so its helper does not access the job.
        self.job.with_mut(|place| unsafe { *place = Some(job) });
        self.state.store(INVITED, Ordering::Release);
    }

    /// Takes the job back: immediately, or when the helper is done with it and wakes the caller.
    /// Returns how long the caller waited in vain.
    pub(super) fn recall(&self) -> Duration {
        let change = |from, to| {
            self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
        };
        if change(INVITED, FREE) {
            return Duration::ZERO;
        }
        let mut patience = Patience::with_helper();
        let mut has_slept = false;
        while self.state.load(Ordering::Acquire) != FREE {
            if !patience.lasts() && (change(BUSY, AWAITED) || self.is_awaited()) {
                has_slept = true;
                park();
            }
        }
        if has_slept { patience.waited() } else { Duration::ZERO }
    }

    fn is_awaited(&self) -> bool {
        self.state.load(Ordering::Relaxed) == AWAITED
    }

    /// Announces that there are no more jobs; the helper must be woken afterwards.
    pub(super) fn close(&self) {
        self.state.store(CLOSED, Ordering::Release);
    }

    /// The next job; sleeps until there is one.
    pub(super) fn take(&self) -> Option<ErasedTask> {
        let mut patience = Patience::with_caller();
        loop {
            match self.state.load(Ordering::Acquire) {
                CLOSED => return None,
                INVITED => {
                    let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
                    if self.state.compare_exchange(INVITED, BUSY, acquire, relaxed).is_ok() {
                        // SAFETY: the seat is busy, so no caller changes the job.
                        return self.job.with(|place| unsafe { *place });
                    }
                }
                _ if patience.lasts() => {}
                _ => park(),
            }
        }
    }

    /// Records that the helper is done with the job and will not touch it again.
    pub(super) fn leave(&self, caller: &Sleeper) {
        if self.state.swap(FREE, Ordering::AcqRel) == AWAITED {
            caller.wake();
        }
    }
}
