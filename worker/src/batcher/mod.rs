//! Jobs that wait for a model, and the thread that runs them in batches.
//!
//! [`Batcher::submit`] refuses a job if the queue is full and otherwise promises an answer: the
//! outputs, or why there are none. The model belongs to one executor, which has a thread; a batch
//! that fails or panics fails alone. A job with more rows than a batch is computed in parts, in
//! turn with other jobs, and stops when its deadline passes or its caller hangs up. If a row takes
//! microseconds ([`Settings::is_tiny`]), a small job that finds the queue empty runs on the thread
//! that submits it, because waking another one would take longer; everything else is the same.
//! Dropping the last [`Batcher`] lets the queued jobs finish and ends the thread.

mod close;
mod executor;
mod queue;
mod statistics;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use close::Limits;
use queue::Queue;
pub use statistics::{Phase, Statistics, Totals};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::Error;
use crate::metrics::VersionMetrics;
use crate::model::Model;

/// How a model is batched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the thread, as shown by `top -H` and debuggers.
    pub name: String,
    /// Shape of one input row, without the batch dimension.
    pub row_shape: Vec<usize>,
    /// Outputs of the model per row.
    pub output_width: usize,
    /// The most rows in one forward pass.
    pub max_batch_size: usize,
    /// How long the first row of a batch waits for others.
    pub max_queue_delay: Duration,
    /// The most rows that may wait.
    pub queue_capacity: usize,
    /// Whether computing a row takes microseconds.
    pub is_tiny: bool,
}

/// The most rows of a tiny model that a request's own thread computes.
const MOST_ROWS_NOW: usize = 8;

/// The outputs of a job's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Raw outputs, row after row.
    pub values: Vec<f32>,
    /// Outputs of one row.
    pub width: usize,
    /// How long the job waited.
    pub queue: Duration,
    /// How long its batch computed.
    pub compute: Duration,
}

/// Why an accepted job has no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its deadline passed while it waited.
    #[error("the deadline passed before the model was free")]
    Deadline,
    /// The model failed on it.
    #[error("the model failed: {0}")]
    Model(String),
    /// The system failed while the model was loaded.
    #[error("the model failed: {1}")]
    System(std::io::ErrorKind, String),
    /// The model panicked on it; the text of the panic goes to the log.
    #[error("the model panicked")]
    Panicked(String),
}

/// The outcome of an accepted job.
pub type Outcome = Result<Output, Failure>;

/// Where the outcome of an accepted job arrives; dropping it abandons the job.
pub type PendingOutcome = oneshot::Receiver<Outcome>;

/// The thread that owns a model; it ends some time after its [`Batcher`] is dropped.
pub type Executor = JoinHandle<()>;

/// The queue is full; nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue of this model is full")]
pub struct Overloaded;

/// Rows of one request.
#[derive(Debug)]
struct Job {
    features: Vec<f32>,
    rows: usize,
    /// The most rows of one batch.
    most: usize,
    queued_at: Instant,
    deadline: Instant,
    progress: Progress,
    reply: oneshot::Sender<Outcome>,
}

/// The progress of a job.
#[derive(Debug, Default)]
struct Progress {
    /// Rows of the job that have been computed.
    done: usize,
    /// Outputs of these rows, row after row.
    values: Vec<f32>,
    /// When its first batch began.
    begun: Option<Instant>,
    compute: Duration,
}

/// The queue and the executor of one model.
#[derive(Debug)]
pub struct Batcher {
    shared: Arc<Shared>,
    /// Runs jobs that are not worth a thread switch; only set if the model is tiny.
    executor: Option<Arc<executor::Executor>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    settings: Settings,
    limits: Limits,
    metrics: VersionMetrics,
    statistics: Arc<Statistics>,
}

#[derive(Debug)]
struct State {
    queue: Queue<Job>,
    closed: bool,
}

impl Batcher {
    /// Starts the thread that loads the model, warms it up and then owns it; returns when the
    /// model is ready.
    pub fn start(
        load: impl FnOnce() -> candle_core::Result<Box<dyn Model>> + Send + 'static,
        settings: Settings,
        metrics: VersionMetrics,
        statistics: Arc<Statistics>,
    ) -> Result<(Self, Executor), Error> {
        let limits = Limits {
            max_batch_size: settings.max_batch_size,
            max_queue_delay: settings.max_queue_delay,
        };
        let state = State { queue: Queue::new(settings.queue_capacity), closed: false };
        let name = settings.name.clone();
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: Condvar::new(),
            settings,
            limits,
            metrics,
            statistics,
        });
        let (ready, warmed_up) = mpsc::sync_channel(1);
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || executor::main(own, load, &ready))?;
        match warmed_up.recv() {
            Ok(Ok(executor)) => {
                let settings = &shared.settings;
                let is_tiny = settings.is_tiny && settings.max_queue_delay.is_zero();
                let executor = is_tiny.then_some(executor);
                Ok((Self { shared, executor }, thread))
            }
            Ok(Err(failure)) => {
                if let Failure::Panicked(said) = &failure {
                    tracing::error!(model = shared.settings.name, panic = said, "loading panicked");
                }
                let reason = failure.to_string();
                Err(if let Failure::System(kind, _) = failure {
                    Error::Io(std::io::Error::new(kind, reason))
                } else {
                    Error::Invalid(reason)
                })
            }
            Err(_) => Err(Error::Invalid("the executor ended".to_owned())),
        }
    }

    /// Queues `rows` rows, whose features are concatenated.
    pub fn submit(
        &self,
        features: Vec<f32>,
        rows: usize,
        deadline: Instant,
    ) -> Result<PendingOutcome, Overloaded> {
        let (reply, answer) = oneshot::channel();
        let most = self.shared.limits.max_batch_size;
        let progress = Progress::default();
        let queued_at = Instant::now();
        let mut job = Job { features, rows, most, queued_at, deadline, progress, reply };
        if let Some(executor) = self.executor.as_ref().filter(|_| rows <= MOST_ROWS_NOW.min(most)) {
            match executor.run_now(job) {
                None => return Ok(answer),
                Some(back) => job = back,
            }
        }
        let mut state = self.shared.lock();
        state.queue.push(job).map_err(|_| Overloaded)?;
        self.shared.note_depth(&state);
        drop(state);
        self.shared.wake.notify_one();
        Ok(answer)
    }

    /// Number of rows waiting.
    pub fn queued(&self) -> usize {
        self.shared.lock().queue.rows()
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    /// No code panics while it holds this lock, so a poisoned one is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_depth(&self, state: &State) {
        let depth = i64::try_from(state.queue.rows()).unwrap_or(i64::MAX);
        self.metrics.queue_depth.set(depth);
    }
}

impl Job {
    /// The features of its next part.
    fn part(&self) -> &[f32] {
        let row_len = self.features.len() / self.rows;
        let done = self.progress.done;
        &self.features[done * row_len..(done + queue::Entry::rows(self)) * row_len]
    }
}

impl queue::Entry for Job {
    /// The rows of its next part: what others wait for until it is their turn.
    fn rows(&self) -> usize {
        (self.rows - self.progress.done).min(self.most)
    }

    fn queued_at(&self) -> Instant {
        self.queued_at
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}
