//! Virtual time and pending events: a queue ordered by time, then by creation.
//!
//! Time is whole nanoseconds since the start, so that sums are exact and the same seed gives the
//! same run, bit for bit. Policies need an [`Instant`], so the start is anchored at one; only
//! differences ever matter.

use std::cell::Cell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// Nanoseconds since the start of the simulation.
pub(crate) type Nanos = u64;

/// An event that is going to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request reaches its worker.
    Reach { request: u32 },
    /// An executor of a worker has finished its batch; stale if the worker has crashed since.
    Finish { worker: u32, executor: u32, life: u32 },
    /// The oldest request of a worker has waited long enough for its batch to fill.
    Close { worker: u32, life: u32 },
    /// The answer to a request reaches the balancer.
    Answer { request: u32, verdict: Verdict },
    /// A worker dies.
    Crash { worker: u32 },
    /// A worker is back.
    Repair { worker: u32 },
    /// A request has waited in the balancer for as long as it may; stale once that wait is over.
    GiveUp { request: u32, wait: u32 },
    /// The balancer probes all workers.
    Probe,
    /// The balancer checks whether ejections are over.
    Tick,
    /// The fleet is measured and resized.
    Scale,
    /// The balancer samples the requests in flight, and resizes its fleet when that is due.
    Sample,
    /// A new worker is ready.
    Join,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The request was answered.
    Good,
    /// The worker's queue was full: busy, not broken.
    Busy,
    /// The worker was dead and accepted no connection.
    Refused,
    /// The worker died while it had the request.
    Broken,
    /// The worker found that the request's deadline had passed.
    Late,
}

/// An event and its place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    /// The time in the upper bits and the order of creation in the lower ones, which breaks ties:
    /// the order within a heap is arbitrary. One number, since the heap compares little else.
    key: u128,
    event: Event,
}

impl Due {
    #[inline]
    fn time(&self) -> Nanos {
        u64::try_from(self.key >> 64).expect("64 bits are left")
    }
}

impl Ord for Due {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl PartialOrd for Due {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A read-only handle to the exact virtual time.
#[derive(Debug, Clone)]
pub(crate) struct VirtualTime(Rc<Cell<Instant>>);

impl fleet::Clock for VirtualTime {
    fn now(&self) -> Instant {
        self.0.get()
    }
}

/// Virtual time and the pending events.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    time: VirtualTime,
    now: Nanos,
    made: u64,
    due: BinaryHeap<Reverse<Due>>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let start = Instant::now();
        let time = VirtualTime(Rc::new(Cell::new(start)));
        Self { start, time, now: 0, made: 0, due: BinaryHeap::new() }
    }

    pub(crate) fn now(&self) -> Nanos {
        self.now
    }

    /// The current time as an [`Instant`], for policies.
    pub(crate) fn instant(&self) -> Instant {
        self.time.0.get()
    }

    /// A read-only handle to the time.
    pub(crate) fn time(&self) -> VirtualTime {
        self.time.clone()
    }

    /// An instant as nanoseconds since the start.
    pub(crate) fn nanos_at(&self, instant: Instant) -> Nanos {
        nanos_of(instant.saturating_duration_since(self.start))
    }

    fn set(&mut self, now: Nanos) {
        self.now = now;
        self.time.0.set(self.start + Duration::from_nanos(now));
    }

    pub(crate) fn after(&mut self, delay: Nanos, event: Event) {
        self.made += 1;
        let time = self.now.saturating_add(delay);
        let key = (u128::from(time) << 64) | u128::from(self.made);
        self.due.push(Reverse(Due { key, event }));
    }

    /// Advances to the next event due no later than `limit`, or to `limit` if there is none.
    pub(crate) fn advance(&mut self, limit: Nanos) -> Option<Event> {
        match self.due.peek() {
            Some(Reverse(due)) if due.time() <= limit => {
                let Reverse(due) = self.due.pop()?;
                self.set(due.time());
                Some(due.event)
            }
            Some(_) | None => {
                self.set(limit.max(self.now));
                None
            }
        }
    }

    /// When the next event is due.
    pub(crate) fn next_due(&self) -> Option<Nanos> {
        self.due.peek().map(|Reverse(due)| due.time())
    }
}

/// Seconds as nanoseconds of virtual time.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float outside saturates, which is what is wanted"
)]
pub(crate) fn nanos(seconds: f64) -> Nanos {
    (seconds * 1e9).round() as u64
}

/// A duration as nanoseconds of virtual time.
pub(crate) fn nanos_of(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_and_equals_in_the_order_they_were_made() {
        let mut clock = Clock::new();
        clock.after(5, Event::Scale);
        clock.after(3, Event::Probe);
        clock.after(5, Event::Probe);
        assert_eq!(clock.advance(4), Some(Event::Probe));
        assert_eq!(clock.now(), 3);
        assert_eq!(clock.advance(4), None);
        assert_eq!(clock.now(), 4);
        assert_eq!(clock.advance(9), Some(Event::Scale));
        assert_eq!(clock.advance(9), Some(Event::Probe));
        assert_eq!((clock.now(), clock.next_due()), (5, None));
    }
}
