//! The rules that every history is checked against.

use std::sync::Arc;
use std::time::Duration;

use fleet::state::Probe;
use fleet::{Change, Endpoint, EndpointId, Lost, Outlier, Permit, Refusal, State, What, Why};
use tokio::time::Instant;

use crate::request::{Answer, Request};
use crate::world::{RETRY_PERCENT, World};

/// Most times that a request is sent.
const MAX_SENDS: usize = 2;
/// Failures in a row that eject an endpoint.
const MAX_FAILURES: u32 = 5;
/// Below this share of available endpoints, in percent, ejections are not trusted.
const PANIC_PERCENT: usize = 50;
/// In a standing queue, the time that a request may wait is divided by this.
const STANDING: u32 = 10;
/// Connecting counts as slow after this time; usually it takes a fraction of a millisecond.
const SLOW_CONNECT: Duration = Duration::from_millis(100);
/// Most endpoints that may refuse the connection for one request without being counted as tried.
const MAX_REFUSALS: usize = 6;

pub(crate) fn after_every_step(world: &World) {
    for (endpoint, count) in world.endpoints.values() {
        let (is, counted) = (endpoint.in_flight(), count.get());
        assert_eq!(is, counted, "in flight on {}, as against attempts there", endpoint.name());
    }
    let waiting = world.requests.values().filter(|it| it.waiting.is_some());
    let pool = &world.view.fleet().pool;
    assert_eq!(pool.queue().waiting(), waiting.clone().count());
    assert!(pool.queue().waiting() <= pool.settings().queue, "too many wait");
    for request in waiting {
        let free = room_for(world, request);
        assert!(free.is_none(), "{} waits although {free:?} has room", request.number);
    }
}

/// An endpoint with room that a waiting request may go to and has not tried.
fn room_for(world: &World, request: &Request) -> Option<EndpointId> {
    room_besides(world, request, &request.waiting.as_ref()?.avoided)
}

/// An endpoint with room that a request may go to, except for those `avoided`.
fn room_besides(world: &World, request: &Request, avoided: &[EndpointId]) -> Option<EndpointId> {
    let snapshot = world.view.fleet().pool.snapshot();
    let class = request.wanted().class(&snapshot).ok()?;
    let endpoints = snapshot.class(class).iter();
    let mut free = endpoints.filter(|one| one.has_room() && !avoided.contains(&one.id()));
    free.next().map(|endpoint| endpoint.id())
}

/// Whether a request may go to an endpoint that it has not failed on.
pub(crate) fn has_untried(world: &World, request: &Request) -> bool {
    let snapshot = world.view.fleet().pool.snapshot();
    let class = request.wanted().class(&snapshot).ok();
    let mut all = class.into_iter().flat_map(|class| snapshot.class(class));
    all.any(|one| !request.failed_on.contains(&one.id()))
}

/// Whether a request waits for this endpoint, among others.
fn waits_for(world: &World, request: &Request, endpoint: EndpointId) -> bool {
    let snapshot = world.view.fleet().pool.snapshot();
    let class = request.wanted().class(&snapshot).ok();
    class.is_some_and(|class| snapshot.takes(endpoint, class))
        && request.waiting.as_ref().is_some_and(|it| !it.avoided.contains(&endpoint))
}

fn is_up(state: &State) -> bool {
    matches!(state.probe, Probe::Up { .. })
}

fn is_ejected(state: &State) -> bool {
    matches!(state.outlier, Outlier::Ejected { .. })
}

/// Whether neither an operator nor its weight keeps requests away.
fn is_offered(endpoint: &Endpoint) -> bool {
    let State { draining, leaving, .. } = endpoint.state();
    !draining && !leaving && endpoint.weight() > 0
}

/// States of the endpoints that would take requests if all their answers were good.
fn in_service(world: &World) -> Vec<State> {
    let snapshot = world.view.fleet().pool.snapshot();
    let offered = snapshot.all().iter().filter(|one| is_offered(one));
    offered.map(|one| one.state()).filter(is_up).collect()
}

/// The endpoints that are picked from: all that are well or, if those are too few, all that are up.
pub(crate) fn when_the_pool_has_changed(world: &World) {
    let snapshot = world.view.fleet().pool.snapshot();
    let offered: Vec<_> = snapshot.all().iter().filter(|one| is_offered(one)).collect();
    let is_well = |one: &&&Arc<Endpoint>| is_up(&one.state()) && !is_ejected(&one.state());
    let well = offered.iter().filter(is_well).count();
    let panics = well * 100 < offered.len() * PANIC_PERCENT;
    assert_eq!(snapshot.is_panicking(), panics, "{well} of {} are well", offered.len());
    let takes = |one: &&&Arc<Endpoint>| is_well(one) || panics && is_up(&one.state());
    let expected: Vec<_> = offered.iter().filter(takes).map(|one| one.name()).collect();
    let available: Vec<_> = snapshot.available().iter().map(|one| one.name()).collect();
    assert_eq!(available, expected, "those that are picked from");
}

/// Never the last endpoint, never more than half of them, and never one without a fault.
pub(crate) fn after_a_change(world: &World, change: &Change) {
    if !matches!(change.what, What::Ejected { .. }) {
        return;
    }
    let snapshot = world.view.fleet().pool.snapshot();
    let in_service = in_service(world);
    let ejected = in_service.iter().filter(|it| is_ejected(it)).count();
    assert!(ejected * 2 <= in_service.len(), "{ejected} of {} are ejected", in_service.len());
    assert!(!snapshot.available().is_empty(), "the last one was ejected");
    let machine = world.machine_named(&change.endpoint);
    let was_well = machine.is_some_and(|machine| machine.was_always_well);
    assert!(!was_well, "nothing was wrong with {}", change.endpoint);
}

/// An endpoint that fails again and again is ejected, if it can be spared; for longer each time.
pub(crate) fn after_a_failure(world: &World, endpoint: &Endpoint, before: State) {
    if is_ejected(&before) {
        return;
    }
    let after = endpoint.state();
    if let Outlier::Ejected { until, .. } = after.outlier {
        let limits = world.view.fleet().pool.settings().limits;
        let length = (limits.ejection * after.ejections).min(limits.max_ejection);
        return assert_eq!(until, world.now() + length, "{} is back too soon", endpoint.name());
    }
    let in_service = in_service(world);
    let ejected = in_service.iter().filter(|it| is_ejected(it)).count();
    let can_be_spared = (ejected + 1) * 2 <= in_service.len();
    let failures = world.failures[&endpoint.id()];
    let is_enough = before.outlier == Outlier::Probation || failures >= MAX_FAILURES;
    let name = endpoint.name();
    assert!(!(can_be_spared && is_enough), "{name} failed {failures} times and is not ejected");
}

/// An ejection ends when its time is over.
pub(crate) fn after_a_tick(world: &World) {
    for endpoint in world.view.fleet().pool.snapshot().all() {
        let Outlier::Ejected { until, .. } = endpoint.state().outlier else { continue };
        assert!(until > world.now(), "{} is ejected for longer", endpoint.name());
    }
}

/// Only an endpoint without a sign of life counts as silent, and its requests are notified.
pub(crate) fn after_a_probe(endpoint: &Endpoint, sign: Option<bool>, is_told: bool) {
    let is_silent = sign.is_none() && matches!(endpoint.state().probe, Probe::Down { .. });
    assert_eq!(endpoint.is_silent(), is_silent, "{}: {sign:?}", endpoint.name());
    assert!(
        is_told || !is_silent,
        "it is not published that {} has fallen silent",
        endpoint.name()
    );
}

/// A queue that has been standing for long is kept short.
pub(crate) fn after_a_sweep(world: &World) {
    let patience = world.view.fleet().pool.settings().queue_time;
    let age = |since: Instant| world.now().duration_since(since);
    if world.stands_since.is_some_and(|since| age(since) > patience) {
        for request in world.requests.values() {
            let waited = request.waiting.as_ref().map(|waiting| age(waiting.joined));
            let is_late = waited.is_some_and(|waited| waited > patience / STANDING);
            assert!(!is_late, "{} waits for {waited:?} in a queue that stands", request.number);
        }
    }
}

/// Requests are refused for waiting too long only in such a queue.
pub(crate) fn when_it_is_turned_away(world: &World, number: usize, why: Refusal) {
    let patience = world.view.fleet().pool.settings().queue_time;
    let age = |since: Instant| world.now().duration_since(since);
    let stands = world.stands_since_at_most.is_some_and(|since| age(since) > patience);
    let waiting = world.requests[&number].waiting.as_ref();
    let is_late = waiting.is_some_and(|waiting| age(waiting.joined) > patience / STANDING);
    let is_right = why != Refusal::Overloaded || stands && is_late;
    assert!(is_right, "{number} is turned away, and the queue does not stand");
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
        assert!(is_offered(endpoint), "{} takes no requests", endpoint.name());
        is_good_for(world, request, endpoint);
    }
    if matches!(why, Why::Hedge | Why::Detour) {
        let is_there = request.running.iter().any(|running| running.endpoint == endpoint.id());
        let has_failed = request.failed_on.contains(&endpoint.id());
        assert!(!is_there && !has_failed, "{number} does not go elsewhere");
    }
    if request.is_paid && why == Why::Retry {
        let is_new = !request.failed_on.contains(&endpoint.id());
        assert!(is_new, "{number} is tried on the same endpoint again");
    }
    if why == Why::Retry && request.had_untried {
        let is_new = !request.failed_on.contains(&endpoint.id());
        assert!(is_new, "{number} goes where it has failed, and there are others");
    }
    let can_wait = request.wanted().class(&world.view.fleet().pool.snapshot()).is_ok();
    if why == Why::First && can_wait && !world.is_turn {
        let first = world.requests.values().find(|it| waits_for(world, it, endpoint.id()));
        assert!(first.is_none(), "{number} gets what {:?} waits for", first.map(|it| it.number));
    }
}

/// Whether an endpoint serves the model of a request, and is one of those that it may go to.
fn is_good_for(world: &World, request: &Request, endpoint: &Endpoint) {
    let model = request.model.and_then(|model| model.split('/').next()).unwrap_or_default();
    let snapshot = world.view.fleet().pool.snapshot();
    let serves = endpoint.models().is_none_or(|models| models.iter().any(|it| it.name == model));
    let is_known = !model.is_empty() && !snapshot.index().is_empty();
    assert!(serves || !is_known, "{} does not serve {model}", endpoint.name());
    let place = snapshot.all().iter().position(|one| one.id() == endpoint.id());
    let is_among = place.is_some_and(|place| place < request.count);
    assert!(is_among, "{} is none of the first {}", endpoint.name(), request.count);
}

/// Another endpoint is tried soon if there is no connection.
pub(crate) fn when_it_connects(request: &Request, now: Instant) {
    let due = request.dispatch.connect_due();
    assert!(due.is_some_and(|due| due <= now + SLOW_CONNECT), "{due:?} is late");
}

pub(crate) fn when_connecting_takes_long(
    world: &World,
    request: &Request,
    first: EndpointId,
    detour: Option<&Permit>,
) {
    let has_begun = !request.sent_to.is_empty() || request.running.len() > 1;
    if detour.is_none() && !has_begun && world.now() < request.deadline {
        let avoided = [&*request.failed_on, &[first]].concat();
        let free = room_besides(world, request, &avoided);
        assert!(free.is_none(), "{} waits for a connection", request.number);
    }
}

pub(crate) fn when_its_endpoint_is_silent(request: &Request, now: Instant, is_rescued: bool) {
    let is_over = request.sent_to.len() >= MAX_SENDS || now >= request.deadline;
    assert!(is_rescued || is_over, "{} is left where all is silent", request.number);
}

/// A request that met a dead idle connection goes to another endpoint, or back if none has room.
pub(crate) fn before_a_reconnect(
    world: &World,
    request: &Request,
    dead: EndpointId,
    permit: &Permit,
) {
    let number = request.number;
    let to = permit.endpoint().id();
    if to == dead {
        let avoided = [&*request.failed_on, &[dead]].concat();
        let free = room_besides(world, request, &avoided);
        assert!(free.is_none(), "{number} goes back although {free:?} has room");
    } else {
        assert!(!request.failed_on.contains(&to), "{number} goes where it has failed");
    }
}

pub(crate) fn when_it_is_sent(request: &Request, now: Instant) {
    assert!(now < request.deadline, "{} is sent after its deadline", request.number);
    let times = request.sent_to.len();
    assert!(times <= MAX_SENDS, "{} is sent {times} times", request.number);
    assert!(!request.has_detour || times <= 1, "{} is sent by both", request.number);
}

/// Retries of other requests, and how many are allowed.
fn paid_retries(world: &World, number: usize) -> (u64, u64) {
    let active = world.requests.len() as u64;
    let allowed = (active * u64::from(RETRY_PERCENT) / 100).max(3);
    let others = world.requests.values().filter(|it| it.is_paid && it.number != number).count();
    (others as u64, allowed)
}

pub(crate) fn before_a_paid_retry(world: &World, number: usize) {
    let (others, allowed) = paid_retries(world, number);
    assert!(others < allowed, "{others} retries beside {number}, of {allowed}");
}

pub(crate) fn when_a_retry_is_denied(world: &World, number: usize) {
    let (others, allowed) = paid_retries(world, number);
    assert!(others >= allowed, "{number} is denied with {others} retries of {allowed}");
}

/// Half of the time is for the answer.
pub(crate) fn before_a_wait(world: &World, request: &Request, until: Instant) {
    let now = world.now();
    let left = request.deadline.duration_since(now);
    assert!(until <= now + left / 2, "{} waits for too long", request.number);
    let limit = world.view.fleet().pool.settings().queue_time;
    assert!(until <= now + limit, "{} waits beyond the limit", request.number);
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
    let is_over = result.is_ok() || request.running.is_empty();
    assert!(is_over, "{number} ends with {result:?}, and has an attempt under way");
    match result {
        Ok(answer) => {
            let is_spent = answer.status == 200
                || request.sent_to.len() >= MAX_SENDS
                || request.failed_on.len() > MAX_REFUSALS
                || request.dispatch.was_denied()
                || world.now() >= request.deadline;
            let free = room_besides(world, request, &request.failed_on);
            let is_best = is_spent || free.is_none();
            assert!(is_best, "{number} gets {} although {free:?} has room", answer.status);
        }
        Err(Lost::Refused(Refusal::Busy)) => unreachable!("{number} could have waited"),
        Err(Lost::Refused(Refusal::Overloaded)) => {
            let is_full = pool.queue().waiting() >= pool.settings().queue;
            assert!(request.has_waited || is_full, "{number} could have waited");
        }
        Err(Lost::Refused(refusal)) => {
            // A request that waited was refused for the reason that applied then.
            let why = request.wanted().class(&snapshot).err();
            let is_so = request.has_waited || why == Some(*refusal);
            assert!(is_so, "{number} could be answered, {why:?} and not {refusal:?}");
        }
        Err(Lost::Deadline) => {
            assert!(world.now() >= request.deadline, "{number} has time left");
        }
        Err(Lost::Upstream(_) | Lost::Exhausted) => {
            assert!(!world.is_calm, "{number} is lost although every machine is well");
            // A request that was never sent is tried on any endpoint not tried yet.
            let Ok(class) = request.wanted().class(&snapshot) else { return };
            let is_tried = |one: &Arc<Endpoint>| request.failed_on.contains(&one.id());
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
