//! Exhaustive checks of the transition function over every reachable state, and its named cases.

use std::collections::HashSet;

use super::*;

const FAILED: Event = Event::Failed { cause: Cause::Request, may_eject: true };
const UNREACHED: Event = Event::Failed { cause: Cause::Connection, may_eject: true };
const SILENT: Event = Event::Failed { cause: Cause::Silence, may_eject: true };
const SPARED: Event = Event::Failed { cause: Cause::Request, may_eject: false };

const EVENTS: [Event; 14] = [
    Event::ProbePassed,
    Event::ProbeFailed,
    Event::ProbeRefused,
    Event::ProbeNotReady,
    Event::Gone,
    Event::Succeeded,
    FAILED,
    UNREACHED,
    SILENT,
    SPARED,
    Event::Tick,
    Event::Drain,
    Event::Undrain,
    Event::Leave,
];

/// Small numbers, so that every state is reached; each step takes one second.
fn limits() -> Limits {
    Limits {
        rise: 2,
        fall: 3,
        consecutive_failures: 3,
        silence: Duration::from_secs(1),
        ejection: Duration::from_secs(2),
        max_ejection: Duration::from_secs(5),
        forgive_after: Duration::from_secs(4),
    }
}

fn run(state: State, events: &[Event], start: Instant) -> State {
    events.iter().fold(state, |state, event| state.next(*event, start, &limits()))
}

/// Times relative to `now`, so that states reached at different times compare equal.
fn shape(state: State, now: Instant) -> String {
    let outlier = match state.outlier {
        Outlier::Ejected { until, passes } => {
            format!("ejected {:?} {}", until.saturating_duration_since(now), passes.min(4))
        }
        Outlier::Admitted { failures } => format!("admitted {failures}"),
        Outlier::Probation => "probation".to_owned(),
    };
    let readmitted = state.readmitted.map(|at| now.saturating_duration_since(at));
    let readmitted = readmitted.map(|age| age.min(limits().forgive_after));
    let failures = state.ejections.min(4);
    let State { probe, draining, leaving, .. } = state;
    format!("{probe:?} {outlier} {draining} {leaving} {failures} {readmitted:?}")
}

#[test]
fn every_transition_of_every_reachable_state_keeps_the_invariants() {
    let start = Instant::now();
    let mut seen = HashSet::new();
    let mut front = vec![(State::new(), start)];
    let mut transitions = 0;
    while let Some((state, now)) = front.pop() {
        let failures = match state.outlier {
            Outlier::Admitted { failures } => failures,
            Outlier::Ejected { .. } | Outlier::Probation => 0,
        };
        // Counting on without permission to eject is unbounded: a few steps show all there is.
        if failures > limits().consecutive_failures + 1 || !seen.insert(shape(state, now)) {
            continue;
        }
        for event in EVENTS {
            let then = now + Duration::from_secs(1);
            let next = state.next(event, then, &limits());
            check(state, event, next, then);
            transitions += 1;
            front.push((next, then));
        }
    }
    assert!(transitions > 1000, "only {transitions} transitions were reached");
}

fn check(before: State, event: Event, after: State, now: Instant) {
    let context = format!("{before:?} --{event:?}--> {after:?}");
    match event {
        Event::Drain => assert!(after.draining, "{context}"),
        Event::Undrain => assert!(!after.draining, "{context}"),
        Event::Leave => assert!(after.leaving && !after.is_available(), "{context}"),
        Event::ProbePassed
        | Event::ProbeFailed
        | Event::ProbeRefused
        | Event::ProbeNotReady
        | Event::Gone
        | Event::Succeeded
        | Event::Failed { .. }
        | Event::Tick => {
            assert_eq!(before.draining, after.draining, "only an operator drains: {context}");
        }
    }
    assert!(after.leaving || !before.leaving, "it came back after all: {context}");
    if !before.is_available() && after.is_available() {
        let cause = matches!(event, Event::ProbePassed | Event::Undrain);
        let ejection_ended =
            matches!(before.outlier, Outlier::Ejected { until, .. } if until <= now);
        assert!(cause || ejection_ended, "came back for no reason: {context}");
    }
    if before.is_available() && !after.is_available() {
        let cause = matches!(
            event,
            Event::ProbeFailed
                | Event::ProbeRefused
                | Event::ProbeNotReady
                | Event::Gone
                | Event::Failed { may_eject: true, .. }
                | Event::Drain
                | Event::Leave
        );
        assert!(cause, "went out for no reason: {context}");
    }
    if let Outlier::Ejected { until, .. } = after.outlier {
        let left = until.saturating_duration_since(now);
        assert!(left <= limits().max_ejection, "{context}");
        assert!(after.ejections > 0, "{context}");
    }
    if matches!(event, Event::Gone | Event::ProbeNotReady) {
        assert!(!after.is_available(), "{context}");
    }
}

#[test]
fn a_new_endpoint_passes_one_probe_before_traffic() {
    let now = Instant::now();
    assert_eq!(State::new().availability(), Availability::New);
    let failing = run(State::new(), &[Event::ProbeFailed; 5], now);
    assert_eq!(failing.availability(), Availability::New);
    assert!(run(failing, &[Event::ProbePassed], now).is_available());
}

#[test]
fn three_failed_probes_take_it_out_and_two_passed_ones_bring_it_back() {
    let now = Instant::now();
    let state = run(State::up(), &[Event::ProbeFailed; 2], now);
    assert!(state.is_available());
    let state = run(state, &[Event::ProbeFailed], now);
    assert_eq!(state.availability(), Availability::Down);
    let state = run(state, &[Event::ProbePassed], now);
    assert!(!state.is_available());
    assert!(run(state, &[Event::ProbePassed], now).is_available());
}

#[test]
fn a_worker_that_says_it_is_not_ready_is_down_at_once_and_back_when_it_is() {
    let now = Instant::now();
    let state = run(State::up(), &[Event::ProbeNotReady], now);
    assert_eq!(state.availability(), Availability::Down);
    assert!(run(state, &[Event::ProbePassed], now).is_available());
    let long = run(state, &[Event::ProbeNotReady, Event::ProbePassed], now);
    assert!(!long.is_available(), "as after any other failure");
    assert!(run(long, &[Event::ProbePassed], now).is_available());
}

#[test]
fn a_worker_that_exited_is_down_at_once_and_back_with_the_first_probe() {
    let now = Instant::now();
    let state = run(State::up(), &[Event::Gone], now);
    assert_eq!(state.availability(), Availability::Down);
    assert!(run(state, &[Event::ProbePassed], now).is_available());
}

#[test]
fn the_second_ejection_lasts_twice_as_long_and_none_longer_than_the_cap() {
    let start = Instant::now();
    let mut state = run(State::up(), &[FAILED; 3], start);
    let mut now = start;
    for expected in [2, 4, 5, 5] {
        let Outlier::Ejected { until, .. } = state.outlier else {
            panic!("not ejected: {state:?}")
        };
        assert_eq!(until - now, Duration::from_secs(expected));
        now = until;
        state = state.next(Event::Tick, now, &limits());
        assert!(state.is_available());
        state = state.next(FAILED, now, &limits());
    }
}

#[test]
fn failures_without_permission_to_eject_leave_it_available() {
    let now = Instant::now();
    let state = run(State::up(), &[SPARED; 20], now);
    assert!(state.is_available());
    let state = run(state, &[FAILED], now);
    assert_eq!(state.availability(), Availability::Ejected);
}

#[test]
fn one_success_clears_the_count_of_failures() {
    let now = Instant::now();
    let state = run(State::up(), &[FAILED, FAILED, Event::Succeeded, FAILED, FAILED], now);
    assert!(state.is_available());
}

#[test]
fn a_passed_probe_ends_an_ejection_for_what_probes_see_and_no_other() {
    let now = Instant::now();
    let unreached = run(State::up(), &[UNREACHED; 3], now);
    assert_eq!(unreached.availability(), Availability::Ejected);
    assert!(run(unreached, &[Event::ProbePassed], now).is_available());
    let faulty = run(State::up(), &[FAILED; 3], now);
    let still = run(faulty, &[Event::ProbePassed; 9], now);
    assert_eq!(still.availability(), Availability::Ejected);
}

#[test]
fn an_endpoint_that_came_up_again_is_on_trial_whatever_it_was_ejected_for() {
    let now = Instant::now();
    let exited = run(State::up(), &[FAILED, FAILED, FAILED, Event::Gone], now);
    let back = run(exited, &[Event::ProbePassed], now);
    assert_eq!((back.availability(), back.outlier), (Availability::Available, Outlier::Probation));
    assert_eq!(run(back, &[FAILED], now).availability(), Availability::Ejected);
}

#[test]
fn a_crash_loop_has_to_pass_more_probes_each_time() {
    let now = Instant::now();
    // Every start goes through a time in which it is not ready.
    let starts: [&[Event]; 4] = [
        &[],
        &[Event::ProbeRefused, Event::ProbeNotReady],
        &[Event::ProbeRefused, Event::ProbeRefused, Event::ProbeRefused, Event::ProbePassed],
        &[Event::Gone],
    ];
    for start in starts {
        let mut state = run(State::up(), &[UNREACHED; 3], now);
        for passes in 1..5 {
            state = run(state, start, now);
            let almost = run(state, &vec![Event::ProbePassed; passes - 1], now);
            assert!(!almost.is_available(), "{start:?} {passes}");
            state = run(almost, &[Event::ProbePassed], now);
            assert!(state.is_available(), "{start:?} {passes}");
            state = run(state, &[UNREACHED], now);
        }
    }
}

#[test]
fn a_worker_that_is_not_ready_for_a_moment_stays_ejected_for_its_answers() {
    let now = Instant::now();
    let faulty = run(State::up(), &[FAILED; 3], now);
    for unready in 1..3 {
        let down = run(faulty, &vec![Event::ProbeNotReady; unready], now);
        assert_eq!(down.availability(), Availability::Down);
        let up = run(down, &[Event::ProbePassed; 9], now);
        assert_eq!(up.availability(), Availability::Ejected, "it is the same process");
    }
}

#[test]
fn a_worker_that_was_down_by_its_probes_is_on_trial_when_it_is_up() {
    let now = Instant::now();
    let faulty = run(State::up(), &[FAILED; 3], now);
    let down = run(faulty, &[Event::ProbeFailed; 3], now);
    let up = run(down, &[Event::ProbePassed; 2], now);
    assert_eq!((up.availability(), up.outlier), (Availability::Available, Outlier::Probation));
    let late = run(State::up(), &[Event::ProbeFailed; 3], now);
    let late = run(late, &[FAILED, FAILED, FAILED, Event::ProbePassed, Event::ProbePassed], now);
    assert!(late.is_available(), "that was before: {late:?}");
    let soon = run(faulty, &[Event::ProbeFailed, Event::ProbePassed], now);
    assert_eq!(soon.availability(), Availability::Ejected, "it was late once");
}

#[test]
fn silence_ejects_at_once() {
    let now = Instant::now();
    assert_eq!(run(State::up(), &[SILENT], now).availability(), Availability::Ejected);
}

#[test]
fn a_process_is_not_judged_by_the_answers_of_the_one_before() {
    let now = Instant::now();
    let failed = Event::Failed { cause: Cause::Request, may_eject: true };
    let ejected = run(State::up(), &[failed; 5], now);
    let still = run(ejected, &[Event::ProbePassed; 20], now);
    assert_eq!(still.availability(), Availability::Ejected, "probes know nothing of its answers");
    let gone = run(still, &[Event::ProbeRefused], now);
    assert_eq!(gone.availability(), Availability::Ejected);
    let back = run(gone, &[Event::ProbePassed], now);
    assert!(back.is_available(), "another process answers");
    assert_eq!(back.outlier, Outlier::Probation);
    let again = run(back, &[failed, Event::ProbeRefused, Event::ProbePassed], now);
    assert_eq!(
        again.availability(),
        Availability::Ejected,
        "a crash loop is left alone for longer"
    );
    assert!(run(again, &[Event::ProbePassed], now).is_available());
}
