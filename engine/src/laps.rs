//! How long each stage of a network has taken, added up over all passes.

use std::time::Duration;

use tokio::time::Instant;

/// Times of the stages of one thread.
#[derive(Debug)]
pub(super) struct Laps {
    times: Box<[Duration]>,
    since: Instant,
}

impl Laps {
    /// For `stages` stages, all at zero.
    pub(super) fn new(stages: usize) -> Self {
        Self { times: vec![Duration::ZERO; stages].into(), since: Instant::now() }
    }

    /// Starts the clock at the beginning of a pass.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Adds the time since the last call to a stage.
    pub(super) fn note(&mut self, stage: usize) {
        let now = Instant::now();
        self.times[stage] += now - self.since;
        self.since = now;
    }

    /// Time that each stage has taken so far.
    pub(super) fn times(&self) -> &[Duration] {
        &self.times
    }
}
