//! Writes that are deferred to the end of a round.
//!
//! When many sockets become readable at once, a thread first handles all of those requests and then
//! flushes their output, one write after the other. Writing each piece immediately would wake its
//! receiver, which would be done and asleep again before the next piece comes, and a wake-up costs
//! more than the write itself. A round is one batch of events from the kernel, so on an idle thread
//! nothing waits, and nothing ever waits for a timer.
//!
//! As far as this thread can know, the events of one batch happened at the same time: a round has
//! one time, and the clock is read once for it.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use fleet::Clock;
use tokio::time::Instant;

/// A writer with bytes to write at the end of the round.
pub trait Deferred: Debug {
    /// Writes as much as possible now, and takes care of the rest by itself.
    fn write_now(&self);
}

/// The clock of everything that happens to a request on one thread. It returns the time of the
/// round, see [`WriteQueue::now`].
#[derive(Debug, Clone)]
pub struct RoundClock(Rc<WriteQueue>);

impl RoundClock {
    /// The clock of the rounds that end with this write queue.
    pub fn new(write_queue: &Rc<WriteQueue>) -> Self {
        Self(Rc::clone(write_queue))
    }
}

impl Clock for RoundClock {
    #[inline]
    fn now(&self) -> Instant {
        self.0.now()
    }
}

/// The writers with pending output, in order.
type Writers = Vec<Rc<dyn Deferred>>;

/// The writers of a thread, and the time of the round.
#[derive(Debug, Default)]
pub struct WriteQueue {
    writers: RefCell<Writers>,
    waker: RefCell<Option<Waker>>,
    /// Whether the end of this round has been scheduled.
    is_ending: Cell<bool>,
    /// The time of this round, once it has been read.
    now: Cell<Option<Instant>>,
}

impl WriteQueue {
    /// Schedules `writer` for the end of the round.
    pub fn add(&self, writer: Rc<dyn Deferred>) {
        self.writers.borrow_mut().push(writer);
        self.schedule_flush();
    }

    /// The time of this round. It never goes backwards, and is never older than the round.
    pub fn now(&self) -> Instant {
        self.now.get().unwrap_or_else(|| {
            let now = Instant::now();
            if self.schedule_flush() {
                self.now.set(Some(now));
            }
            now
        })
    }

    /// Schedules the flush at the end of this round, if there is a task for it.
    fn schedule_flush(&self) -> bool {
        if !self.is_ending.get()
            && let Some(waker) = &*self.waker.borrow()
        {
            self.is_ending.set(true);
            // After every task that is to run in this round.
            waker.wake_by_ref();
        }
        self.is_ending.get()
    }

    /// Flushes all pending writers.
    pub fn flush(&self) {
        self.is_ending.set(false);
        self.now.set(None);
        let mut writers = self.writers.take();
        writers.drain(..).for_each(|writer| writer.write_now());
        let mut added = self.writers.borrow_mut();
        if added.is_empty() {
            // Reuse its memory for the next round.
            *added = writers;
        }
    }

    /// The task that ends the rounds; never ready.
    pub fn poll_rounds(&self, context: &Context<'_>) -> Poll<()> {
        self.waker.borrow_mut().get_or_insert_with(|| context.waker().clone());
        self.flush();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Debug, Default)]
    struct Count(Cell<u32>);

    impl Deferred for Count {
        fn write_now(&self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn everybody_writes_once_for_each_time_they_were_added() {
        let (write_queue, writer) = (WriteQueue::default(), Rc::new(Count::default()));
        write_queue.add(Rc::clone(&writer) as Rc<dyn Deferred>);
        assert_eq!(writer.0.get(), 0, "not before the end of the round");
        write_queue.flush();
        write_queue.flush();
        assert_eq!(writer.0.get(), 1);
        write_queue.add(Rc::clone(&writer) as Rc<dyn Deferred>);
        assert!(write_queue.poll_rounds(&Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(writer.0.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_has_one_time_and_the_next_round_another() {
        let write_queue = WriteQueue::default();
        let tick = Duration::from_millis(1);
        let before = write_queue.now();
        tokio::time::advance(tick).await;
        assert_eq!(write_queue.now(), before + tick, "the end of the round would go unnoticed");
        assert!(write_queue.poll_rounds(&Context::from_waker(Waker::noop())).is_pending());
        let first = write_queue.now();
        tokio::time::advance(tick).await;
        assert_eq!(write_queue.now(), first);
        assert!(write_queue.poll_rounds(&Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(write_queue.now(), first + tick);
    }
}
