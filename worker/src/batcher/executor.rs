//! Runs the batches of a model: on the model's thread or, if a row takes microseconds, on the
//! thread of a request that finds the queue empty.
//!
//! A model error or panic is caught here and becomes the answer to that batch. If several jobs
//! shared it, each is run again alone, so that one bad job never fails its neighbours.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use candle_core::{Device, Tensor};
use tokio::time::Instant;

use super::close::{Close, close};
use super::queue::{Entry, Taken};
use super::{Failure, Job, Output, Shared};
use crate::model::{Model, system_error, told};

/// The result of loading a model.
pub(super) type Loaded = Result<Arc<Executor>, Failure>;

/// The life of the thread: load, warm up, report, run.
pub(super) fn main(
    shared: Arc<Shared>,
    load: impl FnOnce() -> candle_core::Result<Box<dyn Model>>,
    ready: &SyncSender<Loaded>,
) {
    let failure = |error: candle_core::Error| match system_error(&error) {
        Some(system) => Failure::System(system.kind(), told(&error)),
        None => Failure::Model(told(&error)),
    };
    let loaded = unwound(|| load().map_err(failure));
    let warm = loaded.and_then(|model| {
        let executor = Arc::new(Executor { shared, model: Mutex::new(model) });
        executor.warm_up().map(|()| executor)
    });
    match warm {
        Ok(executor) => {
            drop(ready.send(Ok(Arc::clone(&executor))));
            executor.run();
        }
        Err(failure) => drop(ready.send(Err(failure))),
    }
}

/// A model and how its batches are run.
pub(super) struct Executor {
    shared: Arc<Shared>,
    /// Locked for one batch at a time: by the executor's thread, or in [`Executor::run_now`].
    model: Mutex<Box<dyn Model>>,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor")
            .field("model", &self.shared.settings.name)
            .finish_non_exhaustive()
    }
}

/// Outputs of one forward pass, `width` per row.
struct Outputs {
    values: Vec<f32>,
    width: usize,
}

/// Outputs of some rows and how long they took in total.
struct Rows {
    values: Vec<f32>,
    width: usize,
    compute: Duration,
}

impl Executor {
    /// Runs batches of 1, 2, 4, … rows up to the limit, so that no request pays for a first pass.
    fn warm_up(&self) -> Result<(), Failure> {
        let row_len: usize = self.shared.settings.row_shape.iter().product();
        let limit = self.shared.limits.max_batch_size;
        let doubling = std::iter::successors(Some(1), |size| Some(size * 2));
        for size in doubling.take_while(|size| *size < limit).chain([limit]) {
            let begun = Instant::now();
            let Outputs { values, width } =
                unwound(|| self.pass(&**self.model(), vec![0.0; size * row_len], size))?;
            self.shared.statistics.took(size, begun.elapsed());
            let wanted = self.shared.settings.output_width;
            if width != wanted {
                return Err(Failure::Model(format!("{width} outputs for {wanted} labels")));
            }
            if !values.iter().all(|value| value.is_finite()) {
                let reason = "its outputs for an average input are not finite".to_owned();
                return Err(Failure::Model(reason));
            }
        }
        Ok(())
    }

    /// Runs a job of one part on the current thread if nothing waits and the model is free;
    /// otherwise hands it back. Jobs that arrive meanwhile are queued, and the executor's thread
    /// waits for the model.
    pub(super) fn run_now(&self, job: Job) -> Option<Job> {
        if self.shared.lock().queue.rows() > 0 {
            return Some(job);
        }
        let Ok(model) = self.model.try_lock() else { return Some(job) };
        self.run_batch(&**model, vec![job]);
        None
    }

    /// Runs batches until the batcher is closed and the queue is empty.
    fn run(&self) {
        while let Some(taken) = self.next() {
            for job in taken.expired {
                self.fail(job, Failure::Deadline);
            }
            if !taken.batch.is_empty() {
                self.run_batch(&**self.model(), taken.batch);
            }
        }
    }

    /// Waits for the next closed batch; `None` if there will be no more.
    fn next(&self) -> Option<Taken<Job>> {
        let shared = &*self.shared;
        let mut state = shared.lock();
        loop {
            let now = Instant::now();
            if !shared.limits.max_queue_delay.is_zero() {
                // Abandoned rows do not count towards a full batch.
                state.queue.forget_abandoned();
            }
            let Some(oldest) = state.queue.oldest() else {
                if state.closed {
                    return None;
                }
                state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let waited = now.saturating_duration_since(oldest);
            match close(state.queue.rows(), waited, shared.limits) {
                Close::Within(left) if !state.closed => {
                    let woken = shared.wake.wait_timeout(state, left);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
                Close::Now | Close::Within(_) => {
                    let taken = state.queue.take(now, shared.limits.max_batch_size);
                    shared.note_depth(&state);
                    return Some(taken);
                }
            }
        }
    }

    /// Locks the model. A batch's panic is caught before it can poison the lock.
    fn model(&self) -> MutexGuard<'_, Box<dyn Model>> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Computes the next part of every job. Jobs that are still incomplete then go to the end of
    /// the queue, so that a job of many rows never keeps others waiting for more than one batch.
    fn run_batch(&self, model: &dyn Model, mut jobs: Vec<Job>) {
        let begun = Instant::now();
        let rows = jobs.iter().map(Entry::rows).sum();
        let features = match jobs.as_mut_slice() {
            [job] if job.rows == rows => std::mem::take(&mut job.features),
            jobs => jobs.iter().map(Job::part).collect::<Vec<_>>().concat(),
        };
        match self.forward(model, features, rows) {
            Ok(outputs) => self.hand_out(jobs, &outputs, begun),
            Err(failure) if jobs.len() == 1 => {
                for job in jobs {
                    self.fail(job, failure.clone());
                }
            }
            Err(_) => {
                for job in jobs {
                    self.run_batch(model, vec![job]);
                }
            }
        }
    }

    /// Gives every job its part of the outputs.
    fn hand_out(&self, jobs: Vec<Job>, outputs: &Rows, begun: Instant) {
        let Rows { values, width, compute } = outputs;
        let mut rest = values.as_slice();
        for mut job in jobs {
            let rows = job.rows();
            let (own, others) = rest.split_at(rows * width);
            rest = others;
            let progress = &mut job.progress;
            if progress.values.is_empty() {
                progress.values.reserve_exact(job.rows * width);
            }
            progress.values.extend_from_slice(own);
            progress.done += rows;
            progress.compute += *compute;
            progress.begun.get_or_insert(begun);
            if job.progress.done == job.rows {
                self.answer(job, *width);
            } else {
                let mut state = self.shared.lock();
                state.queue.push_back(job);
                self.shared.note_depth(&state);
            }
        }
    }

    fn answer(&self, job: Job, width: usize) {
        let begun = job.progress.begun.unwrap_or(job.queued_at);
        let queue = begun.saturating_duration_since(job.queued_at);
        let compute = job.progress.compute;
        self.shared.metrics.queue_delay.observe(queue.as_secs_f64());
        self.shared.statistics.succeeded(queue, compute);
        let output = Output { values: job.progress.values, width, queue, compute };
        // The caller may have hung up meanwhile; then the answer is dropped.
        drop(job.reply.send(Ok(output)));
    }

    fn fail(&self, job: Job, failure: Failure) {
        self.shared.statistics.failed(job.queued_at.elapsed());
        drop(job.reply.send(Err(failure)));
    }

    fn forward(&self, model: &dyn Model, features: Vec<f32>, rows: usize) -> Result<Rows, Failure> {
        let begun = Instant::now();
        let outcome = unwound(|| self.pass(model, features, rows));
        let Outputs { values, width } = outcome.inspect_err(|failure| {
            let panic = if let Failure::Panicked(said) = failure { Some(said) } else { None };
            tracing::error!(model = self.shared.settings.name, rows, %failure, panic, "batch failed");
        })?;
        let compute = begun.elapsed();
        self.shared.metrics.batch_size.observe(rows as f64);
        self.shared.metrics.forward.observe(compute.as_secs_f64());
        self.shared.statistics.executed(rows, compute);
        Ok(Rows { values, width, compute })
    }

    fn pass(&self, model: &dyn Model, features: Vec<f32>, rows: usize) -> Result<Outputs, Failure> {
        let mut shape = vec![rows];
        shape.extend(&self.shared.settings.row_shape);
        let wrong = |error: candle_core::Error| Failure::Model(told(&error));
        let batch = Tensor::from_vec(features, shape, &Device::Cpu).map_err(wrong)?;
        let outputs = model.forward(&batch).map_err(wrong)?;
        let (count, width) = outputs.dims2().map_err(wrong)?;
        if count != rows {
            return Err(Failure::Model(format!("{count} output rows for {rows} input rows")));
        }
        let values = outputs.flatten_all().and_then(|flat| flat.to_vec1()).map_err(wrong)?;
        Ok(Outputs { values, width })
    }
}

/// Turns a panic into a failure.
fn unwound<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Failure::Panicked(text(&*panic))))
}

/// The message of a panic.
fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    said.unwrap_or("without a text").to_owned()
}
