//! One loaded version: its files, its batcher and its totals.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::Error;
use crate::batcher::{Batcher, Executor, Failure, Output, Settings, Statistics};
use crate::metrics::Metrics;
use crate::model::{self, Model};
use crate::repository::{Architecture, Version};

/// Products per row that are computed faster than another thread wakes up.
const TINY: usize = 100_000;
/// No more rows are taken at a time than computed in this time; balancers send twice as many.
const TURN: Duration = Duration::from_millis(500);

/// A version that serves requests. Dropping the last reference ends its thread.
#[derive(Debug)]
pub struct Served {
    /// The name of the model in the repository.
    pub model: String,
    /// The number of the version, which is its folder's name.
    pub number: u64,
    /// Manifest and labels.
    pub version: Version,
    /// Totals since it was loaded.
    pub statistics: Arc<Statistics>,
    batcher: Batcher,
}

/// Why a request has no output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full; try again soon.
    Overloaded,
    /// The deadline passed.
    Deadline,
    /// The model failed on it.
    Failed(String),
}

impl Served {
    /// Loads and warms up a version; blocks until it is ready.
    pub fn load(
        model: &str,
        number: u64,
        version: Version,
        (options, metrics): (engine::Options, &Metrics),
    ) -> Result<(Self, Executor), Error> {
        let own = version.clone();
        let load = move || model::load(&own, &options);
        Self::start((model, number), version, load, metrics)
    }

    /// Serves the network that `load` returns as a version of a model.
    pub fn start(
        (model, number): (&str, u64),
        version: Version,
        load: impl FnOnce() -> candle_core::Result<Box<dyn Model>> + Send + 'static,
        metrics: &Metrics,
    ) -> Result<(Self, Executor), Error> {
        let manifest = &version.manifest;
        let settings = Settings {
            name: format!("{model}/{number}"),
            row_shape: version.row_shape(),
            output_width: version.output_width(),
            max_batch_size: manifest.max_batch_size.get(),
            max_queue_delay: manifest.max_queue_delay,
            queue_capacity: manifest.queue_capacity.get(),
            is_tiny: is_tiny(&version),
        };
        let statistics = Arc::new(Statistics::default());
        let own = Arc::clone(&statistics);
        let (batcher, thread) =
            Batcher::start(load, settings, metrics.version(model, number), own)?;
        let model = model.to_owned();
        Ok((Self { model, number, version, statistics, batcher }, thread))
    }

    /// Raw outputs for `rows` rows, whose features are concatenated.
    pub async fn infer(
        &self,
        features: Vec<f32>,
        rows: usize,
        deadline: Instant,
    ) -> Result<Output, Refusal> {
        let answer =
            self.batcher.submit(features, rows, deadline).map_err(|_| Refusal::Overloaded)?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(Ok(output))) => Ok(output),
            Ok(Ok(Err(Failure::Deadline))) | Err(_) => Err(Refusal::Deadline),
            Ok(Ok(Err(
                Failure::Model(reason) | Failure::System(_, reason) | Failure::Panicked(reason),
            ))) => Err(Refusal::Failed(reason)),
            Ok(Err(_)) => Err(Refusal::Failed("the executor ended".to_owned())),
        }
    }

    /// Number of rows waiting.
    pub fn queued(&self) -> usize {
        self.batcher.queued()
    }

    /// Number of rows taken at a time: a batch, or fewer if computing it takes long.
    pub fn concurrency(&self) -> usize {
        concurrency(self.version.manifest.max_batch_size.get(), self.statistics.row())
    }
}

/// Rows to take at a time, given batches of `batch` rows and `row` per row (zero if unknown).
fn concurrency(batch: usize, row: Duration) -> usize {
    let in_turn = TURN.as_nanos().checked_div(row.as_nanos());
    in_turn.and_then(|rows| usize::try_from(rows).ok()).map_or(batch, |rows| rows.clamp(1, batch))
}

/// Whether computing a row takes microseconds: a linear layer may also have millions of weights.
fn is_tiny(version: &Version) -> bool {
    let width: usize = version.row_shape().iter().product();
    version.manifest.architecture == Architecture::Linear
        && width.saturating_mul(version.output_width()) <= TINY
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::concurrency;

    #[test]
    fn a_slow_worker_takes_no_more_than_it_can_do_soon() {
        let taken = |milliseconds| concurrency(32, Duration::from_millis(milliseconds));
        assert_eq!([0, 2, 15, 16, 100, 499, 501, 60_000].map(taken), [32, 32, 32, 31, 5, 1, 1, 1]);
        assert_eq!(concurrency(1, Duration::from_micros(3)), 1);
        assert_eq!(concurrency(8, Duration::from_nanos(1)), 8);
    }
}
