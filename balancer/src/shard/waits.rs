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

/// When to wake a task, and its waker.
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
    /// Tasks that are woken before the runtime looks for events again.
    const AT_ONCE: usize = 64;

    /// An empty list, whose time is `now` until the first sweep.
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

    /// Notes the time and wakes every task whose deadline has passed, or every task at all: a few
    /// at a time, so that a request that arrives just then does not wait for the answers to all.
    pub async fn sweep(&self, now: Instant, wake_all: bool) {
        self.now.set(now);
        let mut next = Some(0);
        while let Some(key) = next {
            next = self.wake_some(key, wake_all);
            if next.is_some() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Wakes [`Waits::AT_ONCE`] tasks from a key on; returns where to continue, if there are more.
    fn wake_some(&self, from: usize, wake_all: bool) -> Option<usize> {
        let waiting = self.waiting.borrow();
        let (last, _) = waiting.iter().next_back()?;
        let due = |key: &usize| {
            let waiter = waiting.get(*key);
            waiter.is_some_and(|(deadline, _)| wake_all || *deadline <= self.now.get())
        };
        let mut due = (from..=last).filter(due);
        due.by_ref().take(Self::AT_ONCE).for_each(|key| waiting[key].1.wake_by_ref());
        due.next()
    }
}

/// The wait of one task for a deadline; dropping it ends the wait.
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

    /// Moves the deadline, for the next time that it is checked.
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

    #[tokio::test]
    async fn many_that_are_overdue_together_are_woken_a_few_at_a_time() {
        let start = Instant::now();
        let waits = Waits::new(start);
        let count = Arc::new(Count(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let context = Context::from_waker(&waker);
        let mut all: Vec<Wait<'_>> = (0..1000).map(|_| waits.until(start)).collect();
        waits.now.set(start - Duration::from_secs(1));
        assert!(all.iter_mut().all(|wait| !wait.is_over(&context)));
        let others = async {
            let mut before = 0;
            while before < 1000 {
                let woken = count.0.load(Ordering::Relaxed);
                assert!(woken - before <= 64, "{} at once", woken - before);
                before = woken;
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(biased; waits.sweep(start, false), others);
        assert_eq!(count.0.load(Ordering::Relaxed), 1000);
    }

    #[tokio::test]
    async fn a_task_is_woken_when_its_deadline_has_passed_and_not_before() {
        let start = Instant::now();
        let waits = Waits::new(start);
        let count = Arc::new(Count(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let context = Context::from_waker(&waker);
        let mut wait = waits.until(start + Duration::from_secs(1));
        assert!(!wait.is_over(&context));
        waits.sweep(start + Duration::from_millis(900), false).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        waits.sweep(start + Duration::from_secs(1), false).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(wait.is_over(&context));
        drop(wait);
        assert!(waits.waiting.borrow().is_empty());
    }
}
