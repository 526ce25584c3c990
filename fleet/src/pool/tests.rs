//! What a pool offers as its endpoints come, go, fail and load models.

use proptest::prelude::*;
use wire::ModelIndexEntry;

use super::*;
use crate::{Candidates, Class};

fn pool(count: u16, is_probed: bool) -> Pool {
    let pool = Pool::new(Settings { is_probed, ..Settings::default() }, Instant::now());
    pool.replace(&list(count), Instant::now()).ignore();
    pool
}

fn list(count: u16) -> Vec<(String, SocketAddr)> {
    (1..=count).map(|n| (format!("worker{n}"), SocketAddr::from(([127, 0, 0, 1], n)))).collect()
}

fn fail(pool: &Pool, endpoint: &Endpoint) {
    pool.record_failure(endpoint, Cause::Request, "status 500", Instant::now()).ignore();
}

fn names(candidates: &Candidates<'_>) -> Vec<String> {
    match candidates {
        Candidates::Some(_, endpoints) | Candidates::Unheard(endpoints) => {
            endpoints.iter().map(|e| e.name().to_owned()).collect()
        }
        Candidates::None | Candidates::Loading | Candidates::UnknownModel => Vec::new(),
    }
}

fn serve(pool: &Pool, position: usize, models: &[(&str, &str)]) {
    let entry = |(name, state): &(&str, &str)| ModelIndexEntry {
        name: (*name).to_owned(),
        version: "1".to_owned(),
        state: (*state).to_owned(),
        reason: String::new(),
        labels: if *name == "mnist" { vec!["stable".to_owned()] } else { Vec::new() },
        takes_images: false,
    };
    let models = models.iter().map(entry).collect();
    pool.learn_models(&pool.snapshot().all()[position], models).unwrap_or_default().ignore();
}

#[test]
fn a_new_endpoint_is_not_offered_before_its_first_probe() {
    let pool = pool(2, true);
    assert!(matches!(pool.snapshot().candidates(None, 2), Candidates::None));
    let second = Arc::clone(&pool.snapshot().all()[1]);
    pool.apply(&second, Event::ProbePassed, Instant::now()).ignore();
    assert_eq!(names(&pool.snapshot().candidates(None, 2)), ["worker2"]);
    assert!(matches!(pool.snapshot().candidates(None, 1), Candidates::None));
}

#[test]
fn the_first_k_are_counted_in_the_list_not_among_the_available() {
    let pool = pool(4, false);
    let first = Arc::clone(&pool.snapshot().all()[0]);
    pool.apply(&first, Event::Gone, Instant::now()).ignore();
    assert_eq!(names(&pool.snapshot().candidates(None, 2)), ["worker2"]);
}

#[test]
fn endpoints_that_stay_keep_their_identity_and_counters() {
    let pool = pool(3, false);
    let second = Arc::clone(&pool.snapshot().all()[1]);
    second.counters().succeeded.fetch_add(7, Relaxed);
    pool.replace(&list(2)[1..], Instant::now()).ignore();
    let after = pool.snapshot();
    assert_eq!(after.all().len(), 1);
    assert_eq!(after.all()[0].id(), second.id());
    assert_eq!(after.all()[0].counters().succeeded.load(Relaxed), 7);
}

#[test]
fn never_more_than_half_are_ejected_and_never_the_last() {
    let pool = pool(4, false);
    for endpoint in pool.snapshot().all() {
        for _ in 0..10 {
            fail(&pool, endpoint);
        }
    }
    assert_eq!(pool.snapshot().available().len(), 2);
    let single = self::pool(1, false);
    for _ in 0..10 {
        fail(&single, &single.snapshot().all()[0]);
    }
    assert_eq!(single.snapshot().available().len(), 1);
}

#[test]
fn threads_that_fail_at_once_do_not_eject_the_last_endpoints_together() {
    for _ in 0..50 {
        let pool = pool(2, false);
        let all = pool.snapshot();
        std::thread::scope(|scope| {
            for endpoint in all.all() {
                scope.spawn(|| (0..5).for_each(|_| fail(&pool, endpoint)));
            }
        });
        let trusted = all.all().iter().filter(|endpoint| endpoint.state().is_available());
        assert_eq!(trusted.count(), 1);
    }
}

#[test]
fn panic_mode_uses_ejected_endpoints_but_not_dead_or_drained_ones() {
    let pool = pool(4, false);
    let all = pool.snapshot();
    pool.apply(&all.all()[0], Event::Gone, Instant::now()).ignore();
    pool.apply(&all.all()[1], Event::Drain, Instant::now()).ignore();
    for _ in 0..5 {
        fail(&pool, &all.all()[2]);
    }
    let snapshot = pool.snapshot();
    assert!(snapshot.is_panicking());
    assert_eq!(pool.panics(), 1);
    assert_eq!(names(&snapshot.candidates(None, 4)), ["worker3", "worker4"]);
}

#[test]
fn a_request_goes_only_where_its_model_is_ready() {
    let pool = pool(3, false);
    serve(&pool, 0, &[("mnist", "READY")]);
    serve(&pool, 1, &[("mnist", "READY"), ("mobilenet_v2", "READY")]);
    serve(&pool, 2, &[("iris_model", "LOADING")]);
    let snapshot = pool.snapshot();
    assert_eq!(names(&snapshot.candidates(Some("mnist"), 3)), ["worker1", "worker2"]);
    assert_eq!(names(&snapshot.candidates(Some("mnist/1"), 3)), ["worker1", "worker2"]);
    assert_eq!(names(&snapshot.candidates(Some(""), 3)), ["worker2"]);
    assert_eq!(names(&snapshot.candidates(None, 3)), ["worker1", "worker2", "worker3"]);
    assert!(matches!(snapshot.candidates(Some("iris_model"), 3), Candidates::Loading));
    assert_eq!(names(&snapshot.candidates(Some("mnist/labels/stable"), 3)), ["worker1", "worker2"]);
    assert!(matches!(snapshot.candidates(Some("oracle/1"), 3), Candidates::UnknownModel));
    assert!(matches!(snapshot.candidates(Some("mobilenet_v2"), 1), Candidates::None));
    assert_eq!(snapshot.models(), ["mobilenet_v2", "mnist"]);
}

#[test]
fn while_no_endpoint_told_its_models_every_endpoint_may_have_them() {
    let pool = pool(2, false);
    assert_eq!(names(&pool.snapshot().candidates(Some("mnist"), 2)).len(), 2);
}

#[test]
fn a_version_goes_where_it_is_ready_and_an_unheard_of_one_to_whoever_has_the_model() {
    let pool = pool(3, false);
    let learn = |position: usize, versions: &[(&str, &str)]| {
        let entry = |(version, state): &(&str, &str)| ModelIndexEntry {
            name: "mnist".to_owned(),
            version: (*version).to_owned(),
            state: (*state).to_owned(),
            reason: String::new(),
            labels: Vec::new(),
            takes_images: false,
        };
        let models = versions.iter().map(entry).collect();
        pool.learn_models(&pool.snapshot().all()[position], models).unwrap_or_default().ignore();
    };
    learn(0, &[("1", "READY"), ("2", "READY")]);
    learn(1, &[("2", "READY"), ("3", "LOADING"), ("4", "UNAVAILABLE")]);
    learn(2, &[("5", "UNAVAILABLE")]);
    let snapshot = pool.snapshot();
    assert_eq!(names(&snapshot.candidates(Some("mnist/1"), 3)), ["worker1"]);
    assert_eq!(names(&snapshot.candidates(Some("mnist/2"), 3)), ["worker1", "worker2"]);
    assert!(matches!(snapshot.candidates(Some("mnist/3"), 3), Candidates::Loading));
    for unheard_of in ["mnist/4", "mnist/9"] {
        assert!(matches!(snapshot.candidates(Some(unheard_of), 3), Candidates::Unheard(_)));
        assert_eq!(names(&snapshot.candidates(Some(unheard_of), 3)), ["worker1", "worker2"]);
    }
}

#[test]
fn the_index_has_what_all_endpoints_serve_together() {
    let pool = pool(3, false);
    assert!(pool.snapshot().index().is_empty());
    serve(&pool, 0, &[("mnist", "LOADING")]);
    serve(&pool, 1, &[("mnist", "READY"), ("iris_model", "UNAVAILABLE")]);
    let index = pool.snapshot().index();
    let states: Vec<(&str, &str)> = index.iter().map(|e| (&*e.name, &*e.state)).collect();
    assert_eq!(states, [("iris_model", "UNAVAILABLE"), ("mnist", "READY")]);
}

#[test]
fn endpoints_that_serve_the_same_share_one_list() {
    let pool = pool(3, false);
    serve(&pool, 0, &[("mnist", "READY")]);
    serve(&pool, 1, &[("iris_model", "READY")]);
    serve(&pool, 2, &[("mnist", "READY")]);
    let lists: Vec<_> = pool.snapshot().all().iter().filter_map(|one| one.models()).collect();
    assert!(Arc::ptr_eq(&lists[0], &lists[2]) && !Arc::ptr_eq(&lists[0], &lists[1]));
    let again = pool.learn_models(&pool.snapshot().all()[0], lists[0].to_vec());
    assert_eq!(again, None, "it is known");
}

const NAMES: [&str; 3] = ["mnist", "iris_model", "oracle"];
const STATES: [&str; 3] = ["READY", "LOADING", "UNAVAILABLE"];

proptest! {
    #[test]
    fn a_model_is_offered_by_those_that_serve_it_however_many_tell_the_same(
        told in prop::collection::vec(
            prop::option::of(prop::collection::vec((0_usize..3, 0_usize..3), 0..3)), 1..6),
        drained in prop::collection::vec(any::<bool>(), 6),
    ) {
        let pool = pool(u16::try_from(told.len()).expect("few"), false);
        for (position, list) in told.iter().enumerate() {
            if let Some(list) = list {
                let models: Vec<_> = list.iter().map(|(name, state)| (NAMES[*name], STATES[*state])).collect();
                serve(&pool, position, &models);
            }
            if drained[position] {
                pool.apply(&pool.snapshot().all()[position], Event::Drain, Instant::now()).ignore();
            }
        }
        let snapshot = pool.snapshot();
        let has = |position: usize, model: usize, state: usize| {
            told[position].as_ref().is_some_and(|list| list.contains(&(model, state)))
        };
        let who = |is_it: &dyn Fn(usize) -> bool| -> Vec<String> {
            let taking = (0..told.len()).filter(|position| !drained[*position] && is_it(*position));
            taking.map(|position| format!("worker{}", position + 1)).collect()
        };
        let any = |model: usize| (0..told.len()).any(|one| has(one, model, 0) || has(one, model, 1));
        for (model, name) in NAMES.iter().enumerate() {
            let found = snapshot.candidates(Some(name), usize::MAX);
            let is_silent = !(0..NAMES.len()).any(any);
            let expected = if any(model) {
                who(&|position| has(position, model, 0))
            } else {
                who(&|position| is_silent || told[position].is_none())
            };
            let is_unknown = !any(model) && expected.is_empty() && !snapshot.available().is_empty();
            prop_assert_eq!(matches!(&found, Candidates::UnknownModel), is_unknown);
            prop_assert_eq!(matches!(&found, Candidates::Loading), any(model) && expected.is_empty());
            prop_assert_eq!(names(&found), expected);
        }
    }
}

#[test]
fn a_model_whose_only_version_is_broken_is_served_by_nobody() {
    let pool = pool(2, false);
    serve(&pool, 0, &[("mnist", "READY")]);
    serve(&pool, 1, &[("oracle", "UNAVAILABLE")]);
    assert!(matches!(pool.snapshot().candidates(Some("oracle"), 2), Candidates::UnknownModel));
}

/// The class of a request, if it may wait.
fn class(snapshot: &Snapshot, model: Option<&str>, count: usize) -> Option<Class> {
    if let Candidates::Some(class, _) = snapshot.candidates(model, count) {
        return Some(class);
    }
    None
}

#[test]
fn requests_for_the_same_endpoints_are_of_one_class_whatever_they_name() {
    let pool = pool(3, false);
    serve(&pool, 0, &[("mnist", "READY"), ("mobilenet_v2", "READY")]);
    serve(&pool, 1, &[("mnist", "READY"), ("mobilenet_v2", "READY")]);
    serve(&pool, 2, &[("mobilenet_v2", "READY")]);
    let snapshot = pool.snapshot();
    let named =
        ["mnist", "mnist/1", "mnist/labels/stable"].map(|name| class(&snapshot, Some(name), 9));
    assert!(named[0].is_some() && named.iter().all(|one| *one == named[0]), "{named:?}");
    assert_eq!(class(&snapshot, Some("mobilenet_v2/1"), 9), class(&snapshot, None, 3));
    assert_eq!(class(&snapshot, Some("mnist"), 2), class(&snapshot, Some("mnist"), 1_000));
    assert_ne!(class(&snapshot, Some("mnist"), 1), class(&snapshot, Some("mnist"), 2));
    for unknown in ["mnist/2", "mnist/", "oracle"] {
        assert_eq!(class(&snapshot, Some(unknown), 9), None, "{unknown}");
    }
}

#[test]
fn who_has_not_told_its_models_may_have_any_and_who_has_told_them_has_no_others() {
    let pool = pool(2, false);
    serve(&pool, 0, &[("mnist", "READY")]);
    assert_eq!(names(&pool.snapshot().candidates(Some("oracle"), 2)), ["worker2"]);
    assert_eq!(names(&pool.snapshot().candidates(Some("mnist"), 2)), ["worker1"]);
    let second = Arc::clone(&pool.snapshot().all()[1]);
    pool.apply(&second, Event::Gone, Instant::now()).ignore();
    assert!(matches!(pool.snapshot().candidates(Some("oracle"), 2), Candidates::UnknownModel));
}

#[test]
fn what_an_operator_keeps_out_does_not_count_for_panic_mode() {
    let pool = pool(6, false);
    let all = pool.snapshot();
    (0..5).for_each(|_| fail(&pool, &all.all()[0]));
    pool.apply(&all.all()[1], Event::Drain, Instant::now()).ignore();
    pool.apply(&all.all()[2], Event::Drain, Instant::now()).ignore();
    pool.set_weight(&all.all()[3], 0).ignore();
    pool.set_weight(&all.all()[4], 0).ignore();
    let snapshot = pool.snapshot();
    assert!(!snapshot.is_panicking(), "one of the two that are offered is available");
    assert_eq!(names(&snapshot.candidates(None, 6)), ["worker6"]);
    pool.apply(&all.all()[5], Event::Gone, Instant::now()).ignore();
    let snapshot = pool.snapshot();
    assert!(snapshot.is_panicking());
    assert_eq!(names(&snapshot.candidates(None, 6)), ["worker1"]);
}

#[test]
fn a_weight_of_0_keeps_every_request_away_until_there_is_another() {
    let pool = pool(2, false);
    serve(&pool, 0, &[("mnist", "READY")]);
    serve(&pool, 1, &[("mnist", "READY")]);
    let all = pool.snapshot();
    pool.set_weight(&all.all()[0], 0).ignore();
    assert_eq!(names(&pool.snapshot().candidates(Some("mnist"), 2)), ["worker2"]);
    pool.set_weight(&all.all()[1], 0).ignore();
    assert!(matches!(pool.snapshot().candidates(None, 2), Candidates::None));
    assert!(matches!(pool.snapshot().candidates(Some("mnist"), 2), Candidates::Loading));
    pool.set_weight(&all.all()[0], 3).ignore();
    assert_eq!(names(&pool.snapshot().candidates(Some("mnist"), 2)), ["worker1"]);
}

#[test]
fn no_more_than_half_of_those_in_service_are_ejected() {
    let pool = pool(6, false);
    let all = pool.snapshot();
    (3..6).for_each(|n| pool.apply(&all.all()[n], Event::Drain, Instant::now()).ignore());
    for endpoint in &all.all()[..3] {
        (0..10).for_each(|_| fail(&pool, endpoint));
    }
    assert_eq!(pool.snapshot().available().len(), 2);
}

#[test]
fn an_endpoint_that_returns_is_as_its_operator_left_it() {
    let pool = pool(3, false);
    let all = pool.snapshot();
    pool.apply(&all.all()[0], Event::Drain, Instant::now()).ignore();
    pool.set_weight(&all.all()[1], 7).ignore();
    pool.replace(&list(3)[2..], Instant::now()).ignore();
    // It may come back at another address: it is the name that was drained.
    let elsewhere = SocketAddr::from(([127, 0, 0, 9], 1));
    pool.replace(
        &[("worker1".to_owned(), elsewhere), list(3).remove(1), list(3).remove(2)],
        Instant::now(),
    )
    .ignore();
    let back = pool.snapshot();
    assert!(back.all()[0].state().draining);
    assert_eq!(back.all()[1].weight(), 7);
    assert_eq!(names(&back.candidates(None, 9)), ["worker2", "worker3"]);
    pool.apply(&back.all()[0], Event::Undrain, Instant::now()).ignore();
    pool.replace(&list(3)[2..], Instant::now()).ignore();
    pool.replace(&list(3), Instant::now()).ignore();
    assert!(!pool.snapshot().all()[0].state().draining);
}

#[test]
fn of_two_workers_with_one_name_or_one_address_the_first_counts() {
    let pool = pool(1, false);
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    pool.replace(
        &[
            ("a".to_owned(), address(1)),
            ("a".to_owned(), address(2)),
            ("b".to_owned(), address(1)),
            ("c".to_owned(), address(3)),
        ],
        Instant::now(),
    )
    .ignore();
    assert_eq!(names(&pool.snapshot().candidates(None, 9)), ["a", "c"]);
}

#[test]
fn who_joins_a_running_pool_begins_slowly() {
    let pool = pool(2, false);
    pool.replace(&list(3), Instant::now()).ignore();
    let now = Instant::now();
    let shares: Vec<f64> =
        pool.snapshot().all().iter().map(|one| one.slow_start_weight(now)).collect();
    assert!(shares[0] >= 1.0 && shares[1] >= 1.0 && shares[2] < 0.5, "{shares:?}");
}

#[test]
fn requests_that_are_given_up_without_any_answer_eject_in_the_end() {
    let pool = pool(2, false);
    let hung = Arc::clone(&pool.snapshot().all()[0]);
    let start = Instant::now();
    let after = |count| start + Duration::from_millis(200) * count;
    for count in 0..5 {
        assert!(hung.state().is_available(), "after {count}");
        hung.observe_abandoned(after(count), after(count + 1));
        pool.tick(Instant::now()).ignore();
    }
    assert_eq!(hung.state().availability(), Availability::Ejected);
}

#[test]
fn requests_hear_of_it_when_an_endpoint_that_takes_none_anyway_falls_silent() {
    let now = Instant::now();
    let probed = |pool: &Pool, endpoint: &Endpoint, event, is_mute| {
        let before = pool.snapshot().generation();
        pool.record_failed_probe(endpoint, event, is_mute, "a reason", now).ignore();
        pool.snapshot().generation() - before
    };
    let pool = pool(2, false);
    let [leaving, drained] = [0, 1].map(|position| Arc::clone(&pool.snapshot().all()[position]));
    assert_eq!(probed(&pool, &leaving, Event::ProbeNotReady, false), 1);
    assert_eq!(probed(&pool, &leaving, Event::ProbeFailed, false), 0);
    assert!(!leaving.is_silent(), "one that is not ready finishes what it has");
    assert_eq!(probed(&pool, &leaving, Event::ProbeFailed, true), 1);
    assert_eq!(probed(&pool, &leaving, Event::ProbeFailed, true), 0, "it is known");
    assert!(leaving.is_silent());
    pool.apply(&leaving, Event::ProbePassed, now).ignore();
    assert!(!leaving.is_silent());
    pool.apply(&drained, Event::Drain, now).ignore();
    let failures = [0; 3].map(|_| probed(&pool, &drained, Event::ProbeFailed, true));
    assert_eq!(failures, [0, 0, 1], "it is down with the third");
}

#[test]
fn an_endpoint_that_was_down_or_drained_and_is_still_out_is_said_to_be_so() {
    let (pool, now) = (pool(3, false), Instant::now());
    let endpoint = Arc::clone(&pool.snapshot().all()[0]);
    let what = |changes: Changes| changes.iter().map(|one| one.what.clone()).collect::<Vec<_>>();
    (0..5).for_each(|_| fail(&pool, &endpoint));
    pool.record_failed_probe(&endpoint, Event::ProbeNotReady, false, "not ready", now).ignore();
    let up = pool.apply(&endpoint, Event::ProbePassed, now);
    assert_eq!(what(up), [What::Other("ejected")], "it is no ejection of its own");
    assert_eq!(&*endpoint.standing().reason, "it was down, and is still ejected");
    assert_eq!(endpoint.counters().ejections.load(Relaxed), 1);
    pool.apply(&endpoint, Event::Drain, now).ignore();
    pool.apply(&endpoint, Event::Gone, now).ignore();
    let back = pool.apply(&endpoint, Event::Undrain, now);
    assert_eq!(what(back), [What::Down("it was drained, and is not available yet".into())]);
}
