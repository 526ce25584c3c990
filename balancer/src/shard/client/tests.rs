//! Which limit a client hits, depending on what it did and did not do.

use http::HeaderValue;

use super::*;

pub(in crate::shard) const TIMEOUTS: Timeouts = Timeouts {
    request: Duration::from_secs(30),
    queue: Duration::from_secs(2),
    connect: Duration::from_secs(1),
    header: Duration::from_secs(10),
    body: Duration::from_secs(10),
    keep_alive: Duration::from_secs(75),
    drain: Duration::from_secs(30),
};

pub(in crate::shard) fn client(now: Instant) -> Client {
    let forwarded_for = HeaderValue::from_static("192.0.2.1");
    Client::new(Origin::new(forwarded_for, "http", false), now)
}

#[test]
fn a_client_that_never_finishes_a_head_is_closed_however_often_it_sends() {
    let start = Instant::now();
    let client = client(start);
    let mut now = start;
    for _ in 0..9 {
        now += Duration::from_secs(1);
        client.received(now);
        assert_eq!(client.due(now, &TIMEOUTS, false), SweepAction::None);
    }
    assert_eq!(client.due(start + TIMEOUTS.header, &TIMEOUTS, false), SweepAction::Close);
}

#[test]
fn a_client_that_ends_its_side_with_its_request_waits_and_later_it_may_have_given_up() {
    let start = Instant::now();
    let client = client(start);
    assert_eq!(client.ended(start), EndOfInput::Counts, "there is no request");
    client.head_arrived(true, start);
    assert_eq!(client.ended(start + ENDS_WITH_REQUEST), EndOfInput::Waits);
    assert_eq!(client.ended(start + TIMEOUTS.request), EndOfInput::Waits, "once is enough");
    client.end(start);
    assert_eq!(client.ended(start), EndOfInput::Counts, "it has its answer");
    client.head_arrived(true, start);
    for later in [2, 1] {
        assert_eq!(client.ended(start + ENDS_WITH_REQUEST * later), EndOfInput::MayWait);
    }
}

#[test]
fn the_end_within_a_body_counts_when_the_body_turns_out_not_to_be_whole() {
    let start = Instant::now();
    let client = client(start);
    client.head_arrived(false, start);
    assert_eq!(client.ended(start), EndOfInput::Uncertain);
    assert_eq!(client.ended(start), EndOfInput::Counts);
    client.head_arrived(false, start);
    assert_eq!(client.ended(start), EndOfInput::Uncertain);
    client.body_arrived(start);
    assert_eq!(client.ended(start), EndOfInput::Waits);
}

#[test]
fn who_has_asked_nothing_holds_up_no_stop() {
    let start = Instant::now();
    let (silent, slow) = (client(start), client(start));
    slow.received(start);
    assert!(!silent.has_asked());
    let last = start + LAST_REQUEST;
    assert_eq!(silent.due(last, &TIMEOUTS, false), SweepAction::None);
    assert_eq!(silent.due(last, &TIMEOUTS, true), SweepAction::Close);
    assert_eq!(slow.due(last, &TIMEOUTS, true), SweepAction::None, "its head is on the way");
    assert_eq!(slow.due(start + TIMEOUTS.header, &TIMEOUTS, true), SweepAction::Close);
    assert_eq!(silent.due(start + TIMEOUTS.header, &TIMEOUTS, false), SweepAction::Close);
}

#[test]
fn empty_lines_do_not_begin_a_request() {
    let start = Instant::now();
    let client = client(start);
    client.set_parked(false);
    client.begin();
    client.end(start);
    client.received(start + PARK_AFTER);
    assert_eq!(client.due(start + PARK_AFTER * 2, &TIMEOUTS, false), SweepAction::Park);
    client.received_nothing();
    client.set_parked(true);
    assert_eq!(client.due(start + TIMEOUTS.header * 2, &TIMEOUTS, false), SweepAction::None);
    assert_eq!(client.due(start + TIMEOUTS.keep_alive, &TIMEOUTS, false), SweepAction::Close);
}

#[test]
fn who_was_told_of_the_end_has_a_while_and_what_is_in_flight_is_finished() {
    let start = Instant::now();
    let client = client(start);
    client.set_multiplexed();
    client.begin_at(start);
    client.begin();
    client.tell(start);
    let later = start + LAST_REQUEST;
    assert_eq!(client.due(later, &TIMEOUTS, false), SweepAction::None);
    client.end(later);
    assert_eq!(client.due(later, &TIMEOUTS, false), SweepAction::Abort);
    client.begin();
    let limit = start + TIMEOUTS.request + MAX_BLOCKED;
    assert_eq!(client.due(limit, &TIMEOUTS, false), SweepAction::Abort, "not for ever");
}

#[test]
fn a_client_that_keeps_sending_after_the_end_is_closed() {
    let start = Instant::now();
    let client = client(start);
    client.linger(start);
    client.received(start + LAST_REQUEST);
    assert_eq!(client.due(start + LAST_REQUEST, &TIMEOUTS, false), SweepAction::None);
    assert_eq!(client.due(start + LAST_REQUEST, &TIMEOUTS, true), SweepAction::Close);
    assert_eq!(client.due(start + MAX_LINGER, &TIMEOUTS, false), SweepAction::Close);
}

#[test]
fn an_idle_client_is_parked_and_then_closed() {
    let start = Instant::now();
    let client = client(start);
    client.begin();
    client.end(start);
    client.set_parked(false);
    assert_eq!(client.due(start + PARK_AFTER, &TIMEOUTS, false), SweepAction::Park);
    client.set_parked(true);
    assert_eq!(client.due(start + PARK_AFTER, &TIMEOUTS, false), SweepAction::None);
    assert_eq!(client.due(start + TIMEOUTS.keep_alive, &TIMEOUTS, false), SweepAction::Close);
}

#[test]
fn a_client_that_does_not_take_its_answer_is_given_up() {
    let start = Instant::now();
    let client = client(start);
    client.begin();
    client.sent(true, start);
    client.sent(true, start + Duration::from_secs(20));
    assert_eq!(client.due(start + MAX_BLOCKED, &TIMEOUTS, false), SweepAction::Close);
    client.sent(false, start + Duration::from_secs(29));
    assert_eq!(client.due(start + MAX_BLOCKED, &TIMEOUTS, false), SweepAction::None);
}

#[test]
fn on_shutdown_an_idle_client_may_ask_once_more_before_it_is_closed() {
    let start = Instant::now();
    let client = client(start);
    client.begin();
    assert_eq!(client.due(start + LAST_REQUEST, &TIMEOUTS, true), SweepAction::None);
    client.end(start);
    client.set_parked(true);
    assert_eq!(client.due(start + LAST_REQUEST / 2, &TIMEOUTS, true), SweepAction::None);
    assert_eq!(client.due(start + LAST_REQUEST, &TIMEOUTS, true), SweepAction::Close);
    assert_eq!(client.due(start + LAST_REQUEST, &TIMEOUTS, false), SweepAction::None);
}

#[test]
fn many_requests_on_one_connection_are_not_judged_by_its_bytes() {
    let start = Instant::now();
    let client = client(start);
    client.set_multiplexed();
    client.begin_at(start);
    client.begin();
    client.sent(true, start);
    assert_eq!(client.due(start + MAX_BLOCKED, &TIMEOUTS, false), SweepAction::None);
    let limit = start + TIMEOUTS.request + MAX_BLOCKED;
    assert_eq!(client.due(limit, &TIMEOUTS, false), SweepAction::Close, "an answer is not taken");
    client.end(start);
    client.received(limit);
    assert_eq!(client.due(start + TIMEOUTS.keep_alive, &TIMEOUTS, false), SweepAction::Close);
}

#[test]
fn a_request_that_takes_long_is_not_the_clients_fault() {
    let start = Instant::now();
    let client = client(start);
    client.begin();
    assert_eq!(client.due(start + Duration::from_hours(1), &TIMEOUTS, false), SweepAction::None);
}
