//! The queue in front of the endpoints: bounded, first come first served, with a deadline.
//!
//! A request that finds every endpoint full waits here until there is room. A [`Permit`] that is
//! dropped hands its place to the first waiter that can use it, so no later request can take it in
//! between, and a request that waits for a busy model does not hold up others. Requests are grouped
//! by the endpoints that they may go to, never by the names that clients send, so the work per
//! request does not grow with the names in other requests.
//!
//! The queue absorbs bursts. A standing queue only delays every answer, so the time that requests
//! may wait in it is cut (as in `CoDel`: Nichols and Jacobson, "Controlling queue delay", 2012). It
//! is not cut while an endpoint is starting, because that one is worth waiting for.
//!
//! While there is room, the queue costs one atomic load, which shows that it is empty. The lock is
//! taken only when requests wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::endpoint::{Endpoint, EndpointId, Permit, Waiters};
use crate::snapshot::{Class, Snapshot};
use crate::wanted::{Refusal, Wanted};

/// In a standing queue, the time that a request may wait is divided by this.
const STANDING: u32 = 10;

/// Most late waiters refused before other work gets its turn: each refusal is an answer to write.
const SHED_AT_ONCE: usize = 16;

/// A place on an endpoint, or why there will be none.
type Turn = Result<Permit, Refusal>;

/// Where requests wait for room.
#[derive(Debug, Default)]
pub struct AdmissionQueue {
    queue: Mutex<Queue>,
    /// The length of the queue, readable without the lock.
    waiting: AtomicUsize,
    limit: usize,
    patience: Duration,
    /// The pool's current snapshot, whose endpoints refer to this queue.
    pool: Weak<ArcSwap<Snapshot>>,
}

/// The waiters, in order of arrival, grouped by the endpoints that they may go to.
#[derive(Debug, Default)]
struct Queue {
    waiters: BTreeMap<u64, Entry>,
    lines: BTreeMap<Class, BTreeSet<u64>>,
    /// Generation of the snapshot that `lines` was built for, and the first rank not yet in it.
    generation: u64,
    unsorted: u64,
    /// Number of requests that have ever waited; the rank of the next one.
    joined: u64,
    /// Since when the queue has been non-empty.
    since: Option<Instant>,
    /// Names of endpoints that are starting, and until when each is expected.
    expected: BTreeMap<Box<str>, Instant>,
}

/// One waiting request, seen from the queue.
#[derive(Debug)]
struct Entry {
    model: Option<Box<str>>,
    count: usize,
    key: Option<u64>,
    avoided: Box<[EndpointId]>,
    class: Option<Class>,
    joined: Instant,
    slot: Arc<Mutex<Handover>>,
}

/// What passes between a request and the queue: its waker, then its turn.
#[derive(Debug, Default)]
struct Handover {
    waker: Option<Waker>,
    turn: Option<Turn>,
}

/// One waiting request's place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub struct Waiter {
    queue: Arc<AdmissionQueue>,
    rank: u64,
    slot: Arc<Mutex<Handover>>,
}

/// The locked queue. Its length is published when it is unlocked, whatever happened in between.
struct LockedQueue<'a> {
    queue: MutexGuard<'a, Queue>,
    waiting: &'a AtomicUsize,
}

/// The waiters whose turn has come. Dropping this wakes them, even if handing out panics.
#[derive(Default)]
struct Served(Vec<Waker>);

impl AdmissionQueue {
    /// A queue in which `limit` requests may wait for the endpoints of a pool. Once the queue has
    /// been standing for `patience`, it is kept short.
    pub(crate) fn new(limit: usize, patience: Duration, pool: Weak<ArcSwap<Snapshot>>) -> Self {
        Self { queue: Mutex::default(), waiting: AtomicUsize::new(0), limit, patience, pool }
    }

    /// Number of waiting requests.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Announces that the endpoint `name` should be ready by `until`; `None` if it has arrived or
    /// is no longer expected.
    pub(crate) fn expect(&self, name: &str, until: Option<Instant>) {
        let mut queue = self.hold();
        match until {
            Some(until) => drop(queue.expected.insert(name.into(), until)),
            None => drop(queue.expected.remove(name)),
        }
        // Waiters with nothing else to wait for are refused when the queue is sorted next.
        queue.unsorted = 0;
    }

    /// Whether an endpoint is starting.
    pub(crate) fn expects(&self, now: Instant) -> bool {
        self.hold().expected.values().any(|until| now < *until)
    }

    /// Joins the end of the queue; `None` if it is full. Room that became free just before has not
    /// been offered to this waiter, so [`AdmissionQueue::serve`] has to follow: see
    /// [`crate::View::queue`].
    pub(crate) fn join(self: &Arc<Self>, wanted: &Wanted<'_>, now: Instant) -> Option<Waiter> {
        // Joins before the caller looks for room: a thread that frees some later sees the waiter.
        let mut queue = self.hold();
        if queue.waiters.len() >= self.limit {
            return None;
        }
        let slot = Arc::default();
        let rank = queue.add(wanted, Arc::clone(&slot), now);
        drop(queue);
        Some(Waiter { queue: Arc::clone(self), rank, slot })
    }

    /// Hands out all free room in the order of arrival; `take` chooses one of the endpoints that a
    /// request may go to. Call it after joining, and when endpoints were added or take more.
    /// Refuses only a few of the requests that have waited too long; returns whether more are left.
    #[inline]
    pub fn serve(
        &self,
        now: Instant,
        take: impl FnMut(&[Arc<Endpoint>], &Wanted<'_>) -> Option<Permit>,
    ) -> bool {
        if self.waiting() == 0 {
            return false;
        }
        let Some(pool) = self.pool.upgrade() else { return false };
        let mut served = Served::default();
        let mut queue = self.hold();
        // Loaded while the queue is locked, so that the latest one counts.
        let snapshot = pool.load_full();
        queue.expect_no_longer(now);
        let some_are_late = queue.shed_late(now, self.patience, &mut served);
        queue.sort(&snapshot, &mut served);
        queue.hand_out(&snapshot, take, &mut served);
        drop(queue);
        some_are_late
    }

    fn hold(&self) -> LockedQueue<'_> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        LockedQueue { queue, waiting: &self.waiting }
    }
}

impl Waiters for AdmissionQueue {
    #[inline]
    fn waiting(&self) -> usize {
        self.waiting()
    }

    #[cold]
    fn pass_on(&self, endpoint: &Arc<Endpoint>) {
        let Some(pool) = self.pool.upgrade() else { return };
        let mut served = Served::default();
        let mut queue = self.hold();
        let snapshot = pool.load_full();
        queue.sort(&snapshot, &mut served);
        queue.offer(&snapshot, endpoint, &mut served);
        drop(queue);
    }
}

impl Queue {
    fn add(&mut self, wanted: &Wanted<'_>, slot: Arc<Mutex<Handover>>, now: Instant) -> u64 {
        let rank = self.joined;
        self.joined += 1;
        self.since.get_or_insert(now);
        let model = wanted.model.map(Box::from);
        let (count, key, avoided) = (wanted.count, wanted.key, Box::from(wanted.avoided));
        let entry = Entry { model, count, key, avoided, class: None, joined: now, slot };
        self.waiters.insert(rank, entry);
        rank
    }

    /// Takes a request out, if it is still there.
    fn remove(&mut self, rank: u64) -> Option<Entry> {
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

    /// Forgets expectations that were not met in time.
    fn expect_no_longer(&mut self, now: Instant) {
        let count = self.expected.len();
        self.expected.retain(|_, until| now < *until);
        if self.expected.len() < count {
            self.unsorted = 0;
        }
    }

    /// Refuses some of the waiters that have waited too long in a standing queue; returns whether
    /// more are left. While an endpoint is starting, the queue does not count as standing.
    fn shed_late(&mut self, now: Instant, patience: Duration, served: &mut Served) -> bool {
        if !self.expected.is_empty() {
            self.since = self.since.map(|_| now);
        }
        for _ in 0..SHED_AT_ONCE {
            let Some(rank) = self.first_late(now, patience) else { return false };
            self.end(rank, Err(Refusal::Overloaded), served);
        }
        self.first_late(now, patience).is_some()
    }

    /// The first waiter, if it has waited too long in a standing queue.
    fn first_late(&self, now: Instant, patience: Duration) -> Option<u64> {
        let stood = now.saturating_duration_since(self.since?);
        let (rank, first) = self.waiters.first_key_value()?;
        let waited = now.saturating_duration_since(first.joined);
        (stood > patience && waited > patience / STANDING).then_some(*rank)
    }

    /// Sorts the waiters that joined since the last call into their groups, or all of them if the
    /// groups changed.
    fn sort(&mut self, snapshot: &Snapshot, served: &mut Served) {
        if self.generation != snapshot.generation() {
            self.generation = snapshot.generation();
            self.unsorted = 0;
            self.lines.clear();
        }
        let mut in_vain = Vec::new();
        for (rank, waiter) in self.waiters.range_mut(self.unsorted..) {
            match waiter.wanted().class(snapshot) {
                Ok(class) => {
                    waiter.class = Some(class);
                    self.lines.entry(class).or_default().insert(*rank);
                }
                Err(refusal) => {
                    waiter.class = None;
                    // All are sorted again when the expected endpoint arrives.
                    if self.expected.is_empty() || !refusal.ends_with_a_start() {
                        in_vain.push((*rank, refusal));
                    }
                }
            }
        }
        self.unsorted = self.joined;
        for (rank, refusal) in in_vain {
            self.end(rank, Err(refusal), served);
        }
    }

    /// Gives the room of one endpoint to the waiters that may go to it, first come first served.
    fn offer(&mut self, snapshot: &Snapshot, endpoint: &Arc<Endpoint>, served: &mut Served) {
        let id = endpoint.id();
        while endpoint.has_room() {
            let lines = self.lines.iter().filter(|(class, _)| snapshot.takes(id, **class));
            let avoids = |rank: &u64| self.waiters[rank].avoided.contains(&id);
            let first = lines.filter_map(|(_, line)| line.iter().find(|rank| !avoids(rank))).min();
            let Some(rank) = first.copied() else { return };
            let Some(permit) = endpoint.try_go_on() else { return };
            self.end(rank, Ok(permit), served);
        }
    }

    /// Serves the waiter that came first, then the first of those that wait for other endpoints,
    /// until no waiter can be served.
    fn hand_out(
        &mut self,
        snapshot: &Snapshot,
        mut take: impl FnMut(&[Arc<Endpoint>], &Wanted<'_>) -> Option<Permit>,
        served: &mut Served,
    ) {
        let first = |(class, line): (&Class, &BTreeSet<u64>)| Some((*line.first()?, *class));
        let mut fronts: BTreeMap<u64, Class> = self.lines.iter().filter_map(first).collect();
        let mut full_before = HashMap::new();
        while let Some((rank, class)) = fronts.pop_first() {
            let full = full_before.entry(class.set).or_insert_with(|| {
                let set = snapshot.set(class.set);
                set.iter().position(|endpoint| endpoint.has_room()).unwrap_or(set.len())
            });
            let Some(waiter) = self.waiters.get(&rank).filter(|_| class.first > *full) else {
                continue;
            };
            let taken = take(snapshot.class(class), &waiter.wanted());
            // A waiter that avoids the endpoints with room keeps waiting; the next in line is
            // tried.
            if taken.is_none() && waiter.avoided.is_empty() {
                continue;
            }
            let next = self.lines.get(&class).and_then(|line| line.range(rank + 1..).next());
            fronts.extend(next.map(|next| (*next, class)));
            if let Some(permit) = taken {
                self.end(rank, Ok(permit), served);
                full_before.clear();
            }
        }
    }
}

impl Entry {
    fn wanted(&self) -> Wanted<'_> {
        let (model, avoided) = (self.model.as_deref(), &*self.avoided);
        Wanted { model, count: self.count, key: self.key, avoided }
    }

    /// Hands the request its turn; returns the waker to wake.
    fn hand_over(&self, turn: Turn) -> Option<Waker> {
        let mut slot = locked(&self.slot);
        slot.turn = Some(turn);
        slot.waker.take()
    }
}

fn locked(slot: &Mutex<Handover>) -> MutexGuard<'_, Handover> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deref for LockedQueue<'_> {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        &self.queue
    }
}

impl DerefMut for LockedQueue<'_> {
    fn deref_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }
}

impl Drop for LockedQueue<'_> {
    fn drop(&mut self) {
        self.waiting.store(self.queue.waiters.len(), SeqCst);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

impl Waiter {
    /// This request's turn, if it has come; otherwise `waker` is woken when it does.
    pub fn take_turn(&self, waker: &Waker) -> Option<Turn> {
        let mut slot = locked(&self.slot);
        let turn = slot.turn.take();
        if turn.is_none() {
            slot.waker = Some(waker.clone());
        }
        turn
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        drop(self.queue.hold().remove(self.rank));
        // A turn that came too late: dropping it hands its room on, which locks the queue.
        let turn = locked(&self.slot).turn.take();
        drop(turn);
    }
}

#[cfg(test)]
mod tests;
