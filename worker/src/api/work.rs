//! Parses requests and writes answers: small ones in place, large ones one at a time on a blocking
//! thread, so that other requests are answered meanwhile.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::{App, Problem};

/// Bodies of at least this size are large.
const LARGE_BODY: usize = 256 << 10;
/// Answers with at least this many values are large.
const LARGE_ANSWER: usize = 64 << 10;

impl App {
    /// Parses a body of this many bytes.
    pub(super) async fn parse<T: Send + 'static>(
        &self,
        bytes: usize,
        deadline: Instant,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        if bytes < LARGE_BODY { work() } else { self.in_turn(deadline, work).await }
    }

    /// Writes an answer of this many values.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        values: usize,
        deadline: Instant,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        if values < LARGE_ANSWER { work() } else { self.in_turn(deadline, work).await }
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = timeout_at(deadline, Arc::clone(&self.heavy).acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or(Problem::Deadline)?;
        let work = tokio::task::spawn_blocking(move || {
            // Held by the work and not by the caller, which may hang up while it runs.
            let _turn = turn;
            work()
        });
        match timeout_at(deadline, work).await {
            Ok(Ok(outcome)) => outcome,
            // The panic is in the log; its text is not for clients.
            Ok(Err(_)) => Err(Problem::unreadable()),
            Err(_) => Err(Problem::Deadline),
        }
    }
}
