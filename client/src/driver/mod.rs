//! Sends a workload on a schedule: one loop for every arrival process.
//!
//! One sender thread per core, each with its own event loop, connections and share of one schedule:
//! thread `t` of `n` takes arrivals `t`, `t + n`, …, so the union is the same for any `n`. While
//! requests are in flight, nothing is shared but two counters for the progress bar. Everything is
//! bounded: the connections, the queue in front of them, the time per request, the samples kept.

mod arrivals;
mod busy;
mod connection;
mod course;
mod exact;
mod exchange;
mod http1;
mod sender;
mod sieve;
mod tally;
mod timeline;
mod timer;
mod times;
mod transport;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use anyhow::Context;
pub use arrivals::planned_end;
pub use course::Course;
pub(crate) use exact::names::one as names;
use serde::Serialize;
pub(crate) use sieve::Sieve;
pub use tally::{Tally, Window};
pub use timeline::{Moment, Timeline};
pub(crate) use times::is_least;
pub use times::{Bound, Times};
use tokio::time::Instant;
pub use transport::Destination;

use crate::descriptors;
use crate::error::Error;
use crate::experiment::{Protocol, Trial};
use crate::sample::Sample;
use crate::workload::Workload;

/// The result of a trial.
#[derive(Debug)]
pub struct Run {
    /// Counts and histograms of every measured request.
    pub tally: Tally,
    /// Samples by scheduled instant, warm-up included; at most [`Trial::keep_samples`].
    pub samples: Vec<Sample>,
    /// Number of connections, if the limit on open files allows fewer than were asked for.
    pub cap: Option<NonZeroUsize>,
    /// The programs that sent the requests, if it was not this one.
    pub generators: Vec<Generator>,
}

/// The sender threads of a trial that this program runs.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Index of the first of them, counted over all programs.
    pub first: usize,
    /// Number of threads that this program runs.
    pub threads: NonZeroUsize,
    /// When the trial begins.
    pub start: Instant,
}

/// A program that sent requests for this one.
#[derive(Debug, Clone, Serialize)]
pub struct Generator {
    /// The address that the agent listens on.
    pub address: String,
    /// Requests that it measured; `None` if it was lost.
    pub requests: Option<u64>,
    /// How far its clock may be off from this program's, in milliseconds.
    pub clock_error_ms: f64,
    /// Why its results are missing, if they are.
    pub lost: Option<String>,
}

/// How far a trial has got, for the progress bar, and the request to end it early.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests that succeeded.
    pub succeeded: AtomicU64,
    /// Requests that failed.
    pub failed: AtomicU64,
    /// Sender threads that have stopped sending.
    pub draining: AtomicU64,
    /// Requests that those threads are still waiting for.
    pub waiting: AtomicU64,
    stop: OnceLock<Instant>,
    abandon: AtomicBool,
}

impl Progress {
    /// Requests that have ended, successfully or not.
    pub fn done(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }

    /// Stops sending; requests already sent are still waited for.
    pub fn stop(&self) {
        // Slightly in the future, so that all threads stop at the same arrival.
        self.stop_at(Instant::now() + Duration::from_millis(1));
    }

    /// Stops sending at `at`.
    pub(crate) fn stop_at(&self, at: Instant) {
        // The first call wins.
        let _earlier = self.stop.set(at);
    }

    /// Stops waiting: requests without an answer count as unfinished.
    pub fn abandon(&self) {
        self.stop();
        self.abandon.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stopped(&self) -> Option<Instant> {
        self.stop.get().copied()
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandon.load(Ordering::Relaxed)
    }
}

/// Runs `trial` against all addresses of the destination until it ends or [`Progress::stop`] is
/// called. Blocks. Kept samples also go to `kept`, as soon as they are available.
pub fn run(
    trial: &Trial,
    destination: &Destination,
    workload: &Arc<Workload>,
    progress: &Arc<Progress>,
    kept: Option<mpsc::Sender<Sample>>,
) -> anyhow::Result<Run> {
    trial.validate()?;
    let cap = connections_cap(trial)?;
    let trial = trial.within(cap);
    // Leave every thread time to start, so that the first arrivals are not late.
    let start = Instant::now() + Duration::from_millis(20);
    let part = Part { first: 0, threads: trial.threads, start };
    let Measured { tally, sieve } = run_part(&trial, part, destination, workload, progress, kept)?;
    Ok(Run { tally, samples: sieve.into_samples(), cap, generators: Vec::new() })
}

/// What the sender threads measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) tally: Tally,
    /// The samples that were kept.
    pub(crate) sieve: Sieve,
}

/// Runs one part of `trial`; the other parts run elsewhere.
pub(crate) fn run_part(
    trial: &Trial,
    part: Part,
    destination: &Destination,
    workload: &Arc<Workload>,
    progress: &Arc<Progress>,
    kept: Option<mpsc::Sender<Sample>>,
) -> anyhow::Result<Measured> {
    if destination.addresses.is_empty() {
        return Err(Error::Usage("there is no address to send to".to_owned()).into());
    }
    let items = match trial.protocol {
        Protocol::Http1 => 0..workload.items().len(),
        Protocol::H2 => 0..0,
    };
    let over_http1: Arc<[_]> = items.map(|item| workload.over_http1(item, trial.reuse)).collect();
    let threads = part.first..part.first + part.threads.get();
    let senders: Vec<_> = threads
        .map(|thread| {
            let assignment = sender::Assignment {
                trial: trial.clone(),
                thread,
                destination: destination.clone(),
                workload: Arc::clone(workload),
                over_http1: Arc::clone(&over_http1),
                progress: Arc::clone(progress),
                kept: kept.clone(),
                start: part.start,
            };
            std::thread::Builder::new()
                .name(format!("sender-{thread}"))
                .spawn(move || sender::send_share(assignment))
                .context("starting a sender thread")
        })
        .collect::<anyhow::Result<_>>()?;
    drop(kept);
    let mut tally = Tally::of(trial);
    let mut sieves = Vec::new();
    for sender in senders {
        let ended = sender.join().map_err(|_| anyhow::anyhow!("a sender thread panicked"))??;
        tally.merge(&ended.tally);
        sieves.push(ended.sieve);
    }
    Ok(Measured { tally, sieve: Sieve::join(sieves) })
}

/// Fails if the limit on open files is too low for this program's share of the connections, given
/// that it runs `threads` of the threads.
pub(crate) fn check_room(trial: &Trial, threads: NonZeroUsize) -> Result<(), Error> {
    let share = trial.connections.get().div_ceil(trial.threads.get()) * threads.get();
    let room = descriptors::connections(threads.get());
    if room >= share {
        return Ok(());
    }
    let text = format!(
        "the limit on open files allows {room} of {share} connections: raise it (ulimit -n)"
    );
    Err(Error::Usage(text))
}

/// Number of connections this program may open, if that is fewer than the trial wants.
fn connections_cap(trial: &Trial) -> Result<Option<NonZeroUsize>, Error> {
    let Some(room) = NonZeroUsize::new(descriptors::connections(trial.threads.get())) else {
        let text = "the limit on open files leaves none for connections: raise it (ulimit -n)";
        return Err(Error::Usage(text.to_owned()));
    };
    Ok(Some(room).filter(|room| *room < trial.connections))
}
