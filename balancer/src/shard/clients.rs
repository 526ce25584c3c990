//! The client connections of one thread, and the sweep that checks all of them once per second.
//!
//! An idle connection is parked: hyper's buffers are released until the next byte arrives, so that
//! ten thousand idle clients cost little. Usually the sweep does this. When many connections have
//! buffers, resting ones are parked as soon as others need some, so that ten thousand clients that
//! send a request within a second cost no more than those that are active concurrently.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::client::{Client, SweepAction};
use crate::config::Timeouts;

/// A client that cancels more requests than this between two sweeps counts as abusive.
const MAX_CANCELLED: u32 = 200;

/// Beyond this number, connections have no buffers while they rest.
const MAX_WARM: usize = 256;
/// Connections that are checked when another needs buffers.
const LOOKS: usize = 4;

/// Maximum number of clients that are evicted together to make room for others.
const MAX_GIVING_WAY: usize = 32;
/// A client that has sent no request for this long can do without its connection.
const IDLE: Duration = Duration::from_secs(1);
/// If none can, the search is not repeated before this time has passed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time between two warnings of the same kind.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

/// The client connections of one thread.
#[derive(Debug, Default)]
pub struct Clients {
    open: RefCell<Slab<Rc<Client>>>,
    /// Those that may have hyper's buffers, in the order in which they are checked for rest.
    warm: RefCell<VecDeque<Rc<Client>>>,
    /// Clients that were told to give way and whose places are not taken yet.
    room: Cell<usize>,
    /// Whether all are busy, as far as is known: then a new connection must not cost a scan of all.
    all_busy: Cell<bool>,
    /// When a search found no client that could make room for a worker.
    in_vain: Cell<Option<Instant>>,
    /// When it was last logged that clients cannot be accepted.
    complained: Cell<Option<Instant>>,
}

impl Clients {
    /// Adds a connection; returns the key that removes it.
    pub fn add(&self, client: &Rc<Client>) -> usize {
        self.note_idle();
        self.open.borrow_mut().insert(Rc::clone(client))
    }

    /// Replaces a client whose identity has become known.
    pub fn replace(&self, key: usize, client: &Rc<Client>) {
        self.note_idle();
        self.open.borrow_mut()[key] = Rc::clone(client);
    }

    /// Notes that a client gets buffers; if many have some, those of a few resting ones
    /// are released.
    ///
    /// Nothing is recorded when a request ends: a clock hand goes around (Corbató, "A paging
    /// experiment with the Multics system", 1968).
    pub fn unpark(&self, client: &Rc<Client>, now: Instant) {
        let mut warm = self.warm.borrow_mut();
        if client.warm_up() {
            warm.push_back(Rc::clone(client));
        }
        for _ in 0..LOOKS {
            if warm.len() <= MAX_WARM {
                break;
            }
            let Some(next) = warm.pop_front() else { break };
            // Nothing else refers to one that was closed.
            if Rc::strong_count(&next) > 1 && !next.cool_down(now) {
                warm.push_back(next);
            }
        }
    }

    /// Notes that a client is no longer busy, or never was.
    #[inline]
    pub fn note_idle(&self) {
        self.all_busy.set(false);
    }

    /// Forgets a connection that was closed.
    pub fn remove(&self, key: usize) {
        self.open.borrow_mut().remove(key).forget_waker();
    }

    /// Number of open connections.
    pub fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Tells every connection that is over a limit.
    pub fn sweep(&self, now: Instant, timeouts: &Timeouts, is_draining: bool) {
        for (_, client) in self.open.borrow().iter() {
            let order = if client.cancelled.take() > MAX_CANCELLED {
                SweepAction::Abort
            } else {
                client.due(now, timeouts, is_draining)
            };
            if order != SweepAction::None {
                client.order.set(order);
                client.wake();
            }
        }
    }

    /// Makes room for one more: the clients that have been idle the longest are told to close,
    /// before new ones and those of which part of a request has arrived. False if all are busy.
    ///
    /// As in nginx, several are evicted together, so that a crowd does not cost a scan
    /// per connection.
    pub fn make_room(&self) -> bool {
        if self.all_busy.get() && self.room.get() == 0 {
            return false;
        }
        let has_room = self.evict(|_, _| true);
        self.all_busy.set(!has_room);
        has_room
    }

    /// Makes room for a connection to a worker. Only clients that have sent no request for a while
    /// give way to it: a new one is about to send its first.
    pub fn make_room_for_worker(&self, now: Instant) -> bool {
        let is_recent = |last| now.saturating_duration_since(last) < LOOK_EVERY;
        if self.room.get() == 0 && self.in_vain.get().is_some_and(is_recent) {
            return false;
        }
        let is_idle = |since: Instant| now.saturating_duration_since(since) >= IDLE;
        let has_room = self.evict(|has_begun, since| !has_begun && is_idle(since));
        self.in_vain.set((!has_room).then_some(now));
        has_room
    }

    fn evict(&self, may_go: impl Fn(bool, Instant) -> bool) -> bool {
        if let Some(room) = self.room.get().checked_sub(1) {
            self.room.set(room);
            return true;
        }
        let open = self.open.borrow();
        let waiting = |(key, client): (usize, &Rc<Client>)| {
            client.waiting_since().map(|(has_begun, since)| (has_begun, since, key))
        };
        let may_go = |(has_begun, since, _): &(bool, Instant, usize)| may_go(*has_begun, *since);
        let mut waiting: Vec<(bool, Instant, usize)> =
            open.iter().filter_map(waiting).filter(may_go).collect();
        if waiting.is_empty() {
            return false;
        }
        let count = (waiting.len() / 8).clamp(1, MAX_GIVING_WAY);
        waiting.select_nth_unstable(count - 1);
        for (_, _, key) in &waiting[..count] {
            let client = &open[*key];
            client.give_way();
        }
        self.room.set(count - 1);
        true
    }

    /// Whether it is time to log again that clients cannot be accepted.
    pub fn may_complain(&self, now: Instant) -> bool {
        let is_time = self.complained.get().is_none_or(|last| now - last >= COMPLAIN_EVERY);
        if is_time {
            self.complained.set(Some(now));
        }
        is_time
    }

    /// Wakes every connection to check its state.
    pub fn wake_all(&self) {
        for (_, client) in self.open.borrow().iter() {
            client.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::RESTED;
    use super::super::client::tests::{TIMEOUTS, client};
    use super::*;

    #[test]
    fn clients_that_have_waited_longest_give_way_and_busy_ones_never() {
        let start = Instant::now();
        let clients = Clients::default();
        let add = |age: u64, has_begun: bool| {
            let now = start - Duration::from_secs(age);
            let client = Rc::new(client(now));
            client.begin();
            client.end(now);
            if has_begun {
                client.received(now);
            }
            clients.add(&client);
            client
        };
        let [begun, old, young, busy] = [add(9, true), add(5, false), add(1, false), add(9, false)];
        busy.begin();
        let told = |client: &Client| client.take_order() == SweepAction::Close;
        assert!(clients.make_room());
        assert_eq!([&begun, &old, &young, &busy].map(|c| told(c)), [false, true, false, false]);
        assert!(clients.make_room());
        assert_eq!([&begun, &old, &young, &busy].map(|c| told(c)), [false, false, true, false]);
        assert!(clients.make_room());
        assert!(told(&begun));
        assert!(!clients.make_room(), "those that are told already make no more room");
    }

    #[test]
    fn only_idle_clients_give_way_to_a_connection_to_a_worker() {
        let now = Instant::now();
        let clients = Clients::default();
        let add = |age: Duration, has_asked: bool| {
            let client = Rc::new(client(now - age));
            if has_asked {
                client.begin();
                client.end(now - age);
            }
            clients.add(&client);
            client
        };
        let [fresh, young] = [add(2 * IDLE, false), add(IDLE / 2, true)];
        assert!(!clients.make_room_for_worker(now), "neither is idle");
        let idle = add(2 * IDLE, true);
        assert!(!clients.make_room_for_worker(now), "a moment later it is looked again");
        assert!(clients.make_room_for_worker(now + LOOK_EVERY));
        let told = [&fresh, &young, &idle].map(|client| client.take_order() == SweepAction::Close);
        assert_eq!(told, [false, false, true]);
    }

    #[test]
    fn who_knocks_while_all_are_busy_costs_no_look_at_all_of_them() {
        let now = Instant::now();
        let clients = Clients::default();
        let client = Rc::new(client(now));
        client.begin();
        clients.add(&client);
        assert!(!clients.make_room());
        client.end(now);
        assert!(!clients.make_room(), "that it has ended was not noted");
        clients.note_idle();
        assert!(clients.make_room());
        assert!(!clients.make_room());
        clients.add(&Rc::new(super::super::client::tests::client(now)));
        assert!(clients.make_room(), "one that has just come says nothing yet");
    }

    #[test]
    fn where_many_have_buffers_those_that_rest_give_them_back() {
        let start = Instant::now();
        let clients = Clients::default();
        let join = |now: Instant, is_busy: bool| {
            let client = Rc::new(client(now));
            client.begin();
            if !is_busy {
                client.end(now);
            }
            clients.unpark(&client, now);
            client
        };
        let parked = |client: &Rc<Client>| client.take_order() == SweepAction::Park;
        let busy: Vec<_> = (0..32).map(|_| join(start, true)).collect();
        let resting: Vec<_> = (32..MAX_WARM).map(|_| join(start, false)).collect();
        assert!(!busy.iter().chain(&resting).any(parked), "there is room for all");
        let fresh: Vec<_> = (0..32).map(|_| join(start, false)).collect();
        assert!(!busy.iter().chain(&resting).chain(&fresh).any(parked), "they may ask at once");
        let later = start + RESTED;
        let many: Vec<_> = (0..64).map(|_| join(later, false)).collect();
        let count = resting.iter().chain(&fresh).filter(|client| parked(client)).count();
        assert_eq!(count, 96, "as many as came too many");
        assert!(!busy.iter().chain(&many).any(parked), "none that works or has just done so");
        // A parked one has buffers again with its next request, and is checked again.
        resting[0].set_parked(true);
        clients.unpark(&resting[0], later);
        drop((busy, fresh, many, resting));
        (0..2 * MAX_WARM).for_each(|_| drop(join(later, false)));
        assert!(clients.warm.borrow().len() <= MAX_WARM, "those that have gone take no room");
    }

    #[test]
    fn a_crowd_is_looked_at_once_for_several() {
        let now = Instant::now();
        let clients = Clients::default();
        let crowd: Vec<Rc<Client>> = (0..80).map(|_| Rc::new(client(now))).collect();
        for client in &crowd {
            clients.add(client);
        }
        let told =
            || crowd.iter().filter(|client| client.take_order() == SweepAction::Close).count();
        for (asked, expected) in [(1, 10), (9, 0), (1, 8)] {
            (0..asked).for_each(|_| assert!(clients.make_room()));
            assert_eq!(told(), expected);
        }
    }

    #[test]
    fn a_client_that_cancels_as_fast_as_it_asks_is_closed() {
        let now = Instant::now();
        let (clients, client) = (Clients::default(), Rc::new(client(now)));
        clients.add(&client);
        (0..=MAX_CANCELLED).for_each(|_| client.cancel());
        clients.sweep(now, &TIMEOUTS, false);
        assert_eq!(client.take_order(), SweepAction::Abort);
        clients.sweep(now, &TIMEOUTS, false);
        assert_eq!(client.take_order(), SweepAction::None, "counted anew after each sweep");
    }
}
