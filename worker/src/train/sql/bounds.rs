//! How long a training run may take, and over how many rows.

use std::time::Duration;

use tokio::time::Instant;

/// The limits of a training run.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    begun: Instant,
    time: Duration,
    /// Maximum rows of each table that is read, and of the training data.
    pub(super) rows: usize,
}

impl Bounds {
    /// Bounds that start now and last for `time`.
    pub(super) fn new(time: Duration, rows: usize) -> Self {
        Self { begun: Instant::now(), time, rows }
    }

    /// Whether the time is up.
    pub(super) fn is_over(&self) -> bool {
        self.begun.elapsed() >= self.time
    }

    /// The error message for when the time is up.
    pub(super) fn overrun(&self) -> String {
        let time = humantime::format_duration(self.time);
        format!("not done within {time}: select less, or allow more with --max-time")
    }

    /// The error message for too many rows.
    pub(super) fn too_many_rows(&self) -> String {
        format!("more than {} rows: add LIMIT, or allow more with --max-rows", self.rows)
    }
}
