//! Who gets the room that others leave, one thread at a time and several at once.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU32;
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::upstream::{Endpoint, EndpointId, State};

const ANY: Wanted<'_> = Wanted { model: None, count: 9, key: None, avoided: &[] };
const FIRST: Wanted<'_> = Wanted { model: None, count: 1, key: None, avoided: &[] };

fn endpoint(limit: u32) -> Arc<Endpoint> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let id = EndpointId(NEXT.fetch_add(1, SeqCst));
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let endpoint = Endpoint::new(id, "a", address, State::up(), Instant::now());
    endpoint.set_limit(limit);
    Arc::new(endpoint)
}

/// Some endpoints, of which a request takes the first that has room. Counts what is asked of them.
struct Few<'a> {
    endpoints: &'a [Arc<Endpoint>],
    asked: &'a AtomicUsize,
}

impl Openings for Few<'_> {
    fn generation(&self) -> u64 {
        1
    }

    fn class(&self, wanted: &Wanted<'_>) -> Result<Class, ProxyError> {
        self.asked.fetch_add(1, SeqCst);
        match wanted.model {
            Some("unknown") => Err(ProxyError::NotFound("unknown".to_owned())),
            _ => Ok(Class { set: 0, first: wanted.count.min(self.endpoints.len()) }),
        }
    }

    fn full_before(&self, _: usize) -> usize {
        self.asked.fetch_add(1, SeqCst);
        let free = self.endpoints.iter().position(|endpoint| endpoint.has_room());
        free.unwrap_or(self.endpoints.len())
    }

    fn take(&self, class: Class, wanted: &Wanted<'_>) -> Option<InFlight> {
        self.asked.fetch_add(1, SeqCst);
        let mut untried =
            self.endpoints[..class.first].iter().filter(|one| !wanted.avoided.contains(&one.id()));
        untried.find_map(|one| one.try_begin(now()))
    }
}

fn on<'e>(endpoints: &'e [Arc<Endpoint>]) -> impl FnOnce() -> Few<'e> {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    move || Few { endpoints, asked: &ASKED }
}

/// When nothing depends on the time.
fn now() -> Instant {
    Instant::now()
}

fn gate(limit: usize) -> Gate {
    Gate::new(limit, Duration::from_mins(10))
}

fn turn(place: &Place<'_>) -> Option<InFlight> {
    place.take_turn(Waker::noop()).map(|turn| turn.expect("room"))
}

#[test]
fn the_first_to_come_is_the_first_to_be_served_and_the_queue_is_bounded() {
    let (gate, endpoints) = (gate(2), [endpoint(1)]);
    let held = endpoints[0].try_begin(now()).expect("room");
    let (first, second) =
        (gate.join(&ANY, now()).expect("room"), gate.join(&ANY, now()).expect("room"));
    assert!(gate.join(&ANY, now()).is_none(), "the queue is bounded");
    gate.serve(now(), on(&endpoints));
    assert!(turn(&first).is_none(), "there is no room yet");
    drop(held);
    gate.serve(now(), on(&endpoints));
    assert!(turn(&second).is_none());
    let held = turn(&first).expect("its turn");
    assert_eq!(gate.waiting(), 1);
    drop(held);
    gate.serve(now(), on(&endpoints));
    assert!(turn(&second).is_some());
}

#[test]
fn room_that_was_handed_over_cannot_be_taken_by_whoever_comes_next() {
    let (gate, endpoints) = (gate(9), [endpoint(1)]);
    let held = endpoints[0].try_begin(now()).expect("room");
    let patient = gate.join(&ANY, now()).expect("room");
    for _ in 0..100 {
        // Before the first was even woken, another request arrives on another thread.
        let late = gate.join(&ANY, now()).expect("room");
        gate.serve(now(), on(&endpoints));
        assert!(turn(&late).is_none());
    }
    drop(held);
    gate.serve(now(), on(&endpoints));
    let late = gate.join(&ANY, now()).expect("room");
    gate.serve(now(), on(&endpoints));
    assert!(turn(&late).is_none() && turn(&patient).is_some());
}

#[test]
fn who_waits_for_one_endpoint_does_not_hold_up_those_that_others_can_take() {
    let (gate, endpoints) = (gate(9), [endpoint(1), endpoint(1)]);
    let held: Vec<_> = endpoints.iter().map(|one| one.try_begin(now()).expect("room")).collect();
    let [a, b] = <[InFlight; 2]>::try_from(held).expect("two");
    let picky = gate.join(&FIRST, now()).expect("room");
    let (easy, last) =
        (gate.join(&ANY, now()).expect("room"), gate.join(&ANY, now()).expect("room"));
    drop(b);
    gate.serve(now(), on(&endpoints));
    assert!(turn(&picky).is_none() && turn(&last).is_none());
    let easy = turn(&easy).expect("the second endpoint");
    drop(a);
    gate.serve(now(), on(&endpoints));
    assert!(turn(&picky).is_some(), "it came before the last");
    gate.serve(now(), on(&endpoints));
    assert!(turn(&last).is_some());
    drop(easy);
}

#[test]
fn a_request_that_avoids_what_has_room_lets_the_next_have_it() {
    let (gate, endpoints) = (gate(9), [endpoint(1), endpoint(1)]);
    let held: Vec<_> = endpoints.iter().map(|one| one.try_begin(now()).expect("room")).collect();
    let [a, b] = <[InFlight; 2]>::try_from(held).expect("two");
    let tried = [endpoints[1].id()];
    let wary = gate.join(&Wanted { avoided: &tried, ..ANY }, now()).expect("room");
    let next = gate.join(&ANY, now()).expect("room");
    drop(b);
    gate.serve(now(), on(&endpoints));
    assert!(turn(&wary).is_none() && turn(&next).is_some());
    drop(a);
    gate.serve(now(), on(&endpoints));
    assert_eq!(turn(&wary).map(|room| room.endpoint().id()), Some(endpoints[0].id()));
}

#[test]
fn whoever_leaves_with_its_turn_leaves_the_room_too() {
    let (gate, endpoints) = (gate(2), [endpoint(1)]);
    let held = endpoints[0].try_begin(now()).expect("room");
    let (first, second) =
        (gate.join(&ANY, now()).expect("room"), gate.join(&ANY, now()).expect("room"));
    drop(held);
    gate.serve(now(), on(&endpoints));
    drop(first);
    gate.serve(now(), on(&endpoints));
    assert!(turn(&second).is_some());
    assert_eq!(gate.waiting(), 0);
}

#[test]
fn who_can_never_be_served_learns_it() {
    let gate = gate(2);
    let unknown = Wanted { model: Some("unknown"), ..ANY };
    let place = gate.join(&unknown, now()).expect("room");
    gate.serve(now(), on(&[]));
    assert!(matches!(place.take_turn(Waker::noop()), Some(Err(ProxyError::NotFound(_)))));
    assert_eq!(gate.waiting(), 0);
}

#[test]
fn a_queue_that_stands_is_kept_short() {
    let (gate, endpoints) = (Gate::new(99, Duration::from_secs(2)), [endpoint(1)]);
    let start = now();
    let after = |milliseconds| start + Duration::from_millis(milliseconds);
    let mut held = endpoints[0].try_begin(now());
    let burst: Vec<_> = (0..3).map(|_| gate.join(&ANY, start).expect("room")).collect();
    held.take();
    gate.serve(after(1900), on(&endpoints));
    held = turn(&burst[0]);
    assert!(held.is_some(), "a burst may wait that long");
    let late = gate.join(&ANY, after(2000)).expect("room");
    held.take();
    gate.serve(after(2100), on(&endpoints));
    for place in &burst[1..] {
        assert_eq!(
            place.take_turn(Waker::noop()).map(Result::err),
            Some(Some(ProxyError::Overloaded))
        );
    }
    assert!(turn(&late).is_some(), "whoever came last has not waited long");
    let fresh = gate.join(&ANY, after(9000)).expect("room");
    gate.serve(after(10_900), on(&endpoints));
    assert!(turn(&fresh).is_some(), "the queue was empty meanwhile, so this is a new burst");
}

#[test]
fn what_others_named_costs_a_waiting_request_nothing() {
    let (gate, endpoints, asked) = (gate(1000), [endpoint(1), endpoint(1)], AtomicUsize::new(0));
    let held: Vec<_> = endpoints.iter().map(|one| one.try_begin(now()).expect("room")).collect();
    let names: Vec<String> = (0..1000).map(|number| format!("mnist/{number}")).collect();
    let mut places = Vec::new();
    let openings = || Few { endpoints: &endpoints, asked: &asked };
    for name in &names {
        let wanted = Wanted { model: Some(name), ..ANY };
        places.push(gate.join(&wanted, now()).expect("room"));
        gate.serve(now(), openings);
    }
    assert!(asked.load(SeqCst) <= 3 * places.len(), "{asked:?} questions for 1000 requests");
    drop(held);
    asked.store(0, SeqCst);
    gate.serve(now(), openings);
    assert!(asked.load(SeqCst) <= 10, "{asked:?} questions to serve two");
    assert!(turn(&places[0]).is_some() && turn(&places[1]).is_some() && turn(&places[2]).is_none());
    assert_eq!(gate.waiting(), 998);
}

#[test]
fn a_queue_stands_whatever_its_requests_name() {
    let (gate, endpoints) = (Gate::new(99, Duration::from_secs(2)), [endpoint(1)]);
    let start = now();
    let after = |milliseconds| start + Duration::from_millis(milliseconds);
    let _held = endpoints[0].try_begin(now());
    let old = gate.join(&ANY, start).expect("room");
    let fresh_name = Wanted { model: Some("mnist/7"), count: 1, key: None, avoided: &[] };
    let other = gate.join(&fresh_name, after(1700)).expect("room");
    gate.serve(after(2001), on(&endpoints));
    for place in [&old, &other] {
        let turn = place.take_turn(Waker::noop()).map(Result::err);
        assert_eq!(turn, Some(Some(ProxyError::Overloaded)));
    }
}

#[test]
fn a_panic_while_room_is_handed_out_leaves_the_queue_as_it_is() {
    struct Bad(Arc<Endpoint>);
    impl Openings for Bad {
        fn generation(&self) -> u64 {
            1
        }

        fn class(&self, wanted: &Wanted<'_>) -> Result<Class, ProxyError> {
            Ok(Class { set: 0, first: wanted.count })
        }

        fn full_before(&self, _: usize) -> usize {
            0
        }

        fn take(&self, _: Class, wanted: &Wanted<'_>) -> Option<InFlight> {
            assert!(wanted.key.is_none(), "a bad key");
            self.0.try_begin(now())
        }
    }
    let (gate, endpoint) = (gate(9), endpoint(9));
    let first = gate.join(&ANY, now()).expect("room");
    let bad = gate.join(&Wanted { key: Some(1), ..ANY }, now()).expect("room");
    let count = Arc::new(Wakes::default());
    assert!(first.take_turn(&Waker::from(Arc::clone(&count))).is_none());
    let serve = || gate.serve(now(), || Bad(Arc::clone(&endpoint)));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve)).is_err());
    assert_eq!((gate.waiting(), endpoint.in_flight()), (1, 1));
    assert_eq!(count.0.load(SeqCst), 1, "who was served is woken");
    drop((first, bad));
    assert_eq!((gate.waiting(), endpoint.in_flight()), (0, 0));
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

struct Unpark(Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Gets room as a request does, and fails if room was free and nobody told.
fn acquire(gate: &Gate, endpoints: &[Arc<Endpoint>]) -> InFlight {
    if gate.waiting() == 0
        && let Some(in_flight) = endpoints.iter().find_map(|one| one.try_begin(now()))
    {
        return in_flight;
    }
    let place = gate.join(&ANY, now()).expect("room");
    gate.serve(now(), on(endpoints));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let limit = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(turn) = place.take_turn(&waker) {
            return turn.expect("room");
        }
        assert!(Instant::now() < limit, "a wake-up was lost");
        thread::park_timeout(Duration::from_mins(1));
    }
}

#[test]
fn no_wake_up_is_lost_between_threads() {
    let (gate, endpoints) = (gate(64), [endpoint(1), endpoint(1)]);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let in_flight = acquire(&gate, &endpoints);
                    assert!(in_flight.endpoint().in_flight() <= 1, "the limit holds");
                    drop(in_flight);
                    gate.serve(now(), on(&endpoints));
                }
            });
        }
    });
    assert_eq!(gate.waiting(), 0);
}
