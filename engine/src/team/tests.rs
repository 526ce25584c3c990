//! Teams and phases on real threads; [`super::model`] covers what these tests do not show.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::phases::{Member, Phases};
use super::trust::Trust;
use super::{DisjointShared, HelperPool, ThreadGroup};

#[derive(Clone, Copy)]
struct Counter<'a>(&'a AtomicUsize);

// SAFETY: an atomic.
unsafe impl DisjointShared for Counter<'_> {}

/// A team that uses its helpers however few cores there are.
fn team(size: usize) -> ThreadGroup {
    let pool =
        HelperPool::new(size, size == 2, Trust::new(size - 1)).expect("threads can be started");
    ThreadGroup { pool: Some(pool) }
}

/// Items that a member takes in each of `phases` phases of ten items.
fn shares(member: &Member, phases: usize) -> Vec<Vec<usize>> {
    let mut shares = vec![Vec::new(); phases];
    for share in &mut shares {
        member.each(10, |part| share.extend(part));
    }
    shares
}

#[test]
fn a_member_whom_nobody_joins_does_everything() {
    let all: Vec<usize> = (0..10).collect();
    assert_eq!(shares(&Member::alone(), 2), vec![all.clone(); 2]);
    for members in [2, 3, 16] {
        let phases = Phases::new(members);
        phases.begin();
        let mut shares = shares(&phases.member(0, members), 3);
        for share in &mut shares {
            share.sort_unstable();
        }
        assert_eq!(shares, vec![all.clone(); 3], "{members}");
        assert_eq!(phases.stall(), Duration::ZERO);
    }
}

#[test]
fn who_comes_late_skips_what_is_over() {
    let phases = Phases::new(2);
    phases.begin();
    let (caller, helper) = (phases.member(0, 2), phases.member(1, 2));
    assert_eq!(shares(&caller, 2).concat().len(), 20);
    assert_eq!(shares(&helper, 3), [vec![], vec![], vec![5, 6, 7, 8, 9, 0, 1, 2, 3, 4]]);
    assert_eq!(shares(&caller, 1), [[0; 0]], "the helper has done the third phase");
}

#[test]
fn a_helper_that_waits_in_vain_leaves() {
    let phases = Phases::new(2);
    phases.begin();
    assert!(phases.claim(0, 0), "the caller begins, and does not end");
    let helper = phases.member(1, 2);
    assert_eq!(shares(&helper, 3), [vec![5, 6, 7, 8, 9], vec![], vec![]]);
    assert!(phases.stall() > Duration::ZERO);
}

#[test]
fn a_caller_that_waits_in_vain_sleeps_and_sends_the_helpers_away() {
    let phases = Phases::new(2);
    phases.begin();
    assert!(phases.claim(1, 0), "the helper begins");
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            while !phases.is_asleep() {
                std::thread::yield_now();
            }
            phases.finish();
            shares(&phases.member(1, 2), 2)
        });
        let caller = phases.member(0, 2);
        assert_eq!(shares(&caller, 1), [[0, 1, 2, 3, 4]]);
        assert!(phases.stall() > Duration::ZERO);
        assert_eq!(helper.join().expect("no panic"), vec![Vec::<usize>::new(); 2]);
        assert_eq!(shares(&caller, 1).concat().len(), 10);
    });
}

#[test]
fn nobody_goes_on_before_a_phase_is_done() {
    let team = team(3);
    for _ in 0..100 {
        let count = AtomicUsize::new(0);
        team.run(&mut [(); 3], Counter(&count), |(), counter, member: &Member| {
            for phase in 0..20 {
                member.each(12, |part| {
                    assert!(
                        (phase * 12..(phase + 1) * 12).contains(&counter.0.load(Ordering::Relaxed))
                    );
                    counter.0.fetch_add(part.len(), Ordering::Relaxed);
                });
            }
        });
        assert_eq!(count.into_inner(), 20 * 12);
    }
}

#[test]
fn helpers_that_come_in_time_do_their_shares() {
    let team = team(2);
    let (count, both) = (AtomicUsize::new(0), Barrier::new(2));
    team.run(&mut [(); 2], Counter(&count), |(), counter, member: &Member| {
        // Neither begins before the other has arrived.
        both.wait();
        member.each(2, |part| {
            both.wait();
            counter.0.fetch_add(part.len(), Ordering::Relaxed);
        });
    });
    assert_eq!(count.into_inner(), 2);
}

#[test]
fn a_batch_is_spread_over_all_members_and_every_item_is_done_once() {
    let team = team(3);
    let all = Barrier::new(3);
    let mut items = [0; 3];
    team.spread(&mut items, |item| {
        all.wait();
        *item += 1;
    });
    assert_eq!(items, [1; 3]);
    let mut items = [0; 100];
    team.spread(&mut items, |item| *item += 1);
    assert_eq!(items, [1; 100]);
}

/// Counts two items in one run of a team.
fn count_two(team: &ThreadGroup, counter: Counter) {
    team.run(&mut [(); 2], counter, |(), counter, member: &Member| {
        member.each(2, |part| {
            counter.0.fetch_add(part.len(), Ordering::Relaxed);
        });
    });
}

#[test]
fn a_team_that_is_called_out_of_its_own_run_serves_both_callers() {
    let team = team(2);
    let count = AtomicUsize::new(0);
    team.run(&mut [(); 2], Counter(&count), |(), counter, member: &Member| {
        member.each(2, |part| part.for_each(|_| count_two(&team, counter)));
    });
    assert_eq!(count.into_inner(), 4);
}

#[test]
fn a_team_that_many_call_at_once_serves_all() {
    let team = team(3);
    let count = AtomicUsize::new(0);
    let call = || {
        for _ in 0..50 {
            count_two(&team, Counter(&count));
            team.spread(&mut [(); 3], |()| count_two(&team, Counter(&count)));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(call);
        }
    });
    assert_eq!(count.into_inner(), 4 * 50 * 8);
}

#[test]
fn a_panic_of_one_member_ends_the_run_of_all_and_the_team_works_on() {
    let team = team(2);
    let count = AtomicUsize::new(0);
    for who in [0, 1] {
        let both = Barrier::new(2);
        let run = std::panic::AssertUnwindSafe(|| {
            team.run(&mut [0, 1], Counter(&count), |me, _, member: &Member| {
                both.wait();
                assert!(*me != who, "on purpose");
                member.each(2, |_| {});
                member.each(2, |_| {});
            });
        });
        assert!(std::panic::catch_unwind(run).is_err(), "{who}");
        let items = std::panic::AssertUnwindSafe(|| {
            team.spread(&mut [0, 1], |item| {
                both.wait();
                assert!(*item != who, "on purpose");
            });
        });
        assert!(std::panic::catch_unwind(items).is_err(), "{who}");
    }
    team.run(&mut [(); 2], Counter(&count), |(), counter, member: &Member| {
        member.each(10, |part| {
            counter.0.fetch_add(part.len(), Ordering::Relaxed);
        });
    });
    assert_eq!(count.into_inner(), 10);
}

#[test]
fn more_threads_than_cores_are_there_and_are_not_asked() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let team = ThreadGroup::new(cores + 2, false);
    assert_eq!(team.size(), cores + 2);
    let parts = AtomicUsize::new(0);
    team.run(&mut vec![(); cores + 2], Counter(&parts), |(), parts, member: &Member| {
        member.each(1 << 20, |_| {
            parts.0.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(parts.into_inner(), cores);
}
