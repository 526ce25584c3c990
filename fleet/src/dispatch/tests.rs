//! The order of steps when two attempts run concurrently.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Waker};
use std::time::Duration;

use http::StatusCode;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::Event;
use crate::policy::Kind;
use crate::pool::{Pool, Settings};
use crate::retry::RetryBudget;
use crate::view::Fleet;

#[derive(Debug, Clone)]
struct Still(Instant);

impl Clock for Still {
    fn now(&self) -> Instant {
        self.0
    }
}

/// A complete answer.
#[derive(Debug)]
struct Answer(StatusCode);

impl Reply for Answer {
    fn status(&self) -> StatusCode {
        self.0
    }

    fn has_retry_after(&self) -> bool {
        false
    }

    fn is_complete(&self) -> bool {
        true
    }
}

const ANY: Wanted<'static> = Wanted { model: None, count: usize::MAX, key: None, avoided: &[] };

fn view(endpoints: u16, now: Instant) -> View<SmallRng, Still> {
    view_with(Settings { is_probed: false, ..Settings::default() }, endpoints, now)
}

fn view_with(settings: Settings, endpoints: u16, now: Instant) -> View<SmallRng, Still> {
    let pool = Pool::new(settings, now);
    let list: Vec<_> = (1..=endpoints)
        .map(|n| (format!("worker{n}"), SocketAddr::from(([127, 0, 0, 1], n))))
        .collect();
    pool.replace(&list, now).ignore();
    let fleet = Fleet::new(Arc::new(pool), Kind::Random, RetryBudget::new(20));
    View::new(Arc::new(fleet), SmallRng::seed_from_u64(1), Still(now))
}

/// Dispatches a request until it gets room or is refused, as a thread of the balancer does.
fn ask(view: &View<SmallRng, Still>, now: Instant) -> Result<(), Refusal> {
    let dispatch: Dispatch<Answer> = Dispatch::new(now + Duration::from_mins(1), 1);
    let waiter = match dispatch.admit(view, &ANY, now) {
        Step::Send(..) => return Ok(()),
        Step::Wait(waiter, _) => waiter,
        Step::Pending | Step::End(_) => return Err(Refusal::NoEndpoint),
    };
    loop {
        view.serve_waiting(now);
        if let Some(turn) = waiter.take_turn(Waker::noop()) {
            return turn.map(drop);
        }
    }
}

/// Whenever a request looks, it finds either the endpoint or that it is expected. So does the queue
/// when it looks on behalf of its waiters.
#[test]
fn while_an_expected_endpoint_comes_no_request_is_refused() {
    let now = Instant::now();
    for round in 0..if cfg!(miri) { 8 } else { 2000 } {
        let is_probed = round % 2 == 0;
        let pool = Pool::new(Settings { is_probed, ..Settings::default() }, now);
        let list = [("worker1".to_owned(), SocketAddr::from(([127, 0, 0, 1], 1)))];
        if is_probed {
            pool.replace(&list, now).ignore();
        }
        pool.expect("worker1", Some(now + Duration::from_mins(1)));
        let fleet = Arc::new(Fleet::new(Arc::new(pool), Kind::Random, RetryBudget::new(20)));
        let start = std::sync::Barrier::new(3);
        let client = || {
            let view = View::new(Arc::clone(&fleet), SmallRng::seed_from_u64(1), Still(now));
            start.wait();
            for _ in 0..16 {
                ask(&view, now).expect("it is expected, or there");
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(client);
            scope.spawn(client);
            start.wait();
            if is_probed {
                let endpoint = Arc::clone(&fleet.pool.snapshot().all()[0]);
                fleet.pool.apply(&endpoint, Event::ProbePassed, now).ignore();
            } else {
                fleet.pool.replace(&list, now).ignore();
            }
        });
    }
}

#[test]
fn a_worker_that_is_not_ready_costs_no_retry_budget_and_one_that_is_busy_does() {
    let now = Instant::now();
    for (status, asks_readiness, is_free) in
        [(503, true, true), (503, false, false), (429, true, false)]
    {
        let settings = Settings { is_probed: false, asks_readiness, ..Settings::default() };
        let view = view_with(settings, 2, now);
        let spent: Vec<_> = (0..3).filter_map(|_| view.fleet().retries.begin(0)).collect();
        let dispatch: Dispatch<Answer> = Dispatch::new(now + Duration::from_mins(1), 2);
        let Step::Send(first, Why::First) = dispatch.admit(&view, &ANY, now) else {
            unreachable!("there is room")
        };
        let answer = Answer(StatusCode::from_u16(status).expect("a status"));
        let failure = Err(Failure::Status(answer));
        let next = dispatch.ended(&view, &ANY, Some(first.endpoint().id()), failure, 1, now);
        assert_eq!(matches!(next, Step::Send(_, Why::Retry)), is_free, "{status}: {next:?}");
        assert_eq!(dispatch.was_denied(), !is_free);
        drop(spent);
    }
}

#[test]
fn a_request_that_a_worker_was_not_ready_for_waits_for_another_that_is_full() {
    let now = Instant::now();
    let settings = Settings { is_probed: false, in_flight: 1, ..Settings::default() };
    let view = view_with(settings, 2, now);
    let dispatch: Dispatch<Answer> = Dispatch::new(now + Duration::from_mins(1), 2);
    let Step::Send(first, Why::First) = dispatch.admit(&view, &ANY, now) else {
        unreachable!("there is room")
    };
    let other = view.pick(&ANY, now).expect("room on the other one");
    let id = Some(first.endpoint().id());
    drop(first);
    let failure = Err(Failure::Status(Answer(StatusCode::SERVICE_UNAVAILABLE)));
    let next = dispatch.ended(&view, &ANY, id, failure, 1, now);
    let Step::Wait(waiter, _) = next else { panic!("it waits: {next:?}") };
    assert!(waiter.take_turn(Waker::noop()).is_none());
    let endpoint = other.endpoint().id();
    drop(other);
    let turn = waiter.take_turn(Waker::noop()).expect("its turn").expect("room");
    assert_eq!(turn.endpoint().id(), endpoint);
}

/// The case of a worker whose process has ended and is started again.
#[test]
fn while_an_endpoint_goes_that_is_expected_back_no_request_is_refused() {
    let now = Instant::now();
    for _ in 0..if cfg!(miri) { 4 } else { 1000 } {
        let pool = Pool::new(Settings { is_probed: false, ..Settings::default() }, now);
        let list = [("worker1".to_owned(), SocketAddr::from(([127, 0, 0, 1], 1)))];
        pool.replace(&list, now).ignore();
        let fleet = Arc::new(Fleet::new(Arc::new(pool), Kind::Random, RetryBudget::new(20)));
        let endpoint = Arc::clone(&fleet.pool.snapshot().all()[0]);
        let start = std::sync::Barrier::new(3);
        let client = || {
            let view = View::new(Arc::clone(&fleet), SmallRng::seed_from_u64(1), Still(now));
            start.wait();
            for _ in 0..16 {
                ask(&view, now).expect("it is there, or expected back");
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(client);
            scope.spawn(client);
            start.wait();
            fleet.pool.expect("worker1", Some(now + Duration::from_mins(1)));
            fleet.pool.apply(&endpoint, Event::Gone, now).ignore();
            std::thread::yield_now();
            fleet.pool.apply(&endpoint, Event::ProbePassed, now).ignore();
        });
    }
}

#[test]
fn no_request_passes_those_that_wait_although_there_is_room_for_it() {
    let now = Instant::now();
    let view = view(1, now);
    let endpoint = Arc::clone(&view.fleet().pool.snapshot().all()[0]);
    endpoint.set_limit(1);
    let request = || Dispatch::<Answer>::new(now + Duration::from_secs(10), MAX_TRIES);
    let Step::Send(_first, _) = request().admit(&view, &ANY, now) else { panic!("no room") };
    let Step::Wait(second, _) = request().admit(&view, &ANY, now) else { panic!("room") };
    // Room that has not been offered to any waiter yet.
    endpoint.set_limit(2);
    let Step::Wait(third, _) = request().admit(&view, &ANY, now) else { panic!("it passed") };
    let _second = second.take_turn(Waker::noop()).expect("its turn").expect("room");
    assert!(third.take_turn(Waker::noop()).is_none(), "there is room for one");
}

/// Two attempts connect in parallel; the later one may not send, then the other fails. Returns the
/// first endpoint, the other one, the permit of the next attempt, and the dispatch.
fn after_a_detour(
    view: &View<SmallRng, Still>,
    now: Instant,
) -> (EndpointId, EndpointId, Permit, Dispatch<Answer>) {
    let dispatch: Dispatch<Answer> = Dispatch::new(now + Duration::from_secs(10), MAX_TRIES);
    let Step::Send(slow, Why::First) = dispatch.admit(view, &ANY, now) else { panic!("no room") };
    dispatch.connects(slow.endpoint(), now);
    let slow = slow.endpoint().id();
    let other = dispatch.detour(view, &ANY, slow, now).expect("there are others");
    let other = other.endpoint().id();
    assert!(dispatch.take_send(now).is_ok(), "the other one is connected first");
    let late = dispatch.take_send(now).expect_err("it is sent by one of the two only");
    let step = dispatch.ended(view, &ANY, Some(slow), Err(late), 0, now);
    assert!(matches!(step, Step::Pending), "{step:?}");
    let gone = Failure::Broken { fault: Fault::Reset, is_gone: true };
    let step = dispatch.ended(view, &ANY, Some(other), Err(gone), 0, now);
    let Step::Send(next, Why::Retry) = step else { panic!("{step:?}") };
    (slow, other, next, dispatch)
}

#[test]
fn one_that_connected_too_late_to_send_may_be_tried_when_the_other_has_failed() {
    let now = Instant::now();
    let (slow, _, next, _) = after_a_detour(&view(2, now), now);
    assert_eq!(next.endpoint().id(), slow, "it has not failed");
}

#[test]
fn when_two_that_connected_beside_each_other_have_failed_the_next_one_is_sent() {
    let now = Instant::now();
    let (_, other, next, dispatch) = after_a_detour(&view(3, now), now);
    assert_ne!(next.endpoint().id(), other);
    assert!(dispatch.take_send(now).is_ok(), "nothing goes on beside it");
    assert!(dispatch.take_send(now).is_err(), "twice in all");
}

#[test]
fn an_endpoint_is_held_to_a_time_limit_only_if_it_had_half_of_it() {
    let now = Instant::now();
    let view = view(2, now);
    let (pool, limit) = (&view.fleet().pool, Duration::from_secs(30));
    let endpoint = Arc::clone(&pool.snapshot().all()[0]);
    let late = |left: Duration| {
        let scope = Scope::Everything.within(left, limit);
        let mut attempt = Attempt::new(endpoint.begin(now), scope, now, Still(now + left));
        let notice = attempt.failed(pool, &Failure::<Answer>::Deadline, now + left);
        notice.is_some_and(|notice| notice.is_news)
    };
    // The client spent the rest uploading its picture.
    assert!((0..20).all(|_| !late(Duration::from_millis(20))));
    assert!(endpoint.state().is_available());
    assert_eq!(endpoint.counters().failed.load(Relaxed), 0);
    assert!((0..5).all(|_| late(limit / 2)));
    assert!(!endpoint.state().is_available());
    assert_eq!(Scope::OnlyConnections.within(Duration::ZERO, limit), Scope::OnlyConnections);
}

#[test]
fn a_503_has_an_endpoint_probed_at_once_only_where_that_tells_more() {
    let now = Instant::now();
    for asks_readiness in [true, false] {
        let pool = Pool::new(Settings { asks_readiness, ..Settings::default() }, now);
        pool.replace(&[("a".to_owned(), SocketAddr::from(([127, 0, 0, 1], 1)))], now).ignore();
        let endpoint = Arc::clone(&pool.snapshot().all()[0]);
        let mut attempt = Attempt::new(endpoint.begin(now), Scope::Everything, now, Still(now));
        attempt.answered(&pool, StatusCode::SERVICE_UNAVAILABLE, now).1.ignore();
        let is_doubted = pin!(endpoint.doubted()).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(is_doubted.is_ready(), asks_readiness);
    }
}
