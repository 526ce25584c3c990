//! How long a training may take, and over how many rows.

use std::time::Duration;

use tokio::time::Instant;

/// What bounds a training.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    begun: Instant,
    time: Duration,
    /// The most rows of a table that is read, and of the data.
    pub(super) rows: usize,
}

impl Bounds {
    /// From now on, for `time`.
    pub(super) fn new(time: Duration, rows: usize) -> Self {
        Self { begun: Instant::now(), time, rows }
    }

    /// Whether the time is over.
    pub(super) fn is_over(&self) -> bool {
        self.begun.elapsed() >= self.time
    }

    /// What to say when the time is over.
    pub(super) fn overrun(&self) -> String {
        let time = humantime::format_duration(self.time);
        format!("not done within {time}: select less, or allow more with --max-time")
    }

    /// What to say when there are more rows.
    pub(super) fn too_many_rows(&self) -> String {
        format!("more than {} rows: add LIMIT, or allow more with --max-rows", self.rows)
    }
}
