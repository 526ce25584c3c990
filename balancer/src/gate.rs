//! The queue in front of the endpoints: bounded, first come first served, with a deadline.
//!
//! A request that finds every endpoint full waits here until there is room. Whoever makes room
//! looks who comes first among those it is good for, and hands the place over: nobody who came
//! later can take it in between, and a request that waits for one busy model holds up no other.
//! Requests are told apart by the endpoints that they may go to, never by the names that clients
//! wrote, so the work for each does not grow with what the others named.
//! The queue is for bursts. One that stands is of no use to anybody, it only makes all answers late,
//! so it is then kept short (as `CoDel` does it: Nichols and Jacobson, "Controlling queue delay", 2012).
//! Nothing of this costs anything while there is room: then the queue is known to be empty by one
//! atomic load. The lock is only taken when requests wait anyway.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::ProxyError;
use crate::lane::Wanted;
use crate::upstream::{Class, EndpointId, InFlight};

/// In a queue that stands, a request may wait this many times shorter.
const STANDING: u32 = 10;

/// A place on an endpoint, or why there will be none.
type Turn = Result<InFlight, ProxyError>;

/// Where requests may go, at one moment.
pub trait Openings {
    /// Changes whenever an answer of [`Self::class`] may.
    fn generation(&self) -> u64;
    /// Which endpoints a request waits for; an error if it waits in vain.
    fn class(&self, wanted: &Wanted<'_>) -> Result<Class, ProxyError>;
    /// How many endpoints come before the first of a set that has room.
    fn full_before(&self, set: usize) -> usize;
    /// Takes room on one endpoint of a class.
    fn take(&self, class: Class, wanted: &Wanted<'_>) -> Option<InFlight>;
}

/// Where requests wait for room.
#[derive(Debug)]
pub struct Gate {
    queue: Mutex<Queue>,
    /// The length of the queue, for who does not hold it.
    waiting: AtomicUsize,
    limit: usize,
    patience: Duration,
}

/// Those who wait, in the order in which they came, and apart by where they may go.
#[derive(Debug, Default)]
struct Queue {
    waiters: BTreeMap<u64, Waiter>,
    lines: BTreeMap<Class, BTreeSet<u64>>,
    /// Which openings the lines are made for, and from which rank on they are not made yet.
    generation: u64,
    unsorted: u64,
    /// Requests that ever waited: the rank of the next.
    joined: u64,
    /// Since when the queue has not been empty.
    since: Option<Instant>,
}

/// One waiting request, seen from the gate.
#[derive(Debug)]
struct Waiter {
    model: Option<Box<str>>,
    count: usize,
    key: Option<u64>,
    avoided: Box<[EndpointId]>,
    class: Option<Class>,
    joined: Instant,
    slot: Arc<Mutex<Slot>>,
}

/// What a request left for the gate, or the gate for the request.
#[derive(Debug, Default)]
struct Slot {
    waker: Option<Waker>,
    turn: Option<Turn>,
}

/// One waiting request's place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub struct Place<'a> {
    gate: &'a Gate,
    rank: u64,
    slot: Arc<Mutex<Slot>>,
}

/// The queue while it is held. Whatever happens meanwhile, its length is told in the end.
struct Held<'a> {
    queue: MutexGuard<'a, Queue>,
    waiting: &'a AtomicUsize,
}

/// Those whose turn has come. They are woken in the end, also if handing out comes to a bad one.
#[derive(Default)]
struct Served(Vec<Waker>);

impl Gate {
    /// A gate at which `limit` requests may wait. A queue that has stood for as long as `patience`
    /// is kept short.
    pub fn new(limit: usize, patience: Duration) -> Self {
        Self { queue: Mutex::default(), waiting: AtomicUsize::new(0), limit, patience }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Joins the queue at its end, unless it is too long. Room that was made a moment ago was made
    /// for nobody: [`Gate::serve`] has to follow.
    pub fn join(&self, wanted: &Wanted<'_>, now: Instant) -> Option<Place<'_>> {
        // Before the caller looks for room: whoever makes some from then on sees that it is awaited.
        let mut queue = self.hold();
        if queue.waiters.len() >= self.limit {
            return None;
        }
        let slot = Arc::default();
        let rank = queue.add(wanted, Arc::clone(&slot), now);
        Some(Place { gate: self, rank, slot })
    }

    /// Hands out all the room there is, to each who waits in turn. Due after every request that
    /// leaves an endpoint, and when endpoints came or changed.
    #[inline]
    pub fn serve<O: Openings>(&self, now: Instant, openings: impl FnOnce() -> O) {
        if self.waiting() == 0 {
            return;
        }
        let mut served = Served::default();
        let mut queue = self.hold();
        // Asked for while the queue is held, so that the latest counts.
        let openings = openings();
        queue.shed_late(now, self.patience, &mut served);
        queue.sort(&openings, &mut served);
        queue.hand_out(&openings, &mut served);
        drop(queue);
    }

    fn hold(&self) -> Held<'_> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        Held { queue, waiting: &self.waiting }
    }
}

impl Queue {
    fn add(&mut self, wanted: &Wanted<'_>, slot: Arc<Mutex<Slot>>, now: Instant) -> u64 {
        let rank = self.joined;
        self.joined += 1;
        self.since.get_or_insert(now);
        let model = wanted.model.map(Box::from);
        let (count, key, avoided) = (wanted.count, wanted.key, Box::from(wanted.avoided));
        let waiter = Waiter { model, count, key, avoided, class: None, joined: now, slot };
        self.waiters.insert(rank, waiter);
        rank
    }

    /// Takes a request out, if it is still there.
    fn remove(&mut self, rank: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&rank)?;
        if let Some(class) = waiter.class
            && let Some(line) = self.lines.get_mut(&class)
        {
            line.remove(&rank);
            if line.is_empty() {
                self.lines.remove(&class);
            }
        }
        if self.waiters.is_empty() {
            self.since = None;
        }
        Some(waiter)
    }

    fn end(&mut self, rank: u64, turn: Turn, served: &mut Served) {
        if let Some(waiter) = self.remove(rank) {
            served.0.extend(waiter.hand_over(turn));
        }
    }

    /// Turns away those who have waited too long for a queue that stands.
    fn shed_late(&mut self, now: Instant, patience: Duration, served: &mut Served) {
        let stands = |since: Instant| now.saturating_duration_since(since) > patience;
        while self.since.is_some_and(stands)
            && let Some((rank, first)) = self.waiters.first_key_value()
            && now.saturating_duration_since(first.joined) > patience / STANDING
        {
            self.end(*rank, Err(ProxyError::Overloaded), served);
        }
    }

    /// Puts those who came since the last time into their lines, or all of them if these changed.
    fn sort(&mut self, openings: &impl Openings, served: &mut Served) {
        if self.generation != openings.generation() {
            self.generation = openings.generation();
            self.unsorted = 0;
            self.lines.clear();
        }
        let mut in_vain = Vec::new();
        for (rank, waiter) in self.waiters.range_mut(self.unsorted..) {
            match openings.class(&waiter.wanted()) {
                Ok(class) => {
                    waiter.class = Some(class);
                    self.lines.entry(class).or_default().insert(*rank);
                }
                Err(error) => {
                    waiter.class = None;
                    in_vain.push((*rank, error));
                }
            }
        }
        self.unsorted = self.joined;
        for (rank, error) in in_vain {
            self.end(rank, Err(error), served);
        }
    }

    /// Serves whoever came first, then whoever is first among those that are left for other
    /// endpoints, until there is room for nobody.
    fn hand_out(&mut self, openings: &impl Openings, served: &mut Served) {
        let first = |(class, line): (&Class, &BTreeSet<u64>)| Some((*line.first()?, *class));
        let mut fronts: BTreeMap<u64, Class> = self.lines.iter().filter_map(first).collect();
        let mut full_before = HashMap::new();
        while let Some((rank, class)) = fronts.pop_first() {
            let full =
                full_before.entry(class.set).or_insert_with(|| openings.full_before(class.set));
            let Some(waiter) = self.waiters.get(&rank).filter(|_| class.first > *full) else {
                continue;
            };
            let taken = openings.take(class, &waiter.wanted());
            // Whoever avoids what has room goes on waiting, and lets the next in its line have it.
            if taken.is_none() && waiter.avoided.is_empty() {
                continue;
            }
            let next = self.lines.get(&class).and_then(|line| line.range(rank + 1..).next());
            fronts.extend(next.map(|next| (*next, class)));
            if let Some(in_flight) = taken {
                self.end(rank, Ok(in_flight), served);
                full_before.clear();
            }
        }
    }
}

impl Waiter {
    fn wanted(&self) -> Wanted<'_> {
        let (model, avoided) = (self.model.as_deref(), &*self.avoided);
        Wanted { model, count: self.count, key: self.key, avoided }
    }

    /// Leaves the request its turn; gives whom to wake.
    fn hand_over(&self, turn: Turn) -> Option<Waker> {
        let mut slot = locked(&self.slot);
        slot.turn = Some(turn);
        slot.waker.take()
    }
}

fn locked(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deref for Held<'_> {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        &self.queue
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.waiting.store(self.queue.waiters.len(), SeqCst);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

impl Place<'_> {
    /// This request's turn, once it has come; until then `waker` is woken when it does.
    pub fn take_turn(&self, waker: &Waker) -> Option<Turn> {
        let mut slot = locked(&self.slot);
        let turn = slot.turn.take();
        if turn.is_none() {
            slot.waker = Some(waker.clone());
        }
        turn
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        drop(self.gate.hold().remove(self.rank));
        // A turn that came too late: its room is free again, and whoever drops this serves others.
        drop(locked(&self.slot).turn.take());
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
