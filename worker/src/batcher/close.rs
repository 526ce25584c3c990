//! Decides when a batch is closed. One pure function, so that the trade-off between latency and
//! batch size is in one place: a batch runs when it is full or when its first row has waited long
//! enough; with a delay of zero it takes what is queued.

use std::time::Duration;

/// Limits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Number of rows at which a batch is closed immediately.
    pub(super) max_batch_size: usize,
    /// How long the oldest row waits for others.
    pub(super) max_queue_delay: Duration,
}

/// What to do with the waiting rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// Run the waiting rows.
    Now,
    /// Wait for more rows, at most this long.
    Within(Duration),
}

/// Decides for `rows` waiting rows, at least one, the oldest of which has waited `oldest_wait`.
pub(super) fn close(rows: usize, oldest_wait: Duration, limits: Limits) -> Close {
    let left = limits.max_queue_delay.saturating_sub(oldest_wait);
    if rows >= limits.max_batch_size || left.is_zero() { Close::Now } else { Close::Within(left) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Close, Limits, close};

    #[test]
    fn without_a_delay_a_single_row_runs_at_once() {
        let limits = Limits { max_batch_size: 16, max_queue_delay: Duration::ZERO };
        assert_eq!(close(1, Duration::ZERO, limits), Close::Now);
    }

    #[test]
    fn a_full_batch_does_not_wait() {
        let limits = Limits { max_batch_size: 16, max_queue_delay: Duration::from_secs(1) };
        assert_eq!(close(16, Duration::ZERO, limits), Close::Now);
        assert_eq!(close(15, Duration::ZERO, limits), Close::Within(Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_the_delay(rows in 1usize..40, waited in 0u64..50, delay in 0u64..50) {
            let limits = Limits { max_batch_size: 16, max_queue_delay: Duration::from_millis(delay) };
            let waited = Duration::from_millis(waited);
            match close(rows, waited, limits) {
                Close::Now => prop_assert!(rows >= 16 || waited >= limits.max_queue_delay),
                Close::Within(left) => {
                    prop_assert!(rows < 16 && !left.is_zero());
                    prop_assert_eq!(waited + left, limits.max_queue_delay);
                }
            }
        }
    }
}
