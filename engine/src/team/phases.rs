//! The phases of a shared run: each part of a phase is done by one member, and no member begins the
//! next phase before all parts of this one are done.
//!
//! Each part is assigned to one member, whose caches still contain what it wrote before. A member
//! that has finished its own parts takes those that have not been begun, so a member that lost its
//! core delays the others only by the part it had begun. Helpers never sleep here: one that has
//! waited too long leaves the run. When the caller has waited too long, all helpers leave and it
//! finishes alone.

use std::cell::Cell;
use std::ops::Range;
use std::time::Duration;

use super::sleeper::Sleeper;
use super::sync::{AtomicUsize, Begun, Ordering, Patience, park};

/// The caller sleeps: the member that finishes the last part wakes it.
const ASLEEP: usize = 1 << (usize::BITS - 1);
/// A member panicked.
const BROKEN: usize = 1 << (usize::BITS - 2);
/// Helpers must leave.
const CLOSED: usize = 1 << (usize::BITS - 3);
/// Mask of the number of parts that are done.
const COUNT: usize = CLOSED - 1;

/// Progress of the members of a run.
#[derive(Debug)]
pub(super) struct Phases {
    /// For each part, the phase in which it is to be begun next.
    begun: Box<[PaddedCounter]>,
    /// The number of parts that are done, and the flags above.
    done: PaddedCounter,
    caller: Sleeper,
    /// Microseconds that members waited in vain.
    stall: AtomicUsize,
}

/// A counter that has its cache line, and the one that the CPU fetches along with it, to itself.
#[derive(Debug)]
#[repr(align(128))]
struct PaddedCounter(AtomicUsize);

/// One member's view of a shared run.
#[derive(Debug)]
pub(crate) struct Member<'a> {
    /// 0 is the caller.
    index: usize,
    members: usize,
    /// `None` for a member without a team.
    phases: Option<&'a Phases>,
    begun: Begun,
    phase: Cell<usize>,
    has_left: Cell<bool>,
    /// Whether other members were late in the last phase.
    is_hasty: Cell<bool>,
}

impl Phases {
    /// For up to `members` members.
    pub(super) fn new(members: usize) -> Self {
        let line = || PaddedCounter(AtomicUsize::new(0));
        let begun = (0..members).map(|_| line()).collect();
        Self { begun, done: line(), caller: Sleeper::new(), stall: AtomicUsize::new(0) }
    }

    /// Begins a run with the calling thread as its caller; no helper may still be in an
    /// earlier run.
    pub(super) fn begin(&self) {
        for begun in &self.begun {
            begun.0.store(0, Ordering::Relaxed);
        }
        self.done.0.store(0, Ordering::Relaxed);
        self.stall.store(0, Ordering::Relaxed);
        self.caller.is_me();
    }

    /// One of `members` members of the run that has begun.
    pub(super) fn member(&self, index: usize, members: usize) -> Member<'_> {
        Member { index, members, phases: Some(self), ..Member::alone() }
    }

    /// What the caller sleeps on.
    pub(super) fn caller(&self) -> &Sleeper {
        &self.caller
    }

    /// Aborts the run for all members.
    pub(super) fn break_off(&self) {
        if self.done.0.fetch_or(BROKEN, Ordering::AcqRel) & ASLEEP != 0 {
            self.caller.wake();
        }
    }

    /// Whether a member panicked.
    pub(super) fn is_broken(&self) -> bool {
        self.done.0.load(Ordering::Acquire) & BROKEN != 0
    }

    /// How long members of this run have waited in vain, in total.
    pub(super) fn stall(&self) -> Duration {
        Duration::from_micros(self.stall.load(Ordering::Relaxed) as u64)
    }

    /// Whether the caller sleeps.
    #[cfg(test)]
    pub(super) fn is_asleep(&self) -> bool {
        self.done.0.load(Ordering::Relaxed) & ASLEEP != 0
    }

    /// Claims a part of a phase; returns false if another member already has.
    pub(super) fn claim(&self, part: usize, phase: usize) -> bool {
        let begun = &self.begun[part].0;
        // Relaxed suffices: the wait for the end of earlier phases makes their writes visible.
        begun.load(Ordering::Relaxed) == phase
            && begun
                .compare_exchange(phase, phase + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Records that a part is done, and wakes the caller if it sleeps.
    pub(super) fn finish(&self) {
        if self.done.0.fetch_add(1, Ordering::AcqRel) & ASLEEP != 0 {
            self.caller.wake();
        }
    }

    /// Dismisses the helpers and sleeps until `parts` parts are done or a member has panicked.
    fn sleep(&self, parts: usize) {
        while {
            let seen = self.done.0.fetch_or(ASLEEP | CLOSED, Ordering::AcqRel);
            seen & BROKEN == 0 && seen & COUNT < parts
        } {
            park();
        }
        self.done.0.fetch_and(!ASLEEP, Ordering::AcqRel);
    }
}

impl Member<'_> {
    /// A caller without helpers.
    pub(super) fn alone() -> Self {
        Self {
            index: 0,
            members: 1,
            phases: None,
            begun: Begun::now(),
            phase: Cell::new(0),
            has_left: Cell::new(false),
            is_hasty: Cell::new(false),
        }
    }

    /// Runs a phase over `count` items, all of which are done when the caller continues. Calls
    /// `work` with this member's share, and with the shares of members that did not arrive. A
    /// helper may get no share at all, and must do nothing between phases.
    ///
    /// # Panics
    ///
    /// In the caller, if a helper panicked.
    pub(crate) fn each(&self, count: usize, mut work: impl FnMut(Range<usize>)) {
        let Some(phases) = self.phases else { return work(0..count) };
        let phase = self.phase.replace(self.phase.get() + 1);
        if self.has_left.get() {
            return;
        }
        let mut patience = Patience::with_members(self.begun);
        let parts = (phase + 1) * self.members;
        let mut attempt = |part: usize| {
            let is_mine = phases.claim(part, phase);
            if is_mine {
                let unfinished = Unfinished(phases);
                work(count * part / self.members..count * (part + 1) / self.members);
                std::mem::forget(unfinished);
                phases.finish();
            }
            is_mine
        };
        if !self.goes_on(phases) {
            return;
        }
        attempt(self.index);
        // The other members may be about to begin.
        while !self.is_hasty.get() && !self.is_over(phases, parts) && patience.lasts() {
            if !patience.is_fresh() {
                break;
            }
        }
        let mut others = (1..self.members).map(|step| (self.index + step) % self.members);
        let mut was_late = false;
        while !self.is_over(phases, parts)
            && let Some(other) = others.next()
        {
            was_late |= attempt(other);
        }
        self.is_hasty.set(was_late);
        self.wait(phases, parts, &mut patience);
    }

    /// Waits for the end of a phase, or until `patience` runs out.
    fn wait(&self, phases: &Phases, parts: usize, patience: &mut Patience) {
        while !self.is_over(phases, parts) {
            if patience.lasts() {
                continue;
            }
            if self.index == 0 {
                phases.sleep(parts);
            } else {
                self.has_left.set(true);
            }
            let waited = usize::try_from(patience.waited().as_micros()).unwrap_or(usize::MAX);
            phases.stall.fetch_add(waited, Ordering::Relaxed);
        }
    }

    /// Whether this member has nothing left to wait for.
    fn is_over(&self, phases: &Phases, parts: usize) -> bool {
        let seen = phases.done.0.load(Ordering::Acquire);
        if seen & BROKEN != 0 {
            assert!(self.index != 0, "another thread of the team panicked");
            self.has_left.set(true);
        }
        self.has_left.get() || seen & COUNT >= parts
    }

    /// Whether this member still takes part; a helper may have been dismissed.
    fn goes_on(&self, phases: &Phases) -> bool {
        let seen = phases.done.0.load(Ordering::Relaxed);
        if self.index != 0 && seen & (CLOSED | BROKEN) != 0 {
            self.has_left.set(true);
        }
        !self.has_left.get()
    }
}

/// Aborts the run when a part unwinds.
struct Unfinished<'a>(&'a Phases);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.break_off();
    }
}
