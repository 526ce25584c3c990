//! Exhaustive checks of the transition function over every reachable state, and its named cases.

use std::collections::HashSet;

use super::*;

const EVENTS: [Event; 9] = [
    Event::ProbePassed,
    Event::ProbeFailed,
    Event::Gone,
    Event::Succeeded,
    Event::Failed { may_eject: true },
    Event::Failed { may_eject: false },
    Event::Tick,
    Event::Drain,
    Event::Undrain,
];

/// Small numbers, so that every state is reached; each step takes one second.
fn limits() -> Limits {
    Limits {
        rise: 2,
        fall: 3,
        consecutive_failures: 3,
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
        Outlier::Ejected { until } => format!("ejected {:?}", until.saturating_duration_since(now)),
        Outlier::Admitted { failures } => format!("admitted {failures}"),
        Outlier::Probation => "probation".to_owned(),
    };
    let readmitted = state.readmitted.map(|at| now.saturating_duration_since(at));
    let readmitted = readmitted.map(|age| age.min(limits().forgive_after));
    let failures = state.ejections.min(4);
    format!("{:?} {outlier} {} {failures} {readmitted:?}", state.probe, state.draining)
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
        Event::ProbePassed
        | Event::ProbeFailed
        | Event::Gone
        | Event::Succeeded
        | Event::Failed { .. }
        | Event::Tick => {
            assert_eq!(before.draining, after.draining, "only an operator drains: {context}");
        }
    }
    if !before.is_available() && after.is_available() {
        let cause = matches!(event, Event::ProbePassed | Event::Undrain);
        let ejection_ended = matches!(before.outlier, Outlier::Ejected { until } if until <= now);
        assert!(cause || ejection_ended, "came back for no reason: {context}");
    }
    if before.is_available() && !after.is_available() {
        let cause = matches!(
            event,
            Event::ProbeFailed | Event::Gone | Event::Failed { may_eject: true } | Event::Drain
        );
        assert!(cause, "went out for no reason: {context}");
    }
    if let Outlier::Ejected { until } = after.outlier {
        let left = until.saturating_duration_since(now);
        assert!(left <= limits().max_ejection, "{context}");
        assert!(after.ejections > 0, "{context}");
    }
    if matches!(event, Event::Gone) {
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
fn a_worker_that_exited_is_down_at_once_and_back_with_the_first_probe() {
    let now = Instant::now();
    let state = run(State::up(), &[Event::Gone], now);
    assert_eq!(state.availability(), Availability::Down);
    assert!(run(state, &[Event::ProbePassed], now).is_available());
}

#[test]
fn the_second_ejection_lasts_twice_as_long_and_none_longer_than_the_cap() {
    let start = Instant::now();
    let failed = Event::Failed { may_eject: true };
    let mut state = run(State::up(), &[failed; 3], start);
    let mut now = start;
    for expected in [2, 4, 5, 5] {
        let Outlier::Ejected { until } = state.outlier else { panic!("not ejected: {state:?}") };
        assert_eq!(until - now, Duration::from_secs(expected));
        now = until;
        state = state.next(Event::Tick, now, &limits());
        assert!(state.is_available());
        state = state.next(failed, now, &limits());
    }
}

#[test]
fn failures_without_permission_to_eject_leave_it_available() {
    let now = Instant::now();
    let state = run(State::up(), &[Event::Failed { may_eject: false }; 20], now);
    assert!(state.is_available());
    let state = run(state, &[Event::Failed { may_eject: true }], now);
    assert_eq!(state.availability(), Availability::Ejected);
}

#[test]
fn one_success_clears_the_count_of_failures() {
    let now = Instant::now();
    let failed = Event::Failed { may_eject: true };
    let state = run(State::up(), &[failed, failed, Event::Succeeded, failed, failed], now);
    assert!(state.is_available());
}
