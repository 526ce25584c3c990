//! Log lines about failed attempts: enough to see what is wrong, and never a flood.
//!
//! A worker that dies under load fails hundreds of attempts at once, all for the same reason.

use std::cell::Cell;
use std::time::Duration;

use fleet::Endpoint;
use tokio::time::Instant;

/// The period in which lines are counted.
const SPAN: Duration = Duration::from_secs(1);
/// Maximum number of lines per thread in that period.
const MOST: u32 = 5;

/// Counts recent log lines.
#[derive(Debug, Default)]
pub struct FailedAttempts {
    since: Cell<Option<Instant>>,
    written: Cell<u32>,
    left_out: Cell<u64>,
}

impl FailedAttempts {
    /// Logs why an attempt failed, unless many were just logged.
    pub fn warn(&self, endpoint: &Endpoint, reason: &str, now: Instant) {
        let endpoint = endpoint.name();
        match self.note(now) {
            None => {}
            Some(0) => tracing::warn!(endpoint, reason, "attempt failed"),
            Some(left_out) => {
                tracing::warn!(endpoint, reason, left_out, "attempt failed, like others before it");
            }
        }
    }

    /// How many lines were left out since the last one; `None` if there may be no line now.
    fn note(&self, now: Instant) -> Option<u64> {
        let is_new = self.since.get().is_none_or(|since| now.duration_since(since) >= SPAN);
        if is_new {
            self.since.set(Some(now));
            self.written.set(0);
        }
        if self.written.get() >= MOST {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.written.set(self.written.get() + 1);
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failures_becomes_a_few_lines_and_a_number() {
        let (start, failures) = (Instant::now(), FailedAttempts::default());
        let told = (0..100).filter(|_| failures.note(start).is_some()).count();
        assert_eq!(told, 5);
        assert_eq!(failures.note(start + SPAN), Some(95));
        assert_eq!(failures.note(start + SPAN), Some(0));
    }
}
