//! The queue in front of the endpoints: bounded, first come first served, with a deadline.
//!
//! A request that finds every endpoint full waits here until there is room. Whoever makes room
//! looks who comes first among those it is good for, and hands the place over: nobody who came
//! later can take it in between, and a request that waits for one busy model holds up no other.
//! The queue is for bursts. One that stands is of no use to anybody, it only makes all answers late,
//! so it is then kept short (as `CoDel` does it: Nichols and Jacobson, "Controlling queue delay", 2012).
//! Nothing of this costs anything while there is room: then the queue is known to be empty by one
//! atomic load. The lock is only taken when requests wait anyway.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::ProxyError;
use crate::lane::{Refusal, Wanted};
use crate::upstream::InFlight;

/// In a queue that stands, a request may wait this many times shorter.
const STANDING: u32 = 10;

/// A place on an endpoint, or why there will be none.
type Turn = Result<InFlight, ProxyError>;

/// Where requests wait for room.
#[derive(Debug)]
pub struct Gate {
    lines: Mutex<Lines>,
    waiting: AtomicUsize,
    limit: usize,
    patience: Duration,
}

/// Those who wait, apart by what they wait for.
#[derive(Debug, Default)]
struct Lines {
    lines: Vec<Line>,
    /// Requests that ever waited: the rank of the next.
    joined: u64,
}

/// Requests that any endpoint is equally good for; never empty.
#[derive(Debug)]
struct Line {
    model: Option<Box<str>>,
    count: usize,
    /// Since when somebody has been waiting.
    since: Instant,
    tickets: VecDeque<Arc<Ticket>>,
}

/// One waiting request, seen from the gate.
#[derive(Debug)]
struct Ticket {
    rank: u64,
    key: u64,
    joined: Instant,
    slot: Mutex<Slot>,
}

/// What its request left for the gate, or the gate for the request.
#[derive(Debug, Default)]
struct Slot {
    waker: Option<Waker>,
    turn: Option<Turn>,
}

/// One waiting request's place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub struct Place<'a> {
    gate: &'a Gate,
    ticket: Arc<Ticket>,
}

impl Gate {
    /// A gate at which `limit` requests may wait. A queue that has stood for as long as `patience`
    /// is kept short.
    pub fn new(limit: usize, patience: Duration) -> Self {
        Self { lines: Mutex::default(), waiting: AtomicUsize::new(0), limit, patience }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Joins the queue at its end, unless it is too long. Room that was made a moment ago was made
    /// for nobody: [`Gate::serve`] has to follow.
    pub fn join(&self, wanted: &Wanted<'_>, now: Instant) -> Option<Place<'_>> {
        let mut lines = self.lines();
        if self.waiting() >= self.limit {
            return None;
        }
        let rank = lines.joined;
        let slot = Mutex::default();
        let ticket = Arc::new(Ticket { rank, key: wanted.key, joined: now, slot });
        lines.joined += 1;
        lines.line(wanted, now).tickets.push_back(Arc::clone(&ticket));
        // Before the caller looks for room: whoever makes some from now on sees that it is awaited.
        self.waiting.fetch_add(1, SeqCst);
        drop(lines);
        Some(Place { gate: self, ticket })
    }

    /// Hands out all the room there is, to each who waits in turn. Due after every request that
    /// leaves an endpoint, and when endpoints came or changed.
    #[inline]
    pub fn serve(&self, now: Instant, pick: impl FnMut(&Wanted<'_>) -> Result<InFlight, Refusal>) {
        if self.waiting() == 0 {
            return;
        }
        let mut lines = self.lines();
        let served = lines.serve(pick, |line, ticket| {
            now.saturating_duration_since(line.since) > self.patience
                && now.saturating_duration_since(ticket.joined) > self.patience / STANDING
        });
        self.waiting.fetch_sub(served.len(), SeqCst);
        drop(lines);
        for waker in served.into_iter().flatten() {
            waker.wake();
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn line(&mut self, wanted: &Wanted<'_>, now: Instant) -> &mut Line {
        let same =
            |line: &Line| line.model.as_deref() == wanted.model && line.count == wanted.count;
        let position = self.lines.iter().position(same).unwrap_or_else(|| {
            let model = wanted.model.map(Box::from);
            let tickets = VecDeque::new();
            self.lines.push(Line { model, count: wanted.count, since: now, tickets });
            self.lines.len() - 1
        });
        &mut self.lines[position]
    }

    /// Serves whoever came first, then whoever is first among those that are left for other
    /// endpoints, until nobody can be served. Tells whom to wake.
    fn serve(
        &mut self,
        mut pick: impl FnMut(&Wanted<'_>) -> Result<InFlight, Refusal>,
        waited_too_long: impl Fn(&Line, &Ticket) -> bool,
    ) -> Vec<Option<Waker>> {
        let mut served = Vec::new();
        // Where the latest who could not be served stood: only those behind are left.
        let mut stuck: Vec<usize> = Vec::new();
        loop {
            let front = |(_, line): &(usize, &Line)| line.tickets.front().map(|first| first.rank);
            let lines = self.lines.iter().enumerate();
            let next = lines.filter(|(at, _)| !stuck.contains(at)).min_by_key(front);
            let Some((at, line)) = next else { break };
            let Some(ticket) = line.tickets.front() else { break };
            let wanted =
                Wanted { model: line.model.as_deref(), count: line.count, key: ticket.key };
            let turn = if waited_too_long(line, ticket) {
                Err(ProxyError::Overloaded)
            } else {
                match pick(&wanted) {
                    Ok(in_flight) => Ok(in_flight),
                    Err(Refusal::Final(error)) => Err(error),
                    Err(Refusal::Busy) => {
                        stuck.push(at);
                        continue;
                    }
                }
            };
            served.push(ticket.hand_over(turn));
            self.lines[at].tickets.pop_front();
            if self.lines[at].tickets.is_empty() {
                self.lines.remove(at);
                stuck.iter_mut().filter(|other| **other > at).for_each(|other| *other -= 1);
            }
        }
        served
    }

    /// Takes a ticket out; false if it was not there any more.
    fn leave(&mut self, ticket: &Arc<Ticket>) -> bool {
        for (at, line) in self.lines.iter_mut().enumerate() {
            let found = line.tickets.iter().position(|other| Arc::ptr_eq(other, ticket));
            if let Some(position) = found {
                line.tickets.remove(position);
                if line.tickets.is_empty() {
                    self.lines.remove(at);
                }
                return true;
            }
        }
        false
    }
}

impl Ticket {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the request its turn; gives whom to wake.
    fn hand_over(&self, turn: Turn) -> Option<Waker> {
        let mut slot = self.slot();
        slot.turn = Some(turn);
        slot.waker.take()
    }
}

impl Place<'_> {
    /// This request's turn, once it has come; until then `waker` is woken when it does.
    pub fn take_turn(&self, waker: &Waker) -> Option<Turn> {
        let mut slot = self.ticket.slot();
        let turn = slot.turn.take();
        if turn.is_none() {
            slot.waker = Some(waker.clone());
        }
        turn
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lines = self.gate.lines();
        if lines.leave(&self.ticket) {
            self.gate.waiting.fetch_sub(1, SeqCst);
        }
        drop(lines);
        // A turn that came too late: its room is free again, and whoever drops this serves others.
        drop(self.ticket.slot().turn.take());
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
