//! The client connections of one thread, and the time limits that hold between requests.
//!
//! A connection waits for a request (keep-alive limit), receives its head (header limit) or is busy
//! with it (then the request has limits of its own, except that a client must take what it is
//! sent). One sweep a second looks at all of them. An idle connection is parked: hyper's buffers
//! are given back until the next byte arrives, so that ten thousand idle clients cost little.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::config::Timeouts;
use crate::headers::Origin;

/// A client that takes nothing of its answer for this long is given up.
const MAX_BLOCKED: Duration = Duration::from_secs(30);
/// An idle connection is parked after this long.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// On shutdown a client that keeps a connection has this long for one more request. Hanging up at
/// once would cross with requests that are on their way.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// A client that cancels more requests than this between two sweeps is up to no good.
const MAX_CANCELLED: u32 = 200;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for a request.
    Idle,
    /// Receiving the head of one.
    Head,
    /// Answering.
    Busy,
}

/// What the sweep wants of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// Go on.
    #[default]
    None,
    /// Give the buffers back.
    Park,
    /// Close.
    Close,
}

/// One client connection.
#[derive(Debug)]
pub struct Client {
    /// Who it is.
    pub origin: Origin,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    active: Cell<u32>,
    is_blocked: Cell<bool>,
    is_parked: Cell<bool>,
    /// Whether it carries many requests at a time, whose bytes cannot be told apart here.
    is_multiplexed: Cell<bool>,
    /// Requests that the client has cancelled since the last sweep.
    cancelled: Cell<u32>,
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
}

impl Client {
    /// A connection that was just accepted; its first head is due.
    pub fn new(origin: Origin, now: Instant) -> Self {
        Self {
            origin,
            phase: Cell::new(Phase::Head),
            since: Cell::new(now),
            active: Cell::new(0),
            is_blocked: Cell::new(false),
            is_parked: Cell::new(true),
            is_multiplexed: Cell::new(false),
            cancelled: Cell::new(0),
            order: Cell::default(),
            waker: RefCell::default(),
        }
    }

    /// A request begins.
    pub fn begin(&self) {
        self.active.set(self.active.get() + 1);
        self.phase.set(Phase::Busy);
    }

    /// Notes when the latest of several requests began.
    pub fn begin_at(&self, now: Instant) {
        if self.is_multiplexed.get() {
            self.since.set(now);
        }
    }

    /// A request has been answered.
    pub fn end(&self, now: Instant) {
        self.active.set(self.active.get().saturating_sub(1));
        if self.active.get() == 0 {
            self.phase.set(Phase::Idle);
            self.since.set(now);
        }
    }

    /// The client did not wait for the answer.
    pub fn cancel(&self) {
        self.cancelled.set(self.cancelled.get() + 1);
    }

    /// From now on this is a connection that carries many requests at a time.
    pub fn set_multiplexed(&self) {
        self.is_multiplexed.set(true);
    }

    /// Bytes were received.
    pub fn received(&self, now: Instant) {
        if self.phase.get() == Phase::Idle && !self.is_multiplexed.get() {
            self.phase.set(Phase::Head);
            self.since.set(now);
        }
    }

    /// Bytes were sent, or could not be.
    pub fn sent(&self, is_blocked: bool, now: Instant) {
        if !is_blocked || !self.is_blocked.get() {
            self.is_blocked.set(is_blocked);
            if self.phase.get() == Phase::Busy && !self.is_multiplexed.get() {
                self.since.set(now);
            }
        }
    }

    /// Notes whether hyper's buffers are given back.
    pub fn set_parked(&self, is_parked: bool) {
        self.is_parked.set(is_parked);
    }

    /// Notes who to wake.
    pub fn set_waker(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if known.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// What the sweep wants, once.
    pub fn take_order(&self) -> Order {
        self.order.take()
    }

    fn due(&self, now: Instant, timeouts: &Timeouts, is_draining: bool) -> Order {
        let age = now.saturating_duration_since(self.since.get());
        match self.phase.get() {
            Phase::Idle if is_draining && age >= LAST_REQUEST => Order::Close,
            Phase::Idle if age >= timeouts.keep_alive => Order::Close,
            Phase::Idle if age >= PARK_AFTER && !self.is_parked.get() && !self.is_blocked.get() => {
                Order::Park
            }
            Phase::Head if age >= timeouts.header => Order::Close,
            Phase::Busy if self.is_multiplexed.get() => {
                // One of the clients of these requests may not take its answer.
                if age >= timeouts.request + MAX_BLOCKED { Order::Close } else { Order::None }
            }
            Phase::Busy if self.is_blocked.get() && age >= MAX_BLOCKED => Order::Close,
            Phase::Idle | Phase::Head | Phase::Busy => Order::None,
        }
    }

    /// Has the connection look around.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// The client connections of one thread.
#[derive(Debug, Default)]
pub struct Clients {
    open: RefCell<Slab<Rc<Client>>>,
}

impl Clients {
    /// Adds a connection; the key removes it.
    pub fn add(&self, client: &Rc<Client>) -> usize {
        self.open.borrow_mut().insert(Rc::clone(client))
    }

    /// Puts another client in the place of one: now it is known who it is.
    pub fn replace(&self, key: usize, client: &Rc<Client>) {
        self.open.borrow_mut()[key] = Rc::clone(client);
    }

    /// Forgets a connection that was closed.
    pub fn remove(&self, key: usize) {
        self.open.borrow_mut().remove(key);
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Tells every connection that is over a limit.
    pub fn sweep(&self, now: Instant, timeouts: &Timeouts, is_draining: bool) {
        for (_, client) in self.open.borrow().iter() {
            let order = if client.cancelled.take() > MAX_CANCELLED {
                Order::Close
            } else {
                client.due(now, timeouts, is_draining)
            };
            if order != Order::None {
                client.order.set(order);
                client.wake();
            }
        }
    }

    /// Has every connection look around.
    pub fn wake_all(&self) {
        for (_, client) in self.open.borrow().iter() {
            client.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        request: Duration::from_secs(30),
        queue: Duration::from_secs(2),
        connect: Duration::from_secs(1),
        header: Duration::from_secs(10),
        body: Duration::from_secs(10),
        keep_alive: Duration::from_secs(75),
        drain: Duration::from_secs(30),
    };

    fn client(now: Instant) -> Client {
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
            assert_eq!(client.due(now, &TIMEOUTS, false), Order::None);
        }
        assert_eq!(client.due(start + TIMEOUTS.header, &TIMEOUTS, false), Order::Close);
    }

    #[test]
    fn an_idle_client_is_parked_and_then_closed() {
        let start = Instant::now();
        let client = client(start);
        client.begin();
        client.end(start);
        client.set_parked(false);
        assert_eq!(client.due(start + PARK_AFTER, &TIMEOUTS, false), Order::Park);
        client.set_parked(true);
        assert_eq!(client.due(start + PARK_AFTER, &TIMEOUTS, false), Order::None);
        assert_eq!(client.due(start + TIMEOUTS.keep_alive, &TIMEOUTS, false), Order::Close);
    }

    #[test]
    fn a_client_that_does_not_take_its_answer_is_given_up() {
        let start = Instant::now();
        let client = client(start);
        client.begin();
        client.sent(true, start);
        client.sent(true, start + Duration::from_secs(20));
        assert_eq!(client.due(start + MAX_BLOCKED, &TIMEOUTS, false), Order::Close);
        client.sent(false, start + Duration::from_secs(29));
        assert_eq!(client.due(start + MAX_BLOCKED, &TIMEOUTS, false), Order::None);
    }

    #[test]
    fn on_shutdown_an_idle_client_may_ask_once_more_before_it_is_closed() {
        let start = Instant::now();
        let client = client(start);
        client.begin();
        assert_eq!(client.due(start + LAST_REQUEST, &TIMEOUTS, true), Order::None);
        client.end(start);
        client.set_parked(true);
        assert_eq!(client.due(start + LAST_REQUEST / 2, &TIMEOUTS, true), Order::None);
        assert_eq!(client.due(start + LAST_REQUEST, &TIMEOUTS, true), Order::Close);
        assert_eq!(client.due(start + LAST_REQUEST, &TIMEOUTS, false), Order::None);
    }

    #[test]
    fn many_requests_on_one_connection_are_not_judged_by_its_bytes() {
        let start = Instant::now();
        let client = client(start);
        client.set_multiplexed();
        client.begin_at(start);
        client.begin();
        client.sent(true, start);
        assert_eq!(client.due(start + MAX_BLOCKED, &TIMEOUTS, false), Order::None);
        let limit = start + TIMEOUTS.request + MAX_BLOCKED;
        assert_eq!(client.due(limit, &TIMEOUTS, false), Order::Close, "an answer is not taken");
        client.end(start);
        client.received(limit);
        assert_eq!(client.due(start + TIMEOUTS.keep_alive, &TIMEOUTS, false), Order::Close);
    }

    #[test]
    fn a_client_that_cancels_as_fast_as_it_asks_is_closed() {
        let now = Instant::now();
        let (clients, client) = (Clients::default(), Rc::new(client(now)));
        clients.add(&client);
        (0..=MAX_CANCELLED).for_each(|_| client.cancel());
        clients.sweep(now, &TIMEOUTS, false);
        assert_eq!(client.take_order(), Order::Close);
        clients.sweep(now, &TIMEOUTS, false);
        assert_eq!(client.take_order(), Order::None, "counted anew after each sweep");
    }

    #[test]
    fn a_request_that_takes_long_is_not_the_clients_fault() {
        let start = Instant::now();
        let client = client(start);
        client.begin();
        assert_eq!(client.due(start + Duration::from_hours(1), &TIMEOUTS, false), Order::None);
    }
}
