//! Answers that wait for their clients to read them, and the memory that they use.
//!
//! An endpoint is done with such an answer, or nearly so; the rest is between the balancer and a
//! client that may be slow, or may never read. Each client may take its time as long as it keeps
//! reading. All answers together may use a bounded amount of memory: when it is used up, those
//! whose clients have stalled the longest are given up first.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;
use tokio::task::Id;
use tokio::time::Instant;

use super::Client;

/// An answer of which nothing is taken for this long is given up.
const MAX_STALLED: Duration = Duration::from_secs(30);
/// The same, when memory is short.
const STALLED: Duration = Duration::from_secs(1);

/// The answers of one thread that wait for their clients.
#[derive(Debug)]
pub struct Backlog {
    waiting: RefCell<Slab<Waiting>>,
    held: Cell<usize>,
    limit: usize,
    /// Answers that were given up.
    given_up: Cell<u64>,
    /// When an attempt to make room was last made.
    looked_at: Cell<Option<Instant>>,
}

/// One answer that waits for its client to read.
#[derive(Debug)]
struct Waiting {
    client: Rc<Client>,
    /// The task that sends it, if its connection carries others too.
    stream: Option<Id>,
    held: usize,
    /// How many of these bytes the client's connection was handed last; they may still wait there.
    handed: usize,
    /// When the client last took some of it.
    since: Instant,
    is_given_up: bool,
}

impl Backlog {
    /// An empty backlog, for `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            waiting: RefCell::default(),
            held: Cell::new(0),
            limit,
            given_up: Cell::new(0),
            looked_at: Cell::new(None),
        }
    }

    /// Adds an answer of which `held` bytes have arrived; returns the key for all other calls.
    pub fn add(&self, client: &Rc<Client>, held: usize, now: Instant) -> usize {
        let stream = if client.is_multiplexed() { tokio::task::try_id() } else { None };
        let client = Rc::clone(client);
        let waiting =
            Waiting { client, stream, held: 0, handed: 0, since: now, is_given_up: false };
        let key = self.waiting.borrow_mut().insert(waiting);
        self.hold(key, held, now);
        key
    }

    /// Forgets an answer that was taken, or whose client is gone.
    pub fn remove(&self, key: usize) {
        let waiting = self.waiting.borrow_mut().remove(key);
        self.held.set(self.held.get() - waiting.held);
    }

    /// Notes that this many more bytes of an answer have arrived.
    pub fn hold(&self, key: usize, bytes: usize, now: Instant) {
        self.waiting.borrow_mut()[key].held += bytes;
        self.held.set(self.held.get() + bytes);
        // At most once per reading of the clock, because it scans all answers.
        if !self.has_room() && self.looked_at.replace(Some(now)) != Some(now) {
            self.make_room(now);
        }
    }

    /// Notes that the client's connection takes this many bytes of an answer, because it has sent
    /// the previous ones.
    pub fn took(&self, key: usize, bytes: usize, now: Instant) {
        let mut waiting = self.waiting.borrow_mut();
        let answer = &mut waiting[key];
        answer.since = now;
        let rid = std::mem::replace(&mut answer.handed, bytes);
        // What was given up no longer counts.
        let rid = rid.min(answer.held);
        answer.held -= rid;
        self.held.set(self.held.get() - rid);
    }

    /// Whether more may be held.
    pub fn has_room(&self) -> bool {
        self.held.get() < self.limit
    }

    /// Gives up an answer that its client does not take.
    pub fn give_up(&self, key: usize) {
        let victim = self.condemn(&mut self.waiting.borrow_mut()[key]);
        // Only now that nothing is borrowed: what this ends or wakes may access the backlog.
        reset(victim);
    }

    /// Gives up answers of which nothing was taken for too long.
    pub fn sweep(&self, now: Instant) {
        if !self.has_room() {
            self.make_room(now);
        }
        self.give_up_all(|answer| now.saturating_duration_since(answer.since) >= MAX_STALLED);
    }

    /// Number of answers given up since the last call.
    pub fn take_given_up(&self) -> u64 {
        self.given_up.take()
    }

    /// Gives up stalled answers, the longest stalled first, until a quarter of the memory is free.
    fn make_room(&self, now: Instant) {
        let waiting = self.waiting.borrow();
        let age = |answer: &Waiting| now.saturating_duration_since(answer.since);
        let mut stalled: Vec<(Duration, usize)> = waiting
            .iter()
            .map(|(_, answer)| answer)
            .filter(|answer| answer.held > 0 && age(answer) >= STALLED)
            .map(|answer| (age(answer), answer.held))
            .collect();
        drop(waiting);
        stalled.sort_unstable_by_key(|(age, _)| std::cmp::Reverse(*age));
        let mut left = self.held.get();
        let until = stalled.iter().take_while(|(_, held)| {
            let is_needed = left > self.limit / 4 * 3;
            left -= held;
            is_needed
        });
        if let Some((youngest, _)) = until.last().copied() {
            self.give_up_all(|answer| answer.held > 0 && age(answer) >= youngest);
        }
    }

    fn give_up_all(&self, is_meant: impl Fn(&Waiting) -> bool) {
        let mut waiting = self.waiting.borrow_mut();
        let meant = waiting.iter_mut().map(|(_, answer)| answer);
        let meant = meant.filter(|answer| !answer.is_given_up && is_meant(answer));
        let victims: Vec<Victim> = meant.map(|answer| self.condemn(answer)).collect();
        drop(waiting);
        victims.into_iter().for_each(reset);
    }

    /// Marks an answer as given up; it no longer counts.
    fn condemn(&self, answer: &mut Waiting) -> Victim {
        self.held.set(self.held.get() - answer.held);
        self.given_up.set(self.given_up.get() + u64::from(!answer.is_given_up));
        answer.held = 0;
        answer.is_given_up = true;
        (Rc::clone(&answer.client), answer.stream)
    }
}

/// A client, and which of its answers it does not take.
type Victim = (Rc<Client>, Option<Id>);

fn reset((client, stream): Victim) {
    client.reset(stream);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::headers::Origin;
    use crate::shard::SweepAction;

    fn client(now: Instant) -> Rc<Client> {
        let origin = Origin::new(HeaderValue::from_static("192.0.2.1"), "http", false);
        Rc::new(Client::new(origin, now))
    }

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn an_answer_of_which_nothing_is_taken_is_given_up_and_one_that_moves_is_not() {
        let start = Instant::now();
        let (backlog, still, slow) = (Backlog::new(1000), client(start), client(start));
        backlog.add(&still, 10, start);
        let moving = backlog.add(&slow, 10, start);
        backlog.took(moving, 1, after(start, 20_000));
        backlog.sweep(after(start, 29_000));
        assert_eq!((still.take_order(), slow.take_order()), (SweepAction::None, SweepAction::None));
        backlog.sweep(after(start, 30_000));
        assert_eq!(
            (still.take_order(), slow.take_order()),
            (SweepAction::Abort, SweepAction::None)
        );
        backlog.sweep(after(start, 50_000));
        assert_eq!(slow.take_order(), SweepAction::Abort);
        assert_eq!(backlog.take_given_up(), 2);
    }

    #[test]
    fn when_memory_is_short_those_go_first_who_stood_still_for_longest() {
        let start = Instant::now();
        let backlog = Backlog::new(1000);
        let clients: Vec<_> = (0..5).map(|_| client(start)).collect();
        for (second, client) in (0..).zip(&clients) {
            backlog.add(client, 240, after(start, second * 1000));
        }
        let orders: Vec<_> = clients.iter().map(|client| client.take_order()).collect();
        let closed = [
            SweepAction::Abort,
            SweepAction::Abort,
            SweepAction::None,
            SweepAction::None,
            SweepAction::None,
        ];
        assert_eq!(orders, closed);
        assert!(backlog.has_room());
    }

    #[test]
    fn who_reads_is_not_given_up_however_little_memory_is_left() {
        let start = Instant::now();
        let (backlog, client) = (Backlog::new(100), client(start));
        let key = backlog.add(&client, 0, start);
        for milliseconds in 1..2000 {
            backlog.hold(key, 100, after(start, milliseconds));
            assert!(!backlog.has_room());
            backlog.took(key, 100, after(start, milliseconds));
        }
        assert_eq!(client.take_order(), SweepAction::None);
        backlog.remove(key);
        assert_eq!(backlog.held.get(), 0);
    }

    #[test]
    fn what_was_given_up_is_not_counted_back_twice() {
        let start = Instant::now();
        let (backlog, client) = (Backlog::new(100), client(start));
        let key = backlog.add(&client, 90, start);
        backlog.give_up(key);
        assert_eq!(backlog.held.get(), 0);
        backlog.took(key, 50, start);
        backlog.took(key, 40, start);
        backlog.remove(key);
        assert_eq!((backlog.held.get(), backlog.take_given_up()), (0, 1));
    }
}
