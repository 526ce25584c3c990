//! The primitives behind the hand-overs of a team. The models of `model.rs` replace this
//! file with one that tries every order in which threads may run.

use std::cell::UnsafeCell;
pub(super) use std::sync::Mutex;
pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
pub(super) use std::thread::{Thread, current, park};
use std::time::Duration;

use tokio::time::Instant;

/// The minimum time that a member waits before it assumes that the others lost their cores: longer
/// than one core needs to wake up, and a small part of a forward pass.
#[cfg(not(miri))]
const LEAST: Duration = Duration::from_micros(200);
/// Miri runs everything some thousand times slower, and should still see members run together.
#[cfg(miri)]
const LEAST: Duration = Duration::from_secs(5);
/// A member also waits for one part in `PART` of the run so far, because some phases have less work
/// than members.
const PART: u32 = 8;
/// How long a helper without work waits for the next job.
const PAUSE: Duration = Duration::from_micros(30);
/// Iterations of a spin wait between two checks of the clock.
const CHECK_EVERY: u32 = 64;

/// The time at which something began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun(Instant);

/// How long a wait spins before it sleeps.
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
    /// For waits on members of a run: grows with the time that the run has taken so far.
    pub(super) fn with_members(run: Begun) -> Self {
        Self { work: Begun::now(), run, least: LEAST, wait: None, turns: 0 }
    }

    /// For waits on a helper that has to return its job.
    pub(super) fn with_helper() -> Self {
        Self::with_members(Begun::now())
    }

    /// For waits on a caller that may bring the next job.
    pub(super) fn with_caller() -> Self {
        Self { least: PAUSE, ..Self::with_helper() }
    }

    /// Spins once; returns whether to keep waiting.
    pub(super) fn lasts(&mut self) -> bool {
        self.turns = self.turns.wrapping_add(1);
        std::hint::spin_loop();
        if !self.turns.is_multiple_of(CHECK_EVERY) {
            return true;
        }
        let now = Instant::now();
        let wait = *self.wait.get_or_insert(now);
        now - wait < self.least + (wait - self.work.0) + (wait - self.run.0) / PART
    }

    /// Whether the wait has only just begun.
    pub(super) fn is_fresh(&self) -> bool {
        self.turns < CHECK_EVERY
    }

    /// How long the wait has taken, to within a few iterations.
    pub(super) fn waited(&self) -> Duration {
        self.wait.map_or(Duration::ZERO, |wait| wait.elapsed())
    }
}

/// A value that two threads use alternately; something else keeps them apart.
#[derive(Debug)]
pub(super) struct Turned<T>(UnsafeCell<T>);

impl<T> Turned<T> {
    pub(super) fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Reads the value.
    pub(super) fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
        look(self.0.get())
    }

    /// Changes the value.
    pub(super) fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
        change(self.0.get())
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::{Begun, CHECK_EVERY, Duration, Patience};

    const ONE_LOOK: usize = CHECK_EVERY as usize;
    const MANY_LOOKS: usize = 100 * ONE_LOOK;

    /// How often it spins while the clock stands still.
    fn spins(patience: &mut Patience) -> usize {
        (0..MANY_LOOKS).take_while(|_| patience.lasts()).count()
    }

    /// The wait continues while the clock stands still, and is over when `longest` microseconds
    /// have passed.
    async fn ends_within(longest: u64, mut patience: Patience) {
        assert_eq!(spins(&mut patience), MANY_LOOKS, "no time has passed");
        tokio::time::advance(Duration::from_micros(longest)).await;
        let more = spins(&mut patience);
        assert!(more < ONE_LOOK, "{more} more spins after {longest} microseconds");
    }

    /// A thread that spins because its partner has lost its core takes another core from the
    /// threads that need it.
    #[tokio::test(start_paused = true)]
    async fn a_wait_in_vain_lasts_a_small_part_of_the_run_however_often_it_spins() {
        for (run, longest) in [(0, 250), (1000, 400), (8000, 1300), (80_000, 10_300)] {
            let begun = Begun::now();
            tokio::time::advance(Duration::from_micros(run)).await;
            ends_within(longest, Patience::with_members(begun)).await;
            ends_within(250, Patience::with_helper()).await;
            ends_within(50, Patience::with_caller()).await;
        }
    }
}
