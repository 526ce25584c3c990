//! Writes that wait for the end of a round.
//!
//! When many sockets become readable at once, a thread first works on all of those requests and
//! then hands over what they wrote, one write after the other. Handing over each piece at once
//! would wake its receiver, who is done and asleep again before the next piece comes: to wake
//! somebody costs more than the write itself. A round is what the kernel reports at a time, so on
//! a thread with little to do nothing waits, and nothing ever waits for a timer.

use std::cell::RefCell;
use std::fmt::Debug;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Something that has bytes to write at the end of the round.
pub trait Deferred: Debug {
    /// Writes as much as can be written now, and sees to the rest by itself.
    fn write_now(&self);
}

/// Those who have something to write, in order.
type Writers = Vec<Rc<dyn Deferred>>;

/// Who has something to write.
#[derive(Debug, Default)]
pub struct Outbox {
    writers: RefCell<Writers>,
    waker: RefCell<Option<Waker>>,
}

impl Outbox {
    /// Has `writer` write at the end of the round.
    pub fn add(&self, writer: Rc<dyn Deferred>) {
        let mut writers = self.writers.borrow_mut();
        writers.push(writer);
        if writers.len() == 1
            && let Some(waker) = &*self.waker.borrow()
        {
            // Behind every task that is to run in this round.
            waker.wake_by_ref();
        }
    }

    /// Has everybody write who is to.
    pub fn flush(&self) {
        let mut writers = self.writers.take();
        writers.drain(..).for_each(|writer| writer.write_now());
        let mut added = self.writers.borrow_mut();
        if added.is_empty() {
            // Its memory serves the next round.
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
    use std::cell::Cell;

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
        let (outbox, writer) = (Outbox::default(), Rc::new(Count::default()));
        outbox.add(Rc::clone(&writer) as Rc<dyn Deferred>);
        assert_eq!(writer.0.get(), 0, "not before the end of the round");
        outbox.flush();
        outbox.flush();
        assert_eq!(writer.0.get(), 1);
        outbox.add(Rc::clone(&writer) as Rc<dyn Deferred>);
        assert!(outbox.poll_rounds(&Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(writer.0.get(), 2);
    }
}
