//! Counts and histograms of a trial, filled while it runs and merged when it ends.
//!
//! A tally has the same size after a million requests as after ten; quantiles come from it with
//! three significant digits. Warm-up never enters it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::experiment::Trial;
use crate::sample::{Outcome, Sample};

/// One hour in nanoseconds: longer times count as this long.
const MAX_NANOS: u64 = 3_600_000_000_000;

/// Everything that is known about the measured requests without looking at them one by one.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Scheduled to done, of answered requests (nanoseconds).
    pub latency: Histogram<u64>,
    /// Sent to done, of answered requests (nanoseconds).
    pub service_time: Histogram<u64>,
    /// Scheduled to dispatched, of all requests (nanoseconds): the generator's own lateness.
    pub scheduling_error: Histogram<u64>,
    /// The worker's own stages, of answers that state them (nanoseconds), by stage.
    pub stages: BTreeMap<&'static str, Histogram<u64>>,
    /// How requests ended.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Successful answers by endpoint.
    pub endpoints: BTreeMap<Arc<str>, u64>,
    /// Answers whose label was compared.
    pub checked: u64,
    /// Answers whose label was right.
    pub correct: u64,
    /// Bytes of answers' bodies.
    pub bytes: u64,
    /// Start of the measured time, last scheduled instant, and end of the measured time or of the
    /// last answer, whichever is later.
    pub window: Option<(Duration, Duration, Duration)>,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self {
            latency: histogram(),
            service_time: histogram(),
            scheduling_error: histogram(),
            stages: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            checked: 0,
            correct: 0,
            bytes: 0,
            window: None,
        }
    }

    /// Nothing counted yet of `trial`. A trial of a set length is measured over all of it, so that
    /// a few early requests do not look like a high rate; one that a number of requests may end
    /// sooner is measured from the first to the last of them.
    pub fn of(trial: &Trial) -> Self {
        let mut tally = Self::new();
        if let (0, None, Some(end)) = (trial.warm_up_requests, trial.requests, trial.duration) {
            tally.window = Some((trial.warm_up, trial.warm_up, end.max(trial.warm_up)));
        }
        tally
    }

    /// Counts `sample`, unless it is warm-up.
    pub fn record(&mut self, sample: &Sample) {
        if sample.warm_up {
            return;
        }
        *self.outcomes.entry(sample.outcome).or_default() += 1;
        self.scheduling_error.saturating_record(nanos(sample.scheduling_error()));
        self.widen((sample.scheduled, sample.scheduled, sample.done));
        self.bytes += sample.bytes as u64;
        if let Some(correct) = sample.correct {
            self.checked += 1;
            self.correct += u64::from(correct);
        }
        if !sample.outcome.is_success() {
            return;
        }
        self.latency.saturating_record(nanos(sample.latency()));
        self.service_time.saturating_record(nanos(sample.service_time()));
        if let Some(endpoint) = &sample.endpoint {
            match self.endpoints.get_mut(endpoint) {
                Some(count) => *count += 1,
                None => {
                    self.endpoints.insert(Arc::clone(endpoint), 1);
                }
            }
        }
        if let Some(timings) = &sample.timings {
            self.record_stages(timings);
        }
    }

    fn record_stages(&mut self, timings: &wire::Timings) {
        let stages = [
            ("decode", timings.decode),
            ("preprocess", timings.preprocess),
            ("queue", timings.queue),
            ("compute", timings.compute),
            ("total", timings.total),
        ];
        for (name, milliseconds) in stages {
            let time = Duration::try_from_secs_f64(milliseconds / 1e3).unwrap_or_default();
            self.stages.entry(name).or_insert_with(histogram).saturating_record(nanos(time));
        }
    }

    /// Adds what another thread counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        const SAME: &str = "all histograms have the same bounds";
        self.latency.add(&other.latency).expect(SAME);
        self.service_time.add(&other.service_time).expect(SAME);
        self.scheduling_error.add(&other.scheduling_error).expect(SAME);
        for (name, theirs) in &other.stages {
            self.stages.entry(name).or_insert_with(histogram).add(theirs).expect(SAME);
        }
        for (outcome, count) in &other.outcomes {
            *self.outcomes.entry(*outcome).or_default() += count;
        }
        for (endpoint, count) in &other.endpoints {
            *self.endpoints.entry(Arc::clone(endpoint)).or_default() += count;
        }
        self.checked += other.checked;
        self.correct += other.correct;
        self.bytes += other.bytes;
        if let Some(window) = other.window {
            self.widen(window);
        }
    }

    fn widen(&mut self, (first, last, done): (Duration, Duration, Duration)) {
        self.window = Some(match self.window {
            None => (first, last, done),
            Some((f, l, d)) => (f.min(first), l.max(last), d.max(done)),
        });
    }

    /// Measured requests.
    pub fn requests(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Requests that were answered with 2xx.
    pub fn successes(&self) -> u64 {
        self.outcomes.iter().filter(|(outcome, _)| outcome.is_success()).map(|(_, n)| n).sum()
    }

    /// Requests that were not.
    pub fn errors(&self) -> u64 {
        self.requests() - self.successes()
    }

    /// From the start of the measured time to its end or the last answer.
    pub fn elapsed(&self) -> Duration {
        self.window.map_or(Duration::ZERO, |(first, _, done)| done.saturating_sub(first))
    }

    /// Successful answers a second of the measured time.
    pub fn throughput(&self) -> f64 {
        let seconds = self.elapsed().as_secs_f64();
        if seconds > 0.0 { self.successes() as f64 / seconds } else { 0.0 }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_NANOS, 3).expect("the bounds are valid")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(MAX_NANOS)
}
