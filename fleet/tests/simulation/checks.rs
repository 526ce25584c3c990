//! The rules that every history is held against.

use std::sync::Arc;

use fleet::state::Probe;
use fleet::{Availability, Change, EndpointId, Lost, MAX_TRIES, Permit, Refusal, What, Why};
use tokio::time::Instant;

use crate::request::{Answer, Request};
use crate::world::{RETRY_PERCENT, World};

/// Endpoints that may refuse the connection for one request without being counted as tried.
const MAX_REFUSALS: usize = 6;

pub(crate) fn after_every_step(world: &World) {
    for (endpoint, count) in world.endpoints.values() {
        let (is, counted) = (endpoint.in_flight(), count.get());
        assert_eq!(is, counted, "in flight on {}, as against attempts there", endpoint.name());
    }
    let waiting = world.requests.values().filter(|it| it.waiting.is_some());
    assert_eq!(world.view.fleet().pool.queue().waiting(), waiting.clone().count());
    for request in waiting {
        let free = room_for(world, request);
        assert!(free.is_none(), "{} waits although {free:?} has room", request.number);
    }
}

/// An endpoint with room that a request may go to and has not tried.
fn room_for(world: &World, request: &Request) -> Option<EndpointId> {
    let snapshot = world.view.fleet().pool.snapshot();
    let class = request.wanted().class(&snapshot).ok()?;
    let avoided = &request.waiting.as_ref()?.avoided;
    let endpoints = snapshot.class(class).iter();
    let mut free = endpoints.filter(|one| one.has_room() && !avoided.contains(&one.id()));
    free.next().map(|endpoint| endpoint.id())
}

/// Whether a request waits for this endpoint, among others.
fn waits_for(world: &World, request: &Request, endpoint: EndpointId) -> bool {
    let snapshot = world.view.fleet().pool.snapshot();
    let class = request.wanted().class(&snapshot).ok();
    class.is_some_and(|class| snapshot.takes(endpoint, class))
        && request.waiting.as_ref().is_some_and(|it| !it.avoided.contains(&endpoint))
}

/// Never the last one, and never more than half.
pub(crate) fn after_a_change(world: &World, change: &Change) {
    if !matches!(change.what, What::Ejected { .. }) {
        return;
    }
    let snapshot = world.view.fleet().pool.snapshot();
    let states = snapshot.all().iter().filter(|one| one.weight() > 0).map(|one| one.state());
    let in_service: Vec<fleet::State> =
        states.filter(|it| !it.is_withdrawn() && matches!(it.probe, Probe::Up { .. })).collect();
    let ejected = in_service.iter().filter(|it| it.availability() == Availability::Ejected).count();
    assert!(ejected * 2 <= in_service.len(), "{ejected} of {} are ejected", in_service.len());
    assert!(!snapshot.available().is_empty(), "the last one was ejected");
}

pub(crate) fn something_goes_on(request: &Request) {
    assert!(!request.running.is_empty() || request.waiting.is_some(), "nothing goes on");
}

pub(crate) fn before_an_attempt(world: &World, number: usize, permit: &Permit, why: Why) {
    let (request, endpoint) = (&world.requests[&number], permit.endpoint());
    assert!(world.now() < request.deadline, "{number} goes on after its deadline");
    assert!(request.running.len() < 2, "{number} has two attempts under way already");
    if why != Why::Reconnect {
        assert!(endpoint.in_flight() <= endpoint.limit(), "{} is overfull", endpoint.name());
        let is_offered = !endpoint.state().is_withdrawn() && endpoint.weight() > 0;
        assert!(is_offered, "{} takes no requests", endpoint.name());
    }
    if request.is_paid && why == Why::Retry {
        let is_new = !request.failed_on.contains(&endpoint.id());
        assert!(is_new, "{number} is tried on the same endpoint again");
    }
    let can_wait = request.wanted().class(&world.view.fleet().pool.snapshot()).is_ok();
    if why == Why::First && can_wait && !world.is_turn {
        let first = world.requests.values().find(|it| waits_for(world, it, endpoint.id()));
        assert!(first.is_none(), "{number} gets what {:?} waits for", first.map(|it| it.number));
    }
}

pub(crate) fn when_it_is_sent(request: &Request, now: Instant) {
    assert!(now < request.deadline, "{} is sent after its deadline", request.number);
    let times = u32::try_from(request.sent_to.len()).expect("few");
    assert!(times <= MAX_TRIES, "{} is sent {times} times", request.number);
    let is_beside = request.running.iter().filter(|running| running.is_sent).count() > 1;
    assert!(!(request.has_detour && is_beside), "{} is sent by both", request.number);
}

pub(crate) fn before_a_paid_retry(world: &World, number: usize) {
    let active = world.requests.len() as u64;
    let allowed = (active * u64::from(RETRY_PERCENT) / 100).max(3);
    let others = world.requests.values().filter(|it| it.is_paid && it.number != number).count();
    assert!((others as u64) < allowed, "{others} retries beside {number} of {active} requests");
}

pub(crate) fn before_a_wait(request: &Request, until: Instant) {
    assert!(until <= request.deadline, "{} waits for too long", request.number);
}

/// First come, first served.
pub(crate) fn when_a_turn_comes(world: &World, number: usize, turn: &Result<Permit, Refusal>) {
    let Ok(permit) = turn else { return };
    let endpoint = permit.endpoint().id();
    let rank = |it: &Request| it.waiting.as_ref().map(|waiting| waiting.number);
    let own = rank(&world.requests[&number]);
    let before = world
        .requests
        .values()
        .find(|it| it.number != number && rank(it) < own && waits_for(world, it, endpoint));
    assert!(before.is_none(), "{number} is served before {:?}", before.map(|it| it.number));
}

pub(crate) fn in_the_end_of_a_request(
    world: &World,
    request: &Request,
    result: &Result<Answer, Lost>,
) {
    let pool = &world.view.fleet().pool;
    let (snapshot, number) = (pool.snapshot(), request.number);
    match result {
        Ok(_) => {}
        Err(Lost::Refused(Refusal::Busy)) => unreachable!("{number} could have waited"),
        Err(Lost::Refused(Refusal::Overloaded)) => {
            let is_full = pool.queue().waiting() >= pool.settings().queue;
            assert!(request.has_waited || is_full, "{number} could have waited");
        }
        Err(Lost::Refused(refusal)) => {
            // One that waited was told as things were then.
            let why = request.wanted().class(&snapshot).err();
            let is_so = request.has_waited || why == Some(*refusal);
            assert!(is_so, "{number} could be answered, {why:?} and not {refusal:?}");
        }
        Err(Lost::Deadline) => {
            assert!(world.now() >= request.deadline, "{number} has time left");
        }
        Err(Lost::Upstream(_) | Lost::Exhausted) => {
            assert!(!world.is_calm, "{number} is lost although every machine is well");
            // What was never sent anywhere is tried on any endpoint not tried yet.
            let Ok(class) = request.wanted().class(&snapshot) else { return };
            let is_tried = |one: &Arc<fleet::Endpoint>| request.failed_on.contains(&one.id());
            let is_spent = !request.sent_to.is_empty()
                || request.failed_on.len() > MAX_REFUSALS
                || request.has_waited
                || pool.queue().waiting() >= pool.settings().queue
                || world.now() >= request.deadline;
            let is_lost = is_spent || snapshot.class(class).iter().all(is_tried);
            assert!(is_lost, "{number} is lost although there is an endpoint left for it");
        }
    }
}

pub(crate) fn in_the_end(world: &World) {
    let pool = &world.view.fleet().pool;
    assert_eq!(pool.queue().waiting(), 0);
    for (endpoint, _) in world.endpoints.values() {
        assert_eq!(endpoint.in_flight(), 0, "on {}", endpoint.name());
    }
    let snapshot = pool.snapshot();
    assert!(!snapshot.is_panicking());
    for endpoint in snapshot.all() {
        let state = endpoint.state();
        assert!(state.is_available(), "{} is still out: {state:?}", endpoint.name());
    }
}
