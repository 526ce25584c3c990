//! What an endpoint has done since the start, for the metrics.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::nanoseconds;
use crate::latency::{Counts, Latency};

/// Upper bounds of the latency buckets that are exported, in seconds.
pub const LATENCY_BOUNDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// What happened on an endpoint since the start; read when metrics are scraped.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answers below 500, including those that say the worker is busy.
    pub succeeded: AtomicU64,
    /// Answers of 500 and above, connection errors and timeouts.
    pub failed: AtomicU64,
    /// Times the outlier detection ejected it.
    pub ejections: AtomicU64,
    /// Probes that failed.
    pub probes_failed: AtomicU64,
    /// Total nanoseconds that answered attempts took.
    pub latency_sum: AtomicU64,
    /// How long answered attempts took.
    pub latency: Latency,
    /// How long attempts took that were of no use to a client: refusals, and faults of the request.
    useless: Latency,
}

impl Counters {
    /// Counts the time of an answered attempt.
    pub(crate) fn observe(&self, elapsed: Duration) {
        self.latency.observe(elapsed);
        self.latency_sum.fetch_add(nanoseconds(elapsed), Relaxed);
    }

    /// Counts the time of an answered attempt whose answer is of no use to a client.
    pub(crate) fn observe_useless(&self, elapsed: Duration) {
        // In this order, so that no useless answer is missing from the total.
        self.observe(elapsed);
        self.useless.observe(elapsed);
    }

    /// Answered attempts so far, in all and those of no use to a client.
    pub(crate) fn answered(&self) -> [Counts; 2] {
        let useless = self.useless.counts();
        [self.latency.counts(), useless]
    }
}
