//! How a run went, part by part: what was due, what was answered, what failed, how long it took.
//!
//! Answers count in the part in which they came, everything else in the part in which the request
//! was due: a service that stalls shows no answers for a while, and the requests of that while as
//! slow. The warm-up is part of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::times::MAX_NANOS;
use crate::sample::Sample;
use crate::stats::samples_for;

/// More are no easier to read.
const PARTS: u32 = 60;
/// Less than this is noise.
const SHORTEST: Duration = Duration::from_millis(100);
/// Names of endpoints that are told apart in one part.
const MAX_NAMES: usize = 1000;

/// Parts of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Timeline {
    width: Duration,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Part {
    due: u64,
    succeeded: u64,
    failed: u64,
    /// Nothing until the first request: most runs of tests and trials need few of them.
    #[serde(with = "super::exact::part")]
    latency: Option<Box<Histogram<u64>>>,
    #[serde(with = "super::exact::name_set")]
    endpoints: BTreeSet<Arc<str>>,
}

/// What a part of a run was like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Its middle, in seconds since the start.
    pub seconds: f64,
    /// Requests per second that were due in it.
    pub offered_rate: f64,
    /// Successful answers per second that came in it.
    pub throughput: f64,
    /// Requests per second that were due in it and failed.
    pub failed_rate: f64,
    /// Median latency of the requests that were due in it (ms), if there are enough.
    pub p50_ms: Option<f64>,
    /// 95th percentile, if there are enough.
    pub p95_ms: Option<f64>,
    /// Latency of the slowest request (ms).
    pub max_ms: Option<f64>,
    /// Endpoints that answered one of them.
    pub endpoints: usize,
}

impl Timeline {
    /// For a run that sends for this long.
    pub fn new(duration: Duration) -> Self {
        let width = (duration / PARTS).max(SHORTEST);
        let count = duration.as_nanos().div_ceil(width.as_nanos());
        let count = usize::try_from(count).unwrap_or(1).clamp(1, PARTS as usize + 1);
        Self { width, parts: vec![Part::default(); count] }
    }

    /// Adds a request to the second in which it was due.
    pub fn record(&mut self, sample: &Sample) {
        let succeeded = sample.outcome.is_success();
        let part = self.part(sample.scheduled);
        if let Some(part) = part {
            part.due += 1;
            part.failed += u64::from(!succeeded);
            let latency = part.latency.get_or_insert_with(|| Box::new(histogram()));
            latency.saturating_record(nanos(sample.latency()));
            if let Some(endpoint) = sample.endpoint.as_ref()
                && part.endpoints.len() < MAX_NAMES
                && !part.endpoints.contains(endpoint)
            {
                part.endpoints.insert(Arc::clone(endpoint));
            }
        }
        if succeeded && let Some(part) = self.part(sample.done) {
            part.succeeded += 1;
        }
    }

    fn part(&mut self, at: Duration) -> Option<&mut Part> {
        // Not in the 128 bits of a duration: this is done twice for every request.
        let number = nanos(at) / nanos(self.width).max(1);
        self.parts.get_mut(usize::try_from(number).ok()?)
    }

    /// Adds what another thread saw of the same run.
    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.parts.iter_mut().zip(&other.parts) {
            mine.due += theirs.due;
            mine.succeeded += theirs.succeeded;
            mine.failed += theirs.failed;
            mine.endpoints.extend(theirs.endpoints.iter().cloned());
            if let Some(theirs) = &theirs.latency {
                let latency = mine.latency.get_or_insert_with(|| Box::new(histogram()));
                latency.add(&**theirs).expect("all histograms have the same bounds");
            }
        }
    }

    /// The parts up to the last one in which a request was due, where `every` requests stand for each
    /// that was recorded.
    pub fn moments(&self, every: f64) -> Vec<Moment> {
        let count = self.parts.iter().rposition(|part| part.due > 0).map_or(0, |last| last + 1);
        let parts = self.parts.iter().take(count).enumerate();
        parts.map(|(number, part)| part.moment(number, self.width, every)).collect()
    }
}

impl Part {
    fn moment(&self, number: usize, width: Duration, every: f64) -> Moment {
        let seconds = width.as_secs_f64();
        let rate = |count: u64| count as f64 * every / seconds;
        let latency = self.latency.as_deref();
        let at = |q: f64| {
            let latency = latency.filter(|it| it.len() as f64 >= samples_for(q))?;
            Some(latency.value_at_quantile(q) as f64 / 1e6)
        };
        Moment {
            seconds: (number as f64 + 0.5) * seconds,
            offered_rate: rate(self.due),
            throughput: rate(self.succeeded),
            failed_rate: rate(self.failed),
            p50_ms: at(0.5),
            p95_ms: at(0.95),
            max_ms: latency.map(|latency| latency.max() as f64 / 1e6),
            endpoints: self.endpoints.len(),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Two digits: a chart shows no more, and there are many of these.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1000, MAX_NANOS, 2).expect("the bounds are valid")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::Timeline;
    use crate::sample::{Failure, Outcome, Sample};

    const MS: Duration = Duration::from_millis(1);

    fn sample(scheduled: Duration, latency: Duration, outcome: Outcome) -> Sample {
        Sample {
            index: 0,
            item: 0,
            warm_up: false,
            scheduled,
            dispatched: scheduled,
            ready: Some(scheduled),
            sent: Some(scheduled),
            first_byte: scheduled,
            done: scheduled + latency,
            outcome,
            bytes: 0,
            endpoint: Some(Arc::from(if scheduled < 1000 * MS { "w1" } else { "w2" })),
            timings: None,
            labels: Vec::new(),
            correct: None,
        }
    }

    #[test]
    fn a_stall_shows_no_answers_and_slow_requests() {
        let mut timeline = Timeline::new(2000 * MS);
        // 100 a second; in the second half of each second no request is answered before its end.
        for number in 0..200_u32 {
            let at = 10 * MS * number;
            let is_stalled = number % 100 >= 50;
            let latency = if is_stalled { 10 * MS * (100 - number % 100) } else { 2 * MS };
            let lost = Outcome::Failed(Failure::Timeout);
            let outcome = if number == 199 { lost } else { Outcome::Answered(200) };
            timeline.record(&sample(at, latency, outcome));
        }
        let moments = timeline.moments(1.0);
        assert_eq!(moments.len(), 20);
        assert!(moments.iter().all(|it| (it.offered_rate - 100.0).abs() < 1e-9));
        let rates = [0, 5, 9, 10].map(|part: usize| moments[part].throughput);
        assert!(rates[0] > 90.0 && rates[1] == 0.0 && rates[2] == 0.0 && rates[3] > 500.0);
        assert!(moments[6].max_ms.unwrap() > 390.0 && moments[6].p50_ms.is_none());
        assert!((moments[19].failed_rate - 10.0).abs() < 1e-9);
        assert_eq!((moments[3].endpoints, moments[13].endpoints), (1, 1));
        let mut twice = timeline.clone();
        twice.merge(&timeline);
        assert!((twice.moments(0.5)[3].offered_rate - 100.0).abs() < 1e-9);
    }

    #[test]
    fn what_ends_long_after_the_run_is_in_no_part() {
        let mut timeline = Timeline::new(50 * MS);
        timeline.record(&sample(MS, 90_000 * MS, Outcome::Answered(200)));
        let moments = timeline.moments(1.0);
        assert_eq!((moments.len(), moments[0].throughput), (1, 0.0));
    }
}
