//! The progress of a run: for the line on the terminal, and for Prometheus.
//!
//! Counts cover all requests; latencies cover the individually kept requests of the last seconds.
//! Senders never wait for any of this.

mod metrics;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use metrics::Metrics;
use tokio::time::Instant;

use crate::driver::Progress;
use crate::stats::{sorted, sound_quantile};

/// The period that the displayed latencies cover.
const SPAN: Duration = Duration::from_secs(10);
/// Limit on the latencies that are kept.
const MOST: usize = 20_000;
/// How often the figures are recomputed.
const EVERY: Duration = Duration::from_secs(1);

/// The figures at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// Requests that ended in the last second.
    pub(crate) rate: f64,
    /// Median latency of the last seconds (ms); `None`, like the others, if there are too few.
    pub(crate) p50: Option<f64>,
    pub(crate) p95: Option<f64>,
    pub(crate) p99: Option<f64>,
}

/// Figures shared with other tasks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board(Arc<Mutex<Figures>>);

impl Board {
    pub(crate) fn figures(&self) -> Figures {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, figures: Figures) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }
}

/// Computes the figures from the requests that ended.
#[derive(Debug)]
pub(crate) struct Live {
    board: Board,
    recent: VecDeque<(Instant, f64)>,
    last: Instant,
    done: u64,
}

impl Live {
    /// Publishes to `board`, from `now` on.
    pub(crate) fn new(board: Board, now: Instant) -> Self {
        Self { board, recent: VecDeque::new(), last: now, done: 0 }
    }

    /// Records a request that ended at about `now`.
    pub(crate) fn ended(&mut self, now: Instant, latency_ms: f64) {
        if self.recent.len() == MOST {
            self.recent.pop_front();
        }
        self.recent.push_back((now, latency_ms));
    }

    /// Recomputes the figures if they are due, and returns them.
    pub(crate) fn look(&mut self, now: Instant, progress: &Progress) -> Figures {
        let since = now.saturating_duration_since(self.last);
        if since >= EVERY {
            let done = progress.done();
            let rate = done.saturating_sub(self.done) as f64 / since.as_secs_f64();
            (self.last, self.done) = (now, done);
            let figures = self.figures(now, progress, rate);
            self.board.write(figures);
        }
        self.board.figures()
    }

    fn figures(&mut self, now: Instant, progress: &Progress, rate: f64) -> Figures {
        use std::sync::atomic::Ordering::Relaxed;
        while self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > SPAN) {
            self.recent.pop_front();
        }
        let times: Vec<f64> = self.recent.iter().map(|(_, time)| *time).collect();
        let times = sorted(&times);
        let at = |q| sound_quantile(&times, q);
        Figures {
            succeeded: progress.succeeded.load(Relaxed),
            failed: progress.failed.load(Relaxed),
            rate,
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Board, Live, MOST};
    use crate::driver::Progress;

    #[test]
    fn figures_are_of_the_last_seconds_and_need_samples_enough() {
        let (board, start) = (Board::default(), Instant::now());
        let second = Duration::from_secs(1);
        let (mut live, progress) = (Live::new(board.clone(), start), Progress::default());
        for number in 0..500_u32 {
            live.ended(start, f64::from(number));
        }
        progress.succeeded.store(480, Ordering::Relaxed);
        progress.failed.store(20, Ordering::Relaxed);
        assert!(live.look(start + second / 2, &progress).p50.is_none(), "not yet");
        let figures = live.look(start + 2 * second, &progress);
        assert!((figures.rate - 250.0).abs() < 1e-9 && figures.failed == 20);
        assert!((figures.p50.unwrap() - 249.5).abs() < 1.0 && figures.p99.is_none());
        assert_eq!(board.figures(), figures);
        let later = live.look(start + 20 * second, &progress);
        assert!(later.p50.is_none() && later.rate.abs() < 1e-9);
        (0..2 * MOST).for_each(|_| live.ended(start, 1.0));
        assert_eq!(live.recent.len(), MOST);
    }
}
