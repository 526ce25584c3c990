//! Totals of one served version since it was loaded, as the statistics extension of the Open
//! Inference Protocol reports them. Atomics, because requests read them while batches write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Counters that batches add to and requests read without a lock.
#[derive(Debug, Default)]
pub struct Statistics {
    rows: AtomicU64,
    executions: AtomicU64,
    last_unix_ms: AtomicU64,
    /// Computing time per row in the last passes, in nanoseconds; 0 before the first.
    row: AtomicU64,
    success: Counted,
    fail: Counted,
    queue: Counted,
    compute: Counted,
}

/// A pass contributes one part in this many to the moving mean.
const SMOOTHING: u64 = 4;

/// How often something happened and how long it took in total.
#[derive(Debug, Default)]
struct Counted {
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

/// One total, read at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phase {
    /// How often it happened.
    pub count: u64,
    /// The total time in nanoseconds.
    pub nanoseconds: u64,
}

/// Everything, read at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows that were computed.
    pub rows: u64,
    /// Forward passes that were run, one per batch.
    pub executions: u64,
    /// When the last forward pass ended, in milliseconds since 1970; 0 before the first.
    pub last_unix_ms: u64,
    /// Answered jobs, and the time from queueing to the answer.
    pub success: Phase,
    /// Jobs that failed, and the time until they did.
    pub fail: Phase,
    /// Waiting time of the answered jobs.
    pub queue: Phase,
    /// Computing time of the answered jobs.
    pub compute: Phase,
}

impl Statistics {
    /// Counts one forward pass over `rows` rows, at least one.
    pub(super) fn executed(&self, rows: usize, compute: Duration) {
        self.took(rows, compute);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.executions.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.last_unix_ms.store(now, Ordering::Relaxed);
    }

    /// Records how long a pass over `rows` rows took, as an estimate for the next ones.
    pub(super) fn took(&self, rows: usize, compute: Duration) {
        let row = nanoseconds(compute) / rows.max(1) as u64;
        let before = self.row.load(Ordering::Relaxed);
        let mean = if before == 0 { row } else { before - before / SMOOTHING + row / SMOOTHING };
        self.row.store(mean, Ordering::Relaxed);
    }

    /// How long a row takes to compute, judging by the last passes; zero before the first.
    pub fn row(&self) -> Duration {
        Duration::from_nanos(self.row.load(Ordering::Relaxed))
    }

    /// Counts one answered job.
    pub(super) fn succeeded(&self, queue: Duration, compute: Duration) {
        self.success.add(queue + compute);
        self.queue.add(queue);
        self.compute.add(compute);
    }

    /// Counts one failed job.
    pub(super) fn failed(&self, after: Duration) {
        self.fail.add(after);
    }

    /// All totals, as they are now.
    pub fn totals(&self) -> Totals {
        Totals {
            rows: self.rows.load(Ordering::Relaxed),
            executions: self.executions.load(Ordering::Relaxed),
            last_unix_ms: self.last_unix_ms.load(Ordering::Relaxed),
            success: self.success.read(),
            fail: self.fail.read(),
            queue: self.queue.read(),
            compute: self.compute.read(),
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Counted {
    fn add(&self, duration: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds(duration), Ordering::Relaxed);
    }

    fn read(&self) -> Phase {
        Phase {
            count: self.count.load(Ordering::Relaxed),
            nanoseconds: self.nanoseconds.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Statistics;

    #[test]
    fn a_row_takes_what_it_took_in_the_last_passes() {
        let statistics = Statistics::default();
        assert_eq!(statistics.row(), Duration::ZERO);
        statistics.took(4, Duration::from_millis(40));
        assert_eq!(statistics.row(), Duration::from_millis(10));
        statistics.executed(1, Duration::from_millis(50));
        assert_eq!(statistics.row(), Duration::from_millis(20));
        for _ in 0..20 {
            statistics.executed(8, Duration::from_millis(8));
        }
        let row = statistics.row();
        assert!(row < Duration::from_micros(1100), "the stall is forgotten: {row:?}");
    }
}
