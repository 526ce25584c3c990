//! Which waiter gets the room that others free, on one thread and on several.

use std::net::SocketAddr;
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::time::Instant;
use wire::ModelIndexEntry;

use super::*;
use crate::{Endpoint, Event, Pool, Settings};

const ANY: Wanted<'_> = Wanted { model: None, count: 9, key: None, avoided: &[] };
const FIRST: Wanted<'_> = Wanted { model: None, count: 1, key: None, avoided: &[] };

/// A queue in front of endpoints that take `room` requests each.
struct Door {
    pool: Pool,
    endpoints: Vec<Arc<Endpoint>>,
}

impl Door {
    fn new(queue: usize, queue_time: Duration, room: &[u32]) -> Self {
        let settings = Settings { queue, queue_time, is_probed: false, ..Settings::default() };
        let pool = Pool::new(settings, now());
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let list = (1..).zip(room).map(|(port, _)| (format!("worker{port}"), address(port)));
        pool.replace(&list.collect::<Vec<_>>(), now()).ignore();
        let endpoints = pool.snapshot().all().to_vec();
        endpoints.iter().zip(room).for_each(|(endpoint, room)| endpoint.set_limit(*room));
        Self { pool, endpoints }
    }

    fn join(&self, wanted: &Wanted<'_>) -> Option<Waiter> {
        self.pool.queue().join(wanted, now())
    }

    /// Takes all free room.
    fn fill(&self) -> Vec<Permit> {
        let fill = |one: &Arc<Endpoint>| std::iter::from_fn(|| one.try_begin(now())).collect();
        self.endpoints.iter().flat_map(|one| -> Vec<Permit> { fill(one) }).collect()
    }

    /// Serves the waiters, each with the first endpoint that has room.
    fn serve(&self, now: Instant) {
        self.pool.queue().serve(now, first_of);
    }

    fn waiting(&self) -> usize {
        self.pool.queue().waiting()
    }
}

fn first_of(endpoints: &[Arc<Endpoint>], wanted: &Wanted<'_>) -> Option<Permit> {
    let mut untried = endpoints.iter().filter(|one| !wanted.avoided.contains(&one.id()));
    untried.find_map(|one| one.try_begin(now()))
}

/// A queue of requests that may wait for a long time.
fn door(queue: usize, room: &[u32]) -> Door {
    Door::new(queue, Duration::from_mins(10), room)
}

/// A time, for tests that do not depend on it.
fn now() -> Instant {
    Instant::now()
}

fn turn(place: &Waiter) -> Option<Permit> {
    place.take_turn(Waker::noop()).map(|turn| turn.expect("room"))
}

#[test]
fn the_first_to_come_is_the_first_to_be_served_and_the_queue_is_bounded() {
    let door = door(2, &[1]);
    let held = door.fill();
    let (first, second) = (door.join(&ANY).expect("room"), door.join(&ANY).expect("room"));
    assert!(door.join(&ANY).is_none(), "the queue is bounded");
    door.serve(now());
    assert!(turn(&first).is_none(), "there is no room yet");
    drop(held);
    assert!(turn(&second).is_none());
    let held = turn(&first).expect("its turn");
    assert_eq!(door.waiting(), 1);
    drop(held);
    assert!(turn(&second).is_some());
}

#[test]
fn room_that_was_left_cannot_be_taken_by_one_that_comes_later() {
    let door = door(9, &[1]);
    let held = door.fill();
    let patient = door.join(&ANY).expect("room");
    for _ in 0..100 {
        let late = door.join(&ANY).expect("room");
        door.serve(now());
        assert!(turn(&late).is_none());
    }
    drop(held);
    // Before the first waiter is even woken, another request arrives on another thread.
    assert!(door.endpoints[0].try_begin(now()).is_none());
    let late = door.join(&ANY).expect("room");
    door.serve(now());
    assert!(turn(&late).is_none() && turn(&patient).is_some());
}

#[test]
fn who_waits_for_one_endpoint_does_not_hold_up_those_that_others_can_take() {
    let door = door(9, &[1, 1]);
    let [a, b] = <[Permit; 2]>::try_from(door.fill()).expect("two");
    let picky = door.join(&FIRST).expect("room");
    let (easy, last) = (door.join(&ANY).expect("room"), door.join(&ANY).expect("room"));
    drop(b);
    assert!(turn(&picky).is_none() && turn(&last).is_none());
    let easy = turn(&easy).expect("the second endpoint");
    drop(a);
    let picky = turn(&picky);
    assert!(picky.is_some(), "it came before the last");
    drop(picky);
    assert!(turn(&last).is_some());
    drop(easy);
}

#[test]
fn a_request_that_avoids_what_has_room_lets_the_next_have_it() {
    let door = door(9, &[1, 1]);
    let [a, b] = <[Permit; 2]>::try_from(door.fill()).expect("two");
    let tried = [door.endpoints[1].id()];
    let wary = door.join(&Wanted { avoided: &tried, ..ANY }).expect("room");
    let next = door.join(&ANY).expect("room");
    drop(b);
    assert!(turn(&wary).is_none() && turn(&next).is_some());
    drop(a);
    assert_eq!(turn(&wary).map(|room| room.endpoint().id()), Some(door.endpoints[0].id()));
}

#[test]
fn who_leaves_with_its_turn_leaves_the_room_to_the_next() {
    let door = door(2, &[1]);
    let held = door.fill();
    let (first, second) = (door.join(&ANY).expect("room"), door.join(&ANY).expect("room"));
    drop(held);
    drop(first);
    assert!(turn(&second).is_some());
    assert_eq!((door.waiting(), door.endpoints[0].in_flight()), (0, 0));
}

#[test]
fn room_that_came_by_itself_is_handed_out_as_the_policy_has_it() {
    let door = door(9, &[1, 1]);
    let held = door.fill();
    let waiters = [(); 3].map(|()| door.join(&ANY).expect("room"));
    door.endpoints[1].set_limit(3);
    door.serve(now());
    let turns: Vec<_> = waiters.iter().map(turn).collect();
    let got: Vec<_> = turns.iter().flatten().map(|permit| permit.endpoint().id()).collect();
    assert_eq!(got, [door.endpoints[1].id(); 2]);
    assert!(turns[2].is_none(), "there was room for two");
    drop(held);
    assert!(turn(&waiters[2]).is_some());
}

#[test]
fn an_endpoint_that_takes_no_requests_any_more_hands_its_room_to_none() {
    let door = door(9, &[1, 1]);
    let [a, b] = <[Permit; 2]>::try_from(door.fill()).expect("two");
    let waiter = door.join(&ANY).expect("room");
    door.pool.apply(&door.endpoints[0], Event::Drain, now()).ignore();
    drop(a);
    assert!(turn(&waiter).is_none());
    drop(b);
    assert_eq!(turn(&waiter).map(|room| room.endpoint().id()), Some(door.endpoints[1].id()));
}

#[test]
fn who_can_never_be_served_learns_it() {
    let door = door(2, &[1]);
    let mnist = ModelIndexEntry {
        name: "mnist".to_owned(),
        version: "1".to_owned(),
        state: "READY".to_owned(),
        reason: String::new(),
        labels: Vec::new(),
        takes_images: true,
    };
    door.endpoints[0].learn_models(Arc::new(vec![mnist]));
    door.pool.refresh().ignore();
    let unknown = Wanted { model: Some("unknown"), ..ANY };
    let place = door.join(&unknown).expect("room");
    door.serve(now());
    assert!(matches!(place.take_turn(Waker::noop()), Some(Err(Refusal::UnknownModel))));
    assert_eq!(door.waiting(), 0);
}

#[test]
fn a_queue_that_stands_is_kept_short() {
    let door = Door::new(99, Duration::from_secs(2), &[1]);
    let start = now();
    let after = |milliseconds| start + Duration::from_millis(milliseconds);
    let join = |at| door.pool.queue().join(&ANY, at).expect("room");
    let mut held = door.fill().pop();
    let burst = [(); 3].map(|()| join(start));
    door.serve(after(1900));
    held.take();
    held = turn(&burst[0]);
    assert!(held.is_some(), "a burst may wait that long");
    let late = join(after(2000));
    door.serve(after(2100));
    for place in &burst[1..] {
        let turn = place.take_turn(Waker::noop()).map(Result::err);
        assert_eq!(turn, Some(Some(Refusal::Overloaded)));
    }
    held.take();
    assert!(turn(&late).is_some(), "the one that came last has not waited long");
    let held = door.fill();
    let fresh = join(after(9000));
    door.serve(after(10_900));
    drop(held);
    assert!(turn(&fresh).is_some(), "the queue was empty meanwhile, so this is a new burst");
}

#[test]
fn what_others_named_costs_a_waiting_request_nothing() {
    let (door, mut asked) = (door(1000, &[1, 1]), 0);
    let held = door.fill();
    let names: Vec<String> = (0..1000).map(|number| format!("mnist/{number}")).collect();
    let mut serve = || {
        door.pool.queue().serve(now(), |endpoints, wanted| {
            asked += 1;
            first_of(endpoints, wanted)
        });
        asked
    };
    let mut places = Vec::new();
    for name in &names {
        places.push(door.join(&Wanted { model: Some(name), ..ANY }).expect("room"));
        serve();
    }
    door.endpoints[1].set_limit(3);
    assert!(serve() <= 10, "questions to serve two");
    assert!(turn(&places[0]).is_some() && turn(&places[1]).is_some() && turn(&places[4]).is_none());
    drop((held, places));
    assert_eq!(door.waiting(), 0);
}

#[test]
fn a_queue_stands_whatever_its_requests_name() {
    let door = Door::new(99, Duration::from_secs(2), &[1]);
    let start = now();
    let after = |milliseconds| start + Duration::from_millis(milliseconds);
    let _held = door.fill();
    let old = door.pool.queue().join(&ANY, start).expect("room");
    let fresh_name = Wanted { model: Some("mnist/7"), count: 1, key: None, avoided: &[] };
    let other = door.pool.queue().join(&fresh_name, after(1700)).expect("room");
    door.serve(after(2001));
    for place in [&old, &other] {
        let turn = place.take_turn(Waker::noop()).map(Result::err);
        assert_eq!(turn, Some(Some(Refusal::Overloaded)));
    }
}

#[test]
fn a_long_queue_that_stands_is_turned_away_a_few_at_a_time() {
    let door = Door::new(1000, Duration::from_secs(2), &[1]);
    let (start, count) = (now(), Arc::new(Wakes::default()));
    let waker = Waker::from(Arc::clone(&count));
    let _held = door.fill();
    let join = |_| door.pool.queue().join(&ANY, start).expect("room");
    let waiters: Vec<Waiter> = (0..1000).map(join).collect();
    assert!(waiters.iter().all(|waiter| waiter.take_turn(&waker).is_none()));
    let late = start + Duration::from_millis(2001);
    let (mut before, mut rounds) = (0, 0);
    while door.pool.queue().serve(late, first_of) {
        let woken = count.0.load(SeqCst);
        assert!(woken > before && woken - before <= 16, "{} at once", woken - before);
        (before, rounds) = (woken, rounds + 1);
    }
    assert_eq!((count.0.load(SeqCst), door.waiting()), (1000, 0));
    assert!(rounds >= 62, "{rounds} rounds");
}

#[test]
fn a_panic_while_room_is_handed_out_leaves_the_queue_as_it_is() {
    let door = door(9, &[1]);
    let held = door.fill();
    let first = door.join(&ANY).expect("room");
    let bad = door.join(&Wanted { key: Some(1), ..ANY }).expect("room");
    let count = Arc::new(Wakes::default());
    assert!(first.take_turn(&Waker::from(Arc::clone(&count))).is_none());
    door.endpoints[0].set_limit(9);
    let serve = || {
        door.pool.queue().serve(now(), |endpoints, wanted| {
            assert!(wanted.key.is_none(), "a bad key");
            first_of(endpoints, wanted)
        });
    };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve)).is_err());
    assert_eq!((door.waiting(), door.endpoints[0].in_flight()), (1, 2));
    assert_eq!(count.0.load(SeqCst), 1, "the one that was served is woken");
    drop((first, bad, held));
    assert_eq!((door.waiting(), door.endpoints[0].in_flight()), (0, 0));
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

/// Gets room as a request does; panics if room was free and no wake-up came.
fn acquire(door: &Door) -> Permit {
    if door.waiting() == 0
        && let Some(permit) = first_of(&door.endpoints, &ANY)
    {
        return permit;
    }
    let place = door.join(&ANY).expect("room");
    door.serve(now());
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

/// A thread that frees room then looks for waiters, and a waiter joins before it looks for room, so
/// at least one of the two sees the other. Miri (scripts/sanitize.sh) checks this under the memory
/// order of any machine.
#[test]
fn room_that_is_left_while_another_joins_is_seen_by_one_of_the_two() {
    for _ in 0..if cfg!(miri) { 12 } else { 2000 } {
        let door = door(64, &[1]);
        let held = door.fill();
        let place = thread::scope(|scope| {
            scope.spawn(|| drop(held));
            let place = door.join(&ANY).expect("room");
            door.serve(now());
            place
        });
        assert!(turn(&place).is_some(), "it would wait for a wake-up that never comes");
    }
}

#[test]
fn no_wake_up_is_lost_between_threads() {
    // Miri runs few rounds, but under the memory order of any machine (scripts/sanitize.sh).
    let (clients, rounds) = if cfg!(miri) { (3, 6) } else { (6, 2000) };
    let door = door(64, &[1, 1]);
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let permit = acquire(&door);
                    assert!(permit.endpoint().in_flight() <= 1, "the limit holds");
                }
            });
        }
    });
    assert_eq!(door.waiting(), 0);
}

/// A queue in front of an endpoint that has passed no probe yet.
fn unopened() -> Door {
    let settings = Settings { queue: 9, queue_time: Duration::from_mins(1), ..Settings::default() };
    let pool = Pool::new(settings, now());
    let list = [("worker1".to_owned(), SocketAddr::from(([127, 0, 0, 1], 1)))];
    pool.replace(&list, now()).ignore();
    let endpoints = pool.snapshot().all().to_vec();
    Door { pool, endpoints }
}

fn refusal(place: &Waiter) -> Option<Refusal> {
    place.take_turn(Waker::noop()).and_then(Result::err)
}

#[test]
fn a_request_waits_for_an_endpoint_that_is_starting_also_where_there_is_no_other() {
    let door = unopened();
    let in_vain = door.join(&ANY).expect("room");
    door.serve(now());
    assert_eq!(refusal(&in_vain), Some(Refusal::NoEndpoint));
    door.pool.expect("worker1", Some(now() + Duration::from_secs(10)));
    let waits = door.join(&ANY).expect("room");
    door.serve(now());
    assert!(turn(&waits).is_none() && door.waiting() == 1);
    door.pool.apply(&door.endpoints[0], Event::ProbePassed, now()).ignore();
    door.serve(now());
    assert!(turn(&waits).is_some());
    assert!(!door.pool.expects(now()), "it has come");
}

#[test]
fn who_waits_for_an_endpoint_that_does_not_come_is_told_so() {
    let door = unopened();
    let until = now() + Duration::from_secs(10);
    door.pool.expect("worker1", Some(until));
    let (one, other) = (door.join(&ANY).expect("room"), door.join(&ANY).expect("room"));
    door.serve(now());
    assert!(turn(&one).is_none());
    door.serve(until);
    assert_eq!(refusal(&one), Some(Refusal::NoEndpoint), "it is late");
    door.pool.expect("worker1", Some(until));
    door.pool.expect("worker1", None);
    door.serve(now());
    assert_eq!(refusal(&other), Some(Refusal::NoEndpoint), "it does not start");
}

#[test]
fn one_that_does_not_come_says_nothing_about_the_others_that_are_expected() {
    let door = unopened();
    let until = now() + Duration::from_secs(10);
    let expects = || door.pool.expects(now());
    door.pool.expect("worker1", Some(until));
    door.pool.expect("worker2", Some(until));
    door.pool.expect("worker2", None);
    assert!(expects(), "the other may still come");
    door.pool.expect(crate::ANY_NAME, Some(until));
    let endpoint = &door.endpoints[0];
    door.pool.set_weight(endpoint, 0).ignore();
    door.pool.apply(endpoint, Event::ProbePassed, now()).ignore();
    assert!(expects(), "one that takes no requests is not what they wait for");
    door.pool.set_weight(endpoint, 1).ignore();
    door.pool.apply(endpoint, Event::Drain, now()).ignore();
    door.pool.apply(endpoint, Event::Undrain, now()).ignore();
    assert!(!expects(), "it is there, and so is the one whose name was not known");
}

#[test]
fn an_endpoint_that_is_no_longer_in_the_list_does_not_come() {
    let door = unopened();
    door.pool.expect("worker1", Some(now() + Duration::from_secs(10)));
    door.pool.replace(&[], now()).ignore();
    door.pool.apply(&door.endpoints[0], Event::ProbePassed, now()).ignore();
    assert!(door.pool.expects(now()));
}

#[test]
fn a_queue_that_stands_is_not_kept_short_while_an_endpoint_is_starting() {
    let door = Door::new(9, Duration::from_secs(2), &[1]);
    let _held = door.fill();
    let start = now();
    let after = |seconds| start + Duration::from_secs(seconds);
    door.pool.expect("worker1", Some(after(10)));
    let place = door.pool.queue().join(&ANY, start).expect("room");
    door.serve(after(5));
    assert!(turn(&place).is_none(), "not turned away");
    door.serve(after(9));
    door.serve(after(10));
    assert!(turn(&place).is_none(), "it stands since then");
    door.serve(after(14));
    assert_eq!(refusal(&place), Some(Refusal::Overloaded));
}
