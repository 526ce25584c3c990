//! A bounded first-in-first-out queue of jobs, counted in rows. Pure: the time is an argument.
//!
//! Jobs whose caller hung up or whose deadline passed are never handed out. A job larger than the
//! whole queue is accepted if nothing else waits, so that no valid request is refused forever. Only
//! the next part of a job is counted: a job of many parts returns to the end after each.

use std::collections::VecDeque;

use tokio::time::Instant;

/// What the queue needs to know about a job.
pub(super) trait Entry {
    /// Rows that it adds to its next batch, at least 1.
    fn rows(&self) -> usize;
    /// When it was queued.
    fn queued_at(&self) -> Instant;
    /// The deadline, after which the answer is of no value.
    fn deadline(&self) -> Instant;
    /// Whether its caller hung up.
    fn is_abandoned(&self) -> bool;
}

/// The waiting jobs.
#[derive(Debug)]
pub(super) struct Queue<E> {
    entries: VecDeque<E>,
    rows: usize,
    capacity: usize,
}

/// What [`Queue::take`] removed.
#[derive(Debug)]
pub(super) struct Taken<E> {
    /// The jobs to run, oldest first.
    pub(super) batch: Vec<E>,
    /// Jobs whose deadline passed.
    pub(super) expired: Vec<E>,
}

impl<E: Entry> Queue<E> {
    /// An empty queue for `capacity` rows.
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), rows: 0, capacity }
    }

    /// Number of rows waiting.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// When the oldest job was queued.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(Entry::queued_at)
    }

    /// Queues a job, or hands it back if there is no room.
    pub(super) fn push(&mut self, entry: E) -> Result<(), E> {
        if !self.has_room_for(&entry) {
            self.forget_abandoned();
        }
        if !self.has_room_for(&entry) {
            return Err(entry);
        }
        self.push_back(entry);
        Ok(())
    }

    /// Queues a job that was accepted before, whether there is room or not.
    pub(super) fn push_back(&mut self, entry: E) {
        self.rows += entry.rows();
        self.entries.push_back(entry);
    }

    /// Takes the oldest jobs, together at most `max_rows` rows; a larger job is taken alone.
    pub(super) fn take(&mut self, now: Instant, max_rows: usize) -> Taken<E> {
        let mut taken = Taken { batch: Vec::new(), expired: Vec::new() };
        let mut rows = 0;
        while let Some(entry) = self.entries.front() {
            let dead = entry.is_abandoned();
            let late = entry.deadline() <= now;
            if !dead && !late && rows > 0 && rows + entry.rows() > max_rows {
                break;
            }
            let entry = self.entries.pop_front().expect("front() just saw it");
            self.rows -= entry.rows();
            if dead {
                continue;
            }
            if late {
                taken.expired.push(entry);
            } else {
                rows += entry.rows();
                taken.batch.push(entry);
            }
        }
        taken
    }

    fn has_room_for(&self, entry: &E) -> bool {
        self.entries.is_empty() || self.rows + entry.rows() <= self.capacity
    }

    /// Drops the jobs whose caller hung up.
    pub(super) fn forget_abandoned(&mut self) {
        self.entries.retain(|entry| !entry.is_abandoned());
        self.rows = self.entries.iter().map(Entry::rows).sum();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::{Entry, Queue};

    #[derive(Debug, Clone, PartialEq)]
    struct Fake {
        rows: usize,
        deadline: Instant,
        abandoned: bool,
        id: usize,
    }

    impl Entry for Fake {
        fn rows(&self) -> usize {
            self.rows
        }
        fn queued_at(&self) -> Instant {
            self.deadline
        }
        fn deadline(&self) -> Instant {
            self.deadline
        }
        fn is_abandoned(&self) -> bool {
            self.abandoned
        }
    }

    fn job(id: usize, rows: usize, now: Instant) -> Fake {
        Fake { rows, deadline: now + Duration::from_secs(1), abandoned: false, id }
    }

    #[test]
    fn a_full_queue_hands_the_job_back_until_a_caller_hangs_up() {
        let now = Instant::now();
        let mut queue = Queue::new(2);
        queue.push(Fake { abandoned: true, ..job(1, 1, now) }).unwrap();
        queue.push(job(2, 1, now)).unwrap();
        queue.push(job(3, 1, now)).unwrap();
        assert_eq!(queue.push(job(4, 1, now)).unwrap_err().id, 4);
        assert_eq!(queue.rows(), 2);
    }

    #[test]
    fn a_job_larger_than_the_queue_is_taken_when_nothing_waits() {
        let now = Instant::now();
        let mut queue = Queue::new(2);
        queue.push(job(1, 5, now)).unwrap();
        queue.push(job(2, 1, now)).unwrap_err();
        let taken = queue.take(now, 4);
        assert_eq!(taken.batch.len(), 1);
        assert_eq!(queue.rows(), 0);
    }

    #[test]
    fn late_jobs_are_told_and_abandoned_ones_forgotten() {
        let now = Instant::now();
        let mut queue = Queue::new(9);
        queue.push(Fake { deadline: now, ..job(1, 1, now) }).unwrap();
        queue.push(Fake { abandoned: true, ..job(2, 1, now) }).unwrap();
        queue.push(job(3, 1, now)).unwrap();
        let taken = queue.take(now, 1);
        assert_eq!(taken.expired.iter().map(|e| e.id).collect::<Vec<_>>(), [1]);
        assert_eq!(taken.batch.iter().map(|e| e.id).collect::<Vec<_>>(), [3]);
    }

    proptest! {
        #[test]
        fn every_job_leaves_once_in_order_and_batches_stay_small(
            jobs in proptest::collection::vec((1usize..6, any::<bool>(), any::<bool>()), 0..40),
            max_rows in 1usize..8,
        ) {
            let now = Instant::now();
            let mut queue = Queue::new(1000);
            for (id, (rows, abandoned, late)) in jobs.iter().enumerate() {
                let deadline = if *late { now } else { now + Duration::from_secs(1) };
                queue.push(Fake { rows: *rows, deadline, abandoned: *abandoned, id }).unwrap();
            }
            let mut seen = Vec::new();
            loop {
                let taken = queue.take(now, max_rows);
                let rows: usize = taken.batch.iter().map(Entry::rows).sum();
                prop_assert!(rows <= max_rows || taken.batch.len() == 1);
                prop_assert!(taken.batch.iter().all(|e| e.deadline > now && !e.abandoned));
                seen.extend(taken.batch.iter().map(|e| e.id));
                if taken.batch.is_empty() {
                    break;
                }
            }
            let wanted: Vec<usize> = jobs
                .iter()
                .enumerate()
                .filter(|(_, (_, abandoned, late))| !abandoned && !late)
                .map(|(id, _)| id)
                .collect();
            prop_assert_eq!(seen, wanted);
            prop_assert_eq!(queue.rows(), 0);
        }
    }
}
