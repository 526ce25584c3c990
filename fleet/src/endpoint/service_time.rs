//! How long an endpoint takes, estimated from its answers and its silence.
//!
//! The moving average jumps up with a slow answer and comes down gradually (peak EWMA, as in
//! Finagle). An attempt without a useful answer can raise it and never lowers it: an endpoint that
//! refuses immediately is not a fast one. Without answers the average decays, so that an endpoint
//! which was slow once is tried again; but silence makes no endpoint look faster than those it is
//! compared with. An endpoint that has never answered counts as no better than others.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::nanoseconds;

/// The moving average forgets with this time constant.
const DECAY: Duration = Duration::from_secs(10);
/// Shorter times are clock noise, or no work.
const FLOOR: f64 = 1e5;
/// Averages that differ by less than this factor count as equal. They are made of few answers, and
/// which of two similar endpoints had the last slow one should not decide for seconds.
const NOISE: f64 = 1.25;

/// The moving average; times are nanoseconds since the endpoint was born.
#[derive(Debug)]
pub(crate) struct ServiceTime {
    /// Nanoseconds as the bits of an `f64`; infinite while nothing is known.
    average: AtomicU64,
    /// When it was last updated.
    averaged_at: AtomicU64,
    /// When the endpoint last answered anything.
    answered_at: AtomicU64,
    /// When it was first sent a request after being idle.
    asked_at: AtomicU64,
}

/// What is known about the service time of an endpoint at one moment; nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// As it was measured; infinite if it never was.
    measured: f64,
    /// The measured time after decay during silence; at least as long as requests have been waiting
    /// for an answer.
    current: f64,
}

impl ServiceTime {
    pub(crate) fn new() -> Self {
        Self {
            average: AtomicU64::new(f64::INFINITY.to_bits()),
            averaged_at: AtomicU64::new(0),
            answered_at: AtomicU64::new(0),
            asked_at: AtomicU64::new(0),
        }
    }

    /// Records that an idle endpoint is sent a request.
    pub(crate) fn ask(&self, now: u64) {
        self.asked_at.store(now, Relaxed);
    }

    /// Records how long a useful answer took. Two threads may race here and lose one sample; the
    /// next one repairs it.
    pub(crate) fn observe(&self, elapsed: Duration, now: u64) {
        self.answered_at.store(now, Relaxed);
        let sample = (nanoseconds(elapsed) as f64).max(FLOOR);
        let before = self.average.load(Relaxed);
        let average = f64::from_bits(before);
        let keep = kept(now.saturating_sub(self.averaged_at.load(Relaxed)));
        let is_higher = sample > average || average.is_infinite();
        let next = if is_higher { sample } else { average * keep + sample * (1.0 - keep) };
        if next.to_bits() != before {
            self.average.store(next.to_bits(), Relaxed);
        }
        self.averaged_at.store(now, Relaxed);
    }

    /// Records an answer without use that took this long, or counts as if it had.
    pub(crate) fn observe_useless(&self, elapsed: Duration, now: u64) {
        self.answered_at.store(now, Relaxed);
        self.raise(elapsed, now);
    }

    /// Raises the average; never lowers it.
    pub(crate) fn raise(&self, elapsed: Duration, now: u64) {
        let sample = (nanoseconds(elapsed) as f64).max(FLOOR);
        let average = f64::from_bits(self.average.load(Relaxed));
        let sunk = average * kept(now.saturating_sub(self.averaged_at.load(Relaxed)));
        if sample >= sunk || average.is_infinite() {
            self.average.store(sample.to_bits(), Relaxed);
            self.averaged_at.store(now, Relaxed);
        }
    }

    /// Forgets everything: the next answers come from another process, or from one that has
    /// recovered.
    pub(crate) fn forget(&self, now: u64) {
        self.average.store(f64::INFINITY.to_bits(), Relaxed);
        self.answered_at.store(now, Relaxed);
    }

    /// When the endpoint last answered anything.
    pub(crate) fn answered_at(&self) -> u64 {
        self.answered_at.load(Relaxed)
    }

    /// The estimate as of `now`; `is_asked` says whether the endpoint has requests to answer.
    pub(crate) fn estimate(&self, now: u64, is_asked: bool) -> Estimate {
        let measured = f64::from_bits(self.average.load(Relaxed));
        let gap = now.saturating_sub(self.averaged_at.load(Relaxed));
        let sunk = match measured.is_finite() {
            true if gap < nanoseconds(DECAY) / 64 => measured,
            true => measured * kept(gap),
            false => 0.0,
        };
        let heard = self.answered_at.load(Relaxed).max(self.asked_at.load(Relaxed));
        let silent = if is_asked { now.saturating_sub(heard) as f64 } else { 0.0 };
        Estimate { measured, current: sunk.max(silent) }
    }
}

impl Estimate {
    /// The service time to use in a comparison with `other`, in nanoseconds; at least 1. Both sides
    /// get the same value if they hardly differ.
    pub fn beside(&self, other: &Self) -> f64 {
        let (here, there) = (self.awake(other), other.awake(self));
        let longer = here.max(there);
        if longer <= here * NOISE { longer } else { here }
    }

    /// The time after decay, but no less than that of `other` if it was measured to be no less.
    fn awake(&self, other: &Self) -> f64 {
        self.current.max(self.measured.min(other.current)).max(1.0)
    }

    /// The service time in nanoseconds; 0 if it is unknown.
    pub fn nanoseconds(&self) -> f64 {
        self.current
    }
}

/// The share of the average that remains after `gap` nanoseconds.
fn kept(gap: u64) -> f64 {
    let age = gap as f64 / nanoseconds(DECAY) as f64;
    // Under load the gaps are short; then the first terms of the series are exact to 1e-9.
    if age < 1e-3 { 1.0 - age + age * age / 2.0 } else { (-age).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn known(time: &ServiceTime, now: u64) -> f64 {
        time.estimate(now, false).nanoseconds()
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let time = ServiceTime::new();
        time.observe(Duration::from_millis(500), 0);
        assert!((known(&time, 0) - 5e8).abs() < 1.0);
        time.observe(Duration::from_millis(5), 10 * SECOND);
        let average = known(&time, 10 * SECOND);
        assert!(average > 1.8e8 && average < 2e8, "{average}");
    }

    #[test]
    fn what_is_of_no_use_lowers_nothing() {
        let time = ServiceTime::new();
        time.observe(Duration::from_millis(20), 0);
        for n in 0..1000 {
            time.observe_useless(Duration::from_micros(1), n * 1000);
        }
        assert!((known(&time, 1_000_000) - 2e7).abs() < 1e5);
        time.raise(Duration::from_millis(250), 1_000_000);
        assert!((known(&time, 1_000_000) - 2.5e8).abs() < 1.0);
    }

    #[test]
    fn an_answer_in_no_time_is_not_infinitely_good() {
        let time = ServiceTime::new();
        time.observe(Duration::ZERO, 0);
        assert!((known(&time, 0) - FLOOR).abs() < 1.0);
    }

    #[test]
    fn an_unknown_endpoint_is_as_slow_as_the_one_beside_it() {
        let (new, known) = (ServiceTime::new(), ServiceTime::new());
        known.observe(Duration::from_millis(20), 0);
        let (new, known) = (new.estimate(0, false), known.estimate(0, false));
        assert!((new.beside(&known) - 2e7).abs() < 1.0);
        assert!((known.beside(&new) - 2e7).abs() < 1.0);
        assert!((new.beside(&new) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn silence_lowers_the_average_but_makes_nobody_faster_than_others() {
        let (slow, other) = (ServiceTime::new(), ServiceTime::new());
        slow.observe(Duration::from_secs(1), 0);
        let now = 60 * SECOND;
        other.observe(Duration::from_millis(20), now);
        let (slow, other) = (slow.estimate(now, false), other.estimate(now, false));
        assert!(slow.nanoseconds() < 1e7);
        assert!((slow.beside(&other) - 2e7).abs() < 1.0);
    }

    #[test]
    fn a_small_difference_is_none_for_either_side() {
        let known = |milliseconds| {
            let time = ServiceTime::new();
            time.observe(Duration::from_millis(milliseconds), 0);
            time.estimate(0, false)
        };
        let (short, longer, long) = (known(20), known(24), known(26));
        assert!((short.beside(&longer) - longer.beside(&short)).abs() < 1.0);
        assert!((short.beside(&long) - 2e7).abs() < 1.0);
        assert!((long.beside(&short) - 2.6e7).abs() < 1.0);
    }

    #[test]
    fn waiting_for_any_answer_counts_before_it_is_over() {
        let time = ServiceTime::new();
        time.ask(SECOND);
        assert!((time.estimate(3 * SECOND, true).nanoseconds() - 2e9).abs() < 1.0);
        time.observe(Duration::from_secs(2), 3 * SECOND);
        assert!((time.estimate(3 * SECOND, true).nanoseconds() - 2e9).abs() < 1.0);
    }

    #[test]
    fn the_short_cut_for_short_gaps_is_the_exponential() {
        for gap in [0, 1, 999, 1_000_000, 9_999_999, 10_000_001] {
            let exact = (-(gap as f64) / 1e10).exp();
            assert!((kept(gap) - exact).abs() < 1e-9, "{gap}");
        }
    }
}
