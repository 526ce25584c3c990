//! A progress bar for a trial, and signals that end a trial early without losing its results.
//!
//! The bar reads some counters ten times per second; the senders never wait for it. A first Ctrl-C
//! stops sending and waits for outstanding answers; a second one stops waiting.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::agents::Agents;
use crate::driver::{self, Destination, Progress, Run};
use crate::experiment::Trial;
use crate::live::{Board, Live, Metrics};
use crate::record::{Journal, Row};
use crate::report::{milliseconds, number};
use crate::sample::Sample;
use crate::signals;
use crate::workload::Workload;

const REFRESH: Duration = Duration::from_millis(100);

/// A run, and whether the user ended it.
#[derive(Debug)]
pub struct Observed {
    /// The outcome of the trial.
    pub run: Run,
    /// Whether a signal ended the trial, so that it is incomplete.
    pub interrupted: bool,
}

/// How a trial is shown and kept while it runs.
#[derive(Debug)]
pub struct Shown<'a> {
    /// Label of the bar.
    pub label: &'a str,
    /// Name of the trial in the samples.
    pub trial: &'a str,
    /// Where samples are kept until the run is over.
    pub journal: &'a mut Journal,
    /// The server that publishes the figures of the run, if any.
    pub metrics: Option<&'a Metrics>,
}

/// Runs `trial` with a bar on stderr.
pub fn run(
    trial: &Trial,
    destination: &Destination,
    workload: &Arc<Workload>,
    shown: Shown<'_>,
) -> anyhow::Result<Observed> {
    let bar = bar(trial, shown.label);
    let run = |progress: &Arc<Progress>, kept: Option<mpsc::Sender<Sample>>| {
        driver::run(trial, destination, workload, progress, kept)
    };
    let observed = observe(trial, workload, &bar, Some(shown), run);
    bar.finish_and_clear();
    observed
}

/// Has agents run the trial, with a bar on stderr.
pub(crate) fn run_elsewhere(
    agents: Agents,
    workload: &Arc<Workload>,
    shown: Shown<'_>,
) -> anyhow::Result<Observed> {
    let trial = agents.trial().clone();
    let bar = bar(&trial, shown.label);
    let run = |progress: &Arc<Progress>, kept: Option<mpsc::Sender<Sample>>| {
        agents.run(progress, kept.as_ref())
    };
    let observed = observe(&trial, workload, &bar, Some(shown), run);
    bar.finish_and_clear();
    observed
}

/// Runs `trial` without a bar or a journal: it is not part of the results.
pub fn run_unseen(
    trial: &Trial,
    destination: &Destination,
    workload: &Arc<Workload>,
) -> anyhow::Result<Observed> {
    let run = |progress: &Arc<Progress>, kept: Option<mpsc::Sender<Sample>>| {
        driver::run(trial, destination, workload, progress, kept)
    };
    observe(trial, workload, &ProgressBar::hidden(), None, run)
}

fn observe(
    trial: &Trial,
    workload: &Arc<Workload>,
    bar: &ProgressBar,
    mut shown: Option<Shown<'_>>,
    run: impl FnOnce(&Arc<Progress>, Option<mpsc::Sender<Sample>>) -> anyhow::Result<Run> + Send,
) -> anyhow::Result<Observed> {
    signals::watch();
    let progress = Arc::new(Progress::default());
    let (kept, samples) = mpsc::channel();
    let kept = shown.is_some().then_some(kept);
    std::thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        let running = scope.spawn({
            let progress = Arc::clone(&progress);
            move || {
                let run = run(&progress, kept);
                drop(done); // the watch sees the end, also when this panics
                run
            }
        });
        let metrics = shown.as_ref().and_then(|shown| shown.metrics);
        let board = metrics.map_or_else(Board::default, Metrics::board);
        let start = Instant::now();
        let live = Live::new(board, start);
        let mut watch = Watch { trial, progress: &progress, bar, start, live, said: 0 };
        loop {
            let has_ended =
                is_done.recv_timeout(REFRESH) == Err(mpsc::RecvTimeoutError::Disconnected);
            if let Some(shown) = &mut shown {
                keep(shown, workload, &samples, &mut watch.live);
            }
            watch.look();
            if has_ended {
                break;
            }
        }
        let run = running.join().map_err(|_| anyhow::anyhow!("the driver panicked"))??;
        Ok(Observed { run, interrupted: watch.said > 0 })
    })
}

/// Writes the samples since the last call to the journal. A failure to write does not stop the
/// measurement: at the end all samples are written once more.
fn keep(
    shown: &mut Shown<'_>,
    workload: &Workload,
    samples: &mpsc::Receiver<Sample>,
    live: &mut Live,
) {
    let now = Instant::now();
    let row = |sample: Sample| {
        live.ended(now, milliseconds(sample.latency()));
        Row::new(shown.trial, &sample, workload)
    };
    shown.journal.append(samples.try_iter().map(row));
}

fn bar(trial: &Trial, label: &str) -> ProgressBar {
    let style = |template: &str| {
        ProgressStyle::with_template(template).expect("the template is valid").progress_chars("=> ")
    };
    let bar = match (trial.requests, trial.duration) {
        (Some(requests), _) => ProgressBar::new(requests),
        (None, duration) => ProgressBar::new(duration.unwrap_or_default().as_secs()),
    };
    bar.set_style(style("{prefix} [{bar:30}] {percent:>3} %  {msg}  eta {eta}"));
    bar.set_prefix(label.to_owned());
    bar
}

/// Watches a running trial.
struct Watch<'a> {
    trial: &'a Trial,
    progress: &'a Progress,
    bar: &'a ProgressBar,
    start: Instant,
    live: Live,
    /// Number of signals passed on.
    said: usize,
}

impl Watch<'_> {
    fn look(&mut self) {
        let wishes = signals::count();
        if wishes > 0 && self.said == 0 {
            self.said = 1;
            self.progress.stop();
            let limit = humantime::format_duration(self.trial.timeout);
            tracing::warn!(
                "stopping early and keeping what was measured; requests in flight have {limit}, a second signal stops at once"
            );
        }
        if wishes > 1 && self.said == 1 {
            self.said = 2;
            self.progress.abandon();
            tracing::warn!("no longer waiting for answers");
        }
        self.show();
    }

    fn show(&mut self) {
        let (progress, elapsed) = (self.progress, self.start.elapsed());
        let figures = self.live.look(Instant::now(), progress);
        self.bar.set_position(match self.trial.requests {
            Some(_) => progress.done(),
            None => elapsed.as_secs(),
        });
        let failed = progress.failed.load(Ordering::Relaxed);
        let is_drain = progress.draining.load(Ordering::Relaxed) == self.trial.threads.get() as u64;
        self.bar.set_message(if is_drain {
            let waiting = progress.waiting.load(Ordering::Relaxed);
            let limit = humantime::format_duration(self.trial.timeout);
            format!("{waiting} unanswered, {failed} failed; waiting at most {limit}")
        } else {
            let (p50, p99) = (number(figures.p50), number(figures.p99));
            format!(
                "{} done, {:.0}/s, p50 {p50} p99 {p99} ms, {failed} failed",
                progress.done(),
                figures.rate
            )
        });
    }
}
