//! How busy a sender thread is: whether answers had to wait for it.
//!
//! A thread without idle time has a queue of its own: answers that have arrived wait until it gets
//! to them. No timestamp of a request shows that wait, which counts as the service's time. Time
//! that the thread itself waits for a processor that others occupy is not seen here.

use std::time::Duration;

use tokio::time::Instant;

/// Over less time than this, no share is reported.
const SHORTEST: Duration = Duration::from_millis(100);

/// Measures how busy the thread that uses it is.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    since: Option<Reading>,
    /// Time since then that was spent awake without anything to do.
    rested: Duration,
}

/// Processor time that a thread has used up to an instant.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    busy: Duration,
}

impl Busy {
    /// Starts measuring, unless it has already started.
    pub(crate) fn begin(&mut self) {
        self.since = self.since.or_else(Reading::now);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.since.is_some()
    }

    /// Records `time` spent awake only because a sleep would not have been worth it.
    pub(crate) fn rested(&mut self, time: Duration) {
        if self.has_begun() {
            self.rested += time;
        }
    }

    /// The share of the time until now in which the thread had work; `None` if that time is too
    /// short, or if the system does not report processor time.
    pub(crate) fn share(&self) -> Option<f64> {
        share(self.since?, Reading::now()?, self.rested)
    }
}

fn share(since: Reading, until: Reading, rested: Duration) -> Option<f64> {
    let length = until.at.saturating_duration_since(since.at);
    let busy = until.busy.saturating_sub(since.busy).saturating_sub(rested);
    // Two clocks are never read at quite the same instant.
    (length >= SHORTEST).then(|| (busy.as_secs_f64() / length.as_secs_f64()).min(1.0))
}

impl Reading {
    fn now() -> Option<Self> {
        Some(Self { at: Instant::now(), busy: computed()? })
    }
}

/// Processor time of this thread.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn computed() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).ok()
}

/// Processor time of this thread.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn computed() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Reading, share};

    #[test]
    fn a_thread_is_as_busy_as_it_computes() {
        let start = Instant::now();
        let reading = |at: u64, busy: u64| Reading {
            at: start + Duration::from_millis(at),
            busy: Duration::from_millis(busy),
        };
        let share = |since, until, rested| share(since, until, Duration::from_millis(rested));
        assert_eq!(share(reading(0, 500), reading(2000, 1000), 0), Some(0.25));
        assert_eq!(share(reading(0, 500), reading(2000, 1500), 500), Some(0.25), "awake, but idle");
        assert_eq!(share(reading(0, 0), reading(2000, 2001), 0), Some(1.0));
        assert_eq!(share(reading(0, 0), reading(50, 50), 0), None, "that is no time");
    }

    /// Ends however slow the machine is: no other thread's work counts.
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn work_of_this_thread_is_seen() {
        let start = Reading::now().unwrap();
        while Reading::now().unwrap().busy < start.busy + Duration::from_millis(5) {}
    }
}
