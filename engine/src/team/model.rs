//! Checks the hand-overs of a team in every order in which two threads may run, and with every
//! value that the memory of a machine may show them. Waits have no patience here: helpers leave and
//! callers sleep immediately.
#![allow(dead_code, reason = "the models need less than a team")]
#![allow(
    clippy::duplicate_mod,
    reason = "once with the standard library's atomics, once with loom's"
)]

#[path = "phases.rs"]
mod phases;
#[path = "seat.rs"]
mod seat;
#[path = "sleeper.rs"]
mod sleeper;

mod sync {
    use std::time::Duration;

    pub(super) use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
    pub(super) use loom::thread::{Thread, current, park};

    #[derive(Debug, Clone, Copy)]
    pub(super) struct Begun;

    impl Begun {
        pub(super) fn now() -> Self {
            Self
        }
    }

    #[derive(Debug)]
    pub(super) struct Patience;

    #[allow(clippy::unused_self, reason = "as the other has it")]
    impl Patience {
        pub(super) fn with_members(_: Begun) -> Self {
            Self
        }

        pub(super) fn with_helper() -> Self {
            Self
        }

        pub(super) fn with_caller() -> Self {
            Self
        }

        pub(super) fn lasts(&mut self) -> bool {
            false
        }

        pub(super) fn is_fresh(&self) -> bool {
            false
        }

        pub(super) fn waited(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[derive(Debug)]
    pub(super) struct Turned<T>(loom::cell::UnsafeCell<T>);

    impl<T> Turned<T> {
        pub(super) fn new(value: T) -> Self {
            Self(loom::cell::UnsafeCell::new(value))
        }

        pub(super) fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
            self.0.with(look)
        }

        pub(super) fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
            self.0.with_mut(change)
        }
    }
}

use loom::sync::Arc;
use phases::{Member, Phases};
use seat::{ErasedTask, Seat};
use sleeper::Sleeper;
use sync::Turned;

/// Numbers that loom watches for races.
struct Numbers([Turned<usize>; 2]);

// SAFETY: the models show that no two threads race.
unsafe impl Sync for Numbers {}
// SAFETY: as above.
unsafe impl Send for Numbers {}

impl Numbers {
    fn new() -> Self {
        Self([0, 0].map(Turned::new))
    }

    fn get(&self, at: usize) -> usize {
        // SAFETY: loom stops at a race.
        self.0[at].with(|number| unsafe { *number })
    }

    fn add(&self, at: usize, much: usize) {
        // SAFETY: as above.
        self.0[at].with_mut(|number| unsafe { *number += much });
    }
}

/// Runs `model` in every order with up to `switches` preemptions; each further one multiplies the
/// time.
fn check(switches: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(model);
}

#[test]
fn every_part_is_done_once_and_seen_by_the_next_phase() {
    /// Two phases; the second reads all that the first wrote.
    fn run(member: &Member, first: &Numbers, second: &Numbers) {
        member.each(2, |part| part.for_each(|at| first.add(at, 1)));
        member.each(2, |part| {
            for at in part {
                assert_eq!([first.get(0), first.get(1)], [1, 1]);
                second.add(at, 1);
            }
        });
    }
    check(1, || {
        let shared = Arc::new((Phases::new(2), Numbers::new(), Numbers::new()));
        shared.0.begin();
        let others = Arc::clone(&shared);
        let helper = loom::thread::spawn(move || {
            let (phases, first, second) = &*others;
            run(&phases.member(1, 2), first, second);
        });
        let (phases, first, second) = &*shared;
        run(&phases.member(0, 2), first, second);
        assert_eq!([second.get(0), second.get(1)], [1, 1]);
        helper.join().expect("no panic");
    });
}

#[test]
fn a_caller_that_sleeps_is_woken_by_a_helper_that_breaks_off() {
    check(3, || {
        let phases = Arc::new(Phases::new(2));
        phases.begin();
        assert!(phases.claim(1, 0), "the helper begins");
        let others = Arc::clone(&phases);
        let helper = loom::thread::spawn(move || others.break_off());
        let caller = phases.member(0, 2);
        let run = std::panic::AssertUnwindSafe(|| caller.each(2, |_| {}));
        assert!(std::panic::catch_unwind(run).is_err());
        helper.join().expect("no panic");
    });
}

#[test]
fn a_job_is_back_before_its_caller_goes_on() {
    check(3, || {
        let group = Arc::new((Seat::new(), Sleeper::new()));
        let others = Arc::clone(&group);
        let helper = loom::thread::spawn(move || {
            let (seat, caller) = &*others;
            while let Some(job) = seat.take() {
                // SAFETY: the caller keeps the job alive until the seat is free again.
                unsafe { job.run(1) };
                seat.leave(caller);
            }
        });
        let (seat, caller) = &*group;
        caller.is_me();
        for _ in 0..2 {
            let numbers = Numbers::new();
            let job = |at| numbers.add(at, 1);
            // SAFETY: the seat is free, and the job lives until it is recalled.
            unsafe { seat.invite(ErasedTask::new(&job)) };
            helper.thread().unpark();
            seat.recall();
            assert!(numbers.get(1) <= 1);
            numbers.add(1, 1);
        }
        seat.close();
        helper.thread().unpark();
        helper.join().expect("no panic");
    });
}
