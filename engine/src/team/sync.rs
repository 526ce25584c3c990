//! What the hand-overs of a team are made of. The models of [`super::model`] replace this file by one
//! that tries every order in which threads may run.

pub(super) use std::sync::Mutex;
pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
pub(super) use std::thread::{Thread, current, park};

use std::cell::UnsafeCell;
use std::time::Duration;
use tokio::time::Instant;

/// How long a member waits at the least before he takes the others for gone: longer than a core needs to
/// wake up, and a small part of what a pass takes.
#[cfg(not(miri))]
const LEAST: Duration = Duration::from_micros(200);
/// Miri runs everything some thousand times slower, and is to see members together.
#[cfg(miri)]
const LEAST: Duration = Duration::from_secs(5);
/// The part of a run that he waits besides: some phases have less work than members.
const PART: u32 = 8;
/// How long a helper without work waits for the next.
const PAUSE: Duration = Duration::from_micros(30);
/// Turns of a wait from one look at the clock to the next.
const GLANCE: u32 = 64;

/// When something began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun(Instant);

/// How long a wait goes on without a sleep.
#[derive(Debug)]
pub(super) struct Patience {
    work: Begun,
    run: Begun,
    least: Duration,
    wait: Option<Instant>,
    turns: u32,
}

impl Begun {
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }
}

impl Patience {
    /// With members of a run, as work begins: as long as that takes, and somewhat longer.
    pub(super) fn with_members(run: Begun) -> Self {
        Self { work: Begun::now(), run, least: LEAST, wait: None, turns: 0 }
    }

    /// With a helper who is to come back.
    pub(super) fn with_helper() -> Self {
        Self::with_members(Begun::now())
    }

    /// With a caller who may come again.
    pub(super) fn with_caller() -> Self {
        Self { least: PAUSE, ..Self::with_helper() }
    }

    /// One more turn; whether there may be another.
    pub(super) fn lasts(&mut self) -> bool {
        self.turns = self.turns.wrapping_add(1);
        std::hint::spin_loop();
        if !self.turns.is_multiple_of(GLANCE) {
            return true;
        }
        let now = Instant::now();
        let wait = *self.wait.get_or_insert(now);
        now - wait < self.least + (wait - self.work.0) + (wait - self.run.0) / PART
    }

    /// Whether the wait has hardly begun.
    pub(super) fn is_fresh(&self) -> bool {
        self.turns < GLANCE
    }

    /// How long it has been, near enough.
    pub(super) fn waited(&self) -> Duration {
        self.wait.map_or(Duration::ZERO, |wait| wait.elapsed())
    }
}

/// A value that two threads use in turn, as some other rule says.
#[derive(Debug)]
pub(super) struct Turned<T>(UnsafeCell<T>);

impl<T> Turned<T> {
    pub(super) fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// A look at the value.
    pub(super) fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
        look(self.0.get())
    }

    /// A change of the value.
    pub(super) fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
        change(self.0.get())
    }
}
