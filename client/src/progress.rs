//! A progress bar over a trial, and Ctrl-C that ends it early instead of losing it.
//!
//! The bar looks at two counters ten times a second; the senders never wait for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::driver::{self, Progress, Run};
use crate::experiment::Trial;
use crate::workload::Workload;

const REFRESH: Duration = Duration::from_millis(100);

/// A run, and whether the user ended it.
#[derive(Debug)]
pub struct Observed {
    /// What came of the trial.
    pub run: Run,
    /// Ctrl-C was pressed: what was asked for is not complete.
    pub interrupted: bool,
}

/// Runs `trial` with a bar on stderr that says `label`.
pub fn run(
    trial: &Trial,
    address: SocketAddr,
    workload: &Arc<Workload>,
    label: &str,
) -> anyhow::Result<Observed> {
    let progress = Arc::new(Progress::default());
    let bar = bar(trial, label);
    let watch = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting an event loop")?;
    let observed = std::thread::scope(|scope| {
        let (done, is_done) = tokio::sync::oneshot::channel();
        let running = scope.spawn({
            let progress = Arc::clone(&progress);
            move || {
                let run = driver::run(trial, address, workload, &progress);
                drop(done); // the watch sees the end, also when this panics
                run
            }
        });
        let interrupted = watch.block_on(watch_until(is_done, &progress, trial, &bar));
        let run = running.join().map_err(|_| anyhow::anyhow!("the driver panicked"))??;
        Ok(Observed { run, interrupted })
    });
    bar.finish_and_clear();
    observed
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

/// Refreshes the bar until the driver ends; true if the user interrupted it.
async fn watch_until(
    mut is_done: tokio::sync::oneshot::Receiver<()>,
    progress: &Progress,
    trial: &Trial,
    bar: &ProgressBar,
) -> bool {
    let mut refresh = tokio::time::interval(REFRESH);
    let start = tokio::time::Instant::now();
    let mut interrupted = false;
    loop {
        tokio::select! {
            _ended = &mut is_done => return interrupted,
            pressed = tokio::signal::ctrl_c(), if !interrupted => {
                if pressed.is_ok() {
                    interrupted = true;
                    progress.stop.store(true, Ordering::Relaxed);
                    tracing::warn!("ending early; what was measured is kept");
                }
            }
            _tick = refresh.tick() => {
                let elapsed = start.elapsed();
                bar.set_position(match trial.requests {
                    Some(_) => progress.done(),
                    None => elapsed.as_secs(),
                });
                let failed = progress.failed.load(Ordering::Relaxed);
                let rate = progress.done() as f64 / elapsed.as_secs_f64().max(0.1);
                bar.set_message(format!("{} done, {rate:.0}/s, {failed} failed", progress.done()));
            }
        }
    }
}
