//! Time limits of everything that waits on one thread, watched by one sweep.
//!
//! A timer per request would cost more than the rest of the bookkeeping. So a waiting task leaves
//! its waker and its deadline here, and one sweep every [`Waits::PERIOD`] wakes what is overdue.
//! Deadlines are therefore kept to within one period, which is what a limit of seconds needs.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

/// Which waiters to wake, and when.
type Sleeper = (Instant, Waker);

/// The waiting tasks of one thread.
#[derive(Debug)]
pub struct Waits {
    now: Cell<Instant>,
    waiting: RefCell<Slab<Sleeper>>,
}

impl Waits {
    /// Time between two sweeps.
    pub const PERIOD: Duration = Duration::from_millis(50);

    /// Nothing waits yet.
    pub fn new(now: Instant) -> Self {
        Self { now: Cell::new(now), waiting: RefCell::default() }
    }

    /// The time of the last sweep.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// A wait until `deadline` that has not begun.
    pub fn until(&self, deadline: Instant) -> Wait<'_> {
        Wait { waits: self, deadline, key: None }
    }

    /// Notes the time and wakes everything whose deadline has passed, or everything at all.
    pub fn sweep(&self, now: Instant, wake_all: bool) {
        self.now.set(now);
        for (_, (deadline, waker)) in self.waiting.borrow().iter() {
            if wake_all || *deadline <= now {
                waker.wake_by_ref();
            }
        }
    }
}

/// One task's wait.
#[derive(Debug)]
pub struct Wait<'a> {
    waits: &'a Waits,
    deadline: Instant,
    key: Option<usize>,
}

impl Wait<'_> {
    /// Whether the deadline has passed; if not, the task will be woken when it has.
    pub fn is_over(&mut self, context: &Context<'_>) -> bool {
        if self.waits.now.get() >= self.deadline {
            return true;
        }
        let mut waiting = self.waits.waiting.borrow_mut();
        match self.key {
            None => self.key = Some(waiting.insert((self.deadline, context.waker().clone()))),
            Some(key) => {
                let (deadline, waker) = &mut waiting[key];
                *deadline = self.deadline;
                waker.clone_from(context.waker());
            }
        }
        false
    }

    /// Moves the deadline.
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.waits.waiting.borrow_mut().remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_is_woken_when_its_deadline_has_passed_and_not_before() {
        let start = Instant::now();
        let waits = Waits::new(start);
        let count = Arc::new(Count(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let context = Context::from_waker(&waker);
        let mut wait = waits.until(start + Duration::from_secs(1));
        assert!(!wait.is_over(&context));
        waits.sweep(start + Duration::from_millis(900), false);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        waits.sweep(start + Duration::from_secs(1), false);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(wait.is_over(&context));
        drop(wait);
        assert!(waits.waiting.borrow().is_empty());
    }
}
