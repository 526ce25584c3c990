//! Sends a workload on a schedule: one loop for every arrival process.
//!
//! A sender thread a core, each with its own event loop, connections and share of one schedule:
//! thread `t` of `n` takes arrivals `t`, `t + n`, …, so the union is the same for any `n`. Nothing
//! is shared while requests fly but two counters for the progress bar. Everything is bounded:
//! connections, the queue in front of them, the time of a request, the samples that are kept.

mod arrivals;
mod connection;
mod exchange;
mod sender;
mod tally;
mod timer;

pub use tally::Tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use crate::experiment::Trial;
use crate::sample::Sample;
use crate::workload::Workload;

/// What came of a trial.
#[derive(Debug)]
pub struct Run {
    /// Counts and histograms of every measured request.
    pub tally: Tally,
    /// Samples by scheduled instant, warm-up included; at most [`Trial::keep_samples`].
    pub samples: Vec<Sample>,
}

/// How far a trial is, for the progress bar, and the wish to end it early.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests that ended well.
    pub succeeded: AtomicU64,
    /// Requests that did not.
    pub failed: AtomicU64,
    /// Set to stop sending; answers under way are still waited for.
    pub stop: AtomicBool,
}

impl Progress {
    /// Requests that ended.
    pub fn done(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}

/// Runs `trial` to its end, or until `progress.stop`; blocks.
pub fn run(
    trial: &Trial,
    address: SocketAddr,
    workload: &Arc<Workload>,
    progress: &Arc<Progress>,
) -> anyhow::Result<Run> {
    trial.validate()?;
    let threads = trial.threads.get();
    // Leave time for every thread to be up, so that the first arrivals are not late.
    let start = Instant::now() + Duration::from_millis(20);
    let senders: Vec<_> = (0..threads)
        .map(|thread| {
            let assignment = sender::Assignment {
                trial: trial.clone(),
                thread,
                address,
                workload: Arc::clone(workload),
                progress: Arc::clone(progress),
                start,
            };
            std::thread::Builder::new()
                .name(format!("sender-{thread}"))
                .spawn(move || sender::send_share(assignment))
                .context("starting a sender thread")
        })
        .collect::<anyhow::Result<_>>()?;
    let mut tally = Tally::of(trial);
    let mut samples = Vec::new();
    for sender in senders {
        let run = sender.join().map_err(|_| anyhow::anyhow!("a sender thread panicked"))??;
        tally.merge(&run.tally);
        samples.extend(run.samples);
    }
    samples.sort_by_key(|sample: &Sample| sample.scheduled);
    Ok(Run { tally, samples })
}
