//! The queue in front of the endpoints: bounded, first come first served, with a deadline.
//!
//! A request that finds every endpoint full waits here until another request ends. Nothing of this
//! costs anything while there is room: then the queue is known to be empty by one atomic load. The
//! lock is only taken when requests wait anyway.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// Where requests wait for room.
#[derive(Debug)]
pub struct Gate {
    line: Mutex<VecDeque<Arc<Ticket>>>,
    waiting: AtomicUsize,
    limit: usize,
}

/// One waiting request, seen from the gate.
#[derive(Debug, Default)]
struct Ticket {
    waker: Mutex<Option<Waker>>,
    is_called: AtomicBool,
}

/// One waiting request's place in the line; leaving it early lets the others move up.
#[derive(Debug)]
pub struct Place<'a> {
    gate: &'a Gate,
    ticket: Arc<Ticket>,
    is_served: bool,
}

impl Gate {
    /// A gate at which `limit` requests may wait.
    pub fn new(limit: usize) -> Self {
        Self { line: Mutex::default(), waiting: AtomicUsize::new(0), limit }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Joins the line at its end, unless it is too long.
    pub fn join(&self) -> Option<Place<'_>> {
        let mut line = self.line();
        if line.len() >= self.limit {
            return None;
        }
        let ticket = Arc::new(Ticket::default());
        line.push_back(Arc::clone(&ticket));
        self.waiting.store(line.len(), SeqCst);
        drop(line);
        Some(Place { gate: self, ticket, is_served: false })
    }

    /// Room was made for one: calls the first in the line.
    pub fn call_next(&self) {
        if self.waiting() == 0 {
            return;
        }
        let mut line = self.line();
        let next = line.pop_front();
        self.waiting.store(line.len(), SeqCst);
        drop(line);
        if let Some(ticket) = next {
            ticket.is_called.store(true, SeqCst);
            let waker = ticket.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, VecDeque<Arc<Ticket>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Whether it is this request's turn; if not, `waker` is woken when it is.
    pub fn is_called(&self, waker: &Waker) -> bool {
        if self.ticket.is_called.load(SeqCst) {
            return true;
        }
        let mut known = self.ticket.waker.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(waker.clone());
        drop(known);
        // It may have been called in between, before the waker was known.
        self.ticket.is_called.load(SeqCst)
    }

    /// The turn brought nothing: back to the front of the line.
    pub fn wait_on(&self) {
        if self.ticket.is_called.swap(false, SeqCst) {
            let mut line = self.gate.line();
            line.push_front(Arc::clone(&self.ticket));
            self.gate.waiting.store(line.len(), SeqCst);
        }
    }

    /// The request got what it waited for.
    pub fn serve(mut self) {
        self.is_served = true;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut line = self.gate.line();
        line.retain(|ticket| !Arc::ptr_eq(ticket, &self.ticket));
        self.gate.waiting.store(line.len(), SeqCst);
        drop(line);
        if self.ticket.is_called.load(SeqCst) && !self.is_served {
            self.gate.call_next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_come_is_the_first_to_be_called() {
        let gate = Gate::new(2);
        let (first, second) = (gate.join().expect("room"), gate.join().expect("room"));
        assert!(gate.join().is_none(), "the line is bounded");
        gate.call_next();
        assert!(first.is_called(Waker::noop()) && !second.is_called(Waker::noop()));
        first.serve();
        gate.call_next();
        assert!(second.is_called(Waker::noop()));
    }

    #[test]
    fn whoever_leaves_after_being_called_passes_the_turn_on() {
        let gate = Gate::new(2);
        let (first, second) = (gate.join().expect("room"), gate.join().expect("room"));
        gate.call_next();
        drop(first);
        assert!(second.is_called(Waker::noop()));
        assert_eq!(gate.waiting(), 0);
    }

    #[test]
    fn a_turn_that_brought_nothing_keeps_its_place() {
        let gate = Gate::new(2);
        let (first, second) = (gate.join().expect("room"), gate.join().expect("room"));
        gate.call_next();
        first.wait_on();
        assert!(!first.is_called(Waker::noop()));
        gate.call_next();
        assert!(first.is_called(Waker::noop()) && !second.is_called(Waker::noop()));
        drop(second);
        assert_eq!(gate.waiting(), 0);
    }
}
