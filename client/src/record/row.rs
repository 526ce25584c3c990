//! A sample as a row of a table.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::JOURNAL;
use crate::report::milliseconds;
use crate::sample::{Failure, Outcome, Sample};
use crate::workload::Workload;

/// A sample as a row of `samples.csv`. Instants are microseconds from the start of the trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The trial of the run.
    pub trial: String,
    /// Name of the request in the workload.
    pub item: String,
    /// Whether the request belongs to the warm-up and does not count.
    pub warm_up: bool,
    /// When the request was due.
    pub scheduled_us: u64,
    /// When a sender picked it up.
    pub dispatched_us: u64,
    /// When it was handed to a connection.
    pub sent_us: Option<u64>,
    /// When the head of the answer arrived.
    pub first_byte_us: u64,
    /// When it ended.
    pub done_us: u64,
    /// Time from when it was due to its end.
    pub latency_ms: f64,
    /// Time from when it was sent to its end.
    pub service_time_ms: Option<f64>,
    /// The status, or why there was none.
    pub outcome: String,
    /// Length of the answer's body.
    pub bytes: usize,
    /// The endpoint that answered.
    pub endpoint: Option<String>,
    /// The best label of the answer.
    pub label: Option<String>,
    /// Whether that label was as expected.
    pub correct: Option<bool>,
    /// Milliseconds in the worker without its queue, if the worker reports its times.
    pub worker_ms: Option<f64>,
    /// Milliseconds in the worker's queue.
    pub queue_ms: Option<f64>,
    /// Milliseconds of computation by the worker's model.
    pub compute_ms: Option<f64>,
    /// The number of the request in its trial, counting from 0.
    #[serde(default)]
    pub index: Option<u64>,
}

impl Row {
    /// The row of `sample`.
    pub fn new(trial: &str, sample: &Sample, workload: &Workload) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            trial: trial.to_owned(),
            item: workload.items().get(sample.item).map(|i| i.name.clone()).unwrap_or_default(),
            warm_up: sample.warm_up,
            scheduled_us: micros(sample.scheduled),
            dispatched_us: micros(sample.dispatched),
            sent_us: sample.sent.map(micros),
            first_byte_us: micros(sample.first_byte),
            done_us: micros(sample.done),
            latency_ms: milliseconds(sample.latency()),
            service_time_ms: sample.service_time().map(milliseconds),
            outcome: sample.outcome.to_string(),
            bytes: sample.bytes,
            endpoint: sample.endpoint.as_deref().map(str::to_owned),
            label: sample.labels.first().cloned(),
            correct: sample.correct,
            worker_ms: sample.timings.as_ref().map(|it| it.total - it.queue).filter(|it| *it > 0.0),
            queue_ms: sample.timings.as_ref().map(|it| it.queue),
            compute_ms: sample.timings.as_ref().map(|it| it.compute).filter(|it| *it > 0.0),
            index: Some(sample.index),
        }
    }

    /// How the request ended.
    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome.parse().unwrap_or(Outcome::Failed(Failure::Malformed))
    }

    /// The sample that this row was written from, as far as it is recorded, as number `index`.
    pub(crate) fn to_sample(&self, index: u64) -> Sample {
        Sample {
            index,
            item: 0,
            warm_up: self.warm_up,
            scheduled: Duration::from_micros(self.scheduled_us),
            dispatched: Duration::from_micros(self.dispatched_us),
            ready: self.sent_us.map(Duration::from_micros),
            sent: self.sent_us.map(Duration::from_micros),
            first_byte: Duration::from_micros(self.first_byte_us),
            done: Duration::from_micros(self.done_us),
            outcome: self.outcome(),
            bytes: self.bytes,
            endpoint: self.endpoint.as_deref().map(Arc::from),
            timings: None,
            labels: self.label.iter().cloned().collect(),
            correct: self.correct,
        }
    }
}

/// Reads every row of a file of samples. The last row of a journal may be torn and is then dropped.
pub(crate) fn read_rows(file: &Path) -> anyhow::Result<Vec<Row>> {
    let shown = file.display().to_string();
    let mut reader = csv::Reader::from_path(file).with_context(|| shown.clone())?;
    let mut rows = reader.deserialize::<Row>().collect::<Vec<_>>();
    if file.ends_with(JOURNAL) {
        rows.pop_if(|last| last.is_err());
    }
    rows.into_iter().collect::<Result<_, _>>().with_context(|| shown)
}
