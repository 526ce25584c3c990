//! The course of a run, part by part: requests due, answered and failed, and how long they took.
//!
//! Answers count in the part in which they arrived, everything else in the part in which the
//! request was due: a service that stalls shows no answers for a while, and the requests due in
//! that time as slow. The warm-up is included.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::times::MAX_NANOS;
use crate::sample::Sample;
use crate::stats::samples_for;

/// Maximum number of parts: more are no easier to read.
const PARTS: u32 = 60;
/// Minimum length of a part: less than this is noise.
const SHORTEST: Duration = Duration::from_millis(100);
/// Number of endpoint names that are told apart in one part.
const MAX_NAMES: usize = 1000;

/// Parts of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Timeline {
    width: Duration,
    /// When sending ended, and the last part with it.
    end: Duration,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Part {
    due: u64,
    succeeded: u64,
    failed: u64,
    /// `None` until the first request: most runs of tests and trials need few of them.
    #[serde(with = "super::exact::part")]
    latency: Option<Box<Histogram<u64>>>,
    #[serde(with = "super::exact::name_set")]
    endpoints: BTreeSet<Arc<str>>,
}

/// The figures of one part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Its middle, in seconds since the start.
    pub seconds: f64,
    /// Requests per second that were due in it.
    pub offered_rate: f64,
    /// Successful answers per second that arrived in it.
    pub throughput: f64,
    /// Requests per second that were due in it and failed.
    pub failed_rate: f64,
    /// Median latency of the requests that were due in it (ms), if there are enough.
    pub p50_ms: Option<f64>,
    /// 95th percentile, if there are enough.
    pub p95_ms: Option<f64>,
    /// Latency of the slowest request (ms).
    pub max_ms: Option<f64>,
    /// Number of endpoints that answered at least one of them.
    pub endpoints: usize,
}

impl Timeline {
    /// An empty timeline of a run that sends for this long.
    pub fn new(duration: Duration) -> Self {
        let end = if duration.is_zero() { SHORTEST } else { duration };
        // Rounded up, or a part of a few nanoseconds would be left over.
        let width = Duration::from_nanos(nanos(end).div_ceil(u64::from(PARTS))).max(SHORTEST);
        let count = end.as_nanos().div_ceil(width.as_nanos());
        let count = usize::try_from(count).unwrap_or(1).clamp(1, PARTS as usize);
        Self { width, end, parts: vec![Part::default(); count] }
    }

    /// No further request is sent after `end`, if that is known.
    pub(super) fn close(&mut self, end: Option<Duration>) {
        self.end = end.map_or(self.end, |end| end.min(self.end));
    }

    /// Adds a request to the part of the run in which it was due.
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
        // Later answers belong to no part, although the last one would have room for them.
        if succeeded
            && sample.done < self.end
            && let Some(part) = self.part(sample.done)
        {
            part.succeeded += 1;
        }
    }

    fn part(&mut self, at: Duration) -> Option<&mut Part> {
        // Avoids the 128-bit arithmetic of durations, since this is done twice per request.
        let number = nanos(at) / nanos(self.width).max(1);
        self.parts.get_mut(usize::try_from(number).ok()?)
    }

    /// Adds what another thread saw of the same run.
    pub(super) fn merge(&mut self, other: &Self) {
        self.close(Some(other.end));
        for (mine, theirs) in self.parts.iter_mut().zip(&other.parts) {
            mine.merge(theirs);
        }
    }

    /// The parts up to the last one in which a request was due, counting each recorded request as
    /// `every` requests. The last part is only as long as requests were sent in it; if that is less
    /// than half a part, it is merged into the one before.
    pub fn moments(&self, every: f64) -> Vec<Moment> {
        let count = self.parts.iter().rposition(|part| part.due > 0).map_or(0, |last| last + 1);
        let timed = |part| (self.width.as_secs_f64(), Cow::Borrowed(part));
        let mut parts: Vec<Timed<'_>> = self.parts[..count].iter().map(timed).collect();
        let rest =
            self.end.as_secs_f64() - self.width.as_secs_f64() * count.saturating_sub(1) as f64;
        if let Some((seconds, last)) = parts.pop() {
            match parts.last_mut() {
                Some((before, part)) if rest < seconds / 2.0 => {
                    *before += rest.max(0.0);
                    part.to_mut().merge(&last);
                }
                Some(_) | None => parts.push((rest.min(seconds), last)),
            }
        }
        let mut start = 0.0;
        let moment = |(seconds, part): Timed<'_>| {
            let moment = part.moment(start, seconds, every);
            start += seconds;
            moment
        };
        parts.into_iter().map(moment).collect()
    }
}

/// The length of a part in seconds, and the part.
type Timed<'a> = (f64, Cow<'a, Part>);

impl Part {
    fn merge(&mut self, other: &Self) {
        self.due += other.due;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.endpoints.extend(other.endpoints.iter().cloned());
        if let Some(theirs) = &other.latency {
            let latency = self.latency.get_or_insert_with(|| Box::new(histogram()));
            latency.add(&**theirs).expect("all histograms have the same bounds");
        }
    }

    /// Its figures, given that it was `seconds` long and began at `start`.
    fn moment(&self, start: f64, seconds: f64, every: f64) -> Moment {
        let rate = |count: u64| count as f64 * every / seconds;
        let latency = self.latency.as_deref();
        let at = |q: f64| {
            let latency = latency.filter(|it| it.len() as f64 >= samples_for(q))?;
            Some(latency.value_at_quantile(q) as f64 / 1e6)
        };
        Moment {
            seconds: start + seconds / 2.0,
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

/// Two significant digits: a chart shows no more, and there are many of these.
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
            outcome,
            endpoint: Some(Arc::from(if scheduled < 1000 * MS { "w1" } else { "w2" })),
            ..Sample::answered(0, scheduled, latency)
        }
    }

    #[test]
    fn a_stall_shows_no_answers_and_slow_requests() {
        let mut timeline = Timeline::new(2000 * MS);
        // 100 per second; those due in the second half of a second are answered at its end.
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

    /// 100 per second, ended in the first, in the middle and at the end of a part of 1 s.
    #[test]
    fn the_last_part_is_as_long_as_requests_were_sent_in_it() {
        for (count, parts) in [(30, 1), (540, 5), (560, 6), (599, 6), (600, 6), (601, 6)] {
            let mut timeline = Timeline::new(60_000 * MS);
            let end = 10 * MS * count;
            timeline.close(Some(end));
            for number in 0..count {
                // Some answers arrive after sending has ended.
                timeline.record(&sample(10 * MS * number, 300 * MS, Outcome::Answered(200)));
            }
            let moments = timeline.moments(1.0);
            assert_eq!(moments.len(), parts, "{count}");
            for moment in &moments {
                assert!((moment.offered_rate - 100.0).abs() < 1e-3, "{count}: {moment:?}");
                assert!(moment.throughput <= 101.0, "{count}: {moment:?}");
                assert!(moment.seconds < end.as_secs_f64(), "{count}: {moment:?}");
            }
        }
    }

    #[test]
    fn what_ends_long_after_the_run_is_in_no_part() {
        let mut timeline = Timeline::new(50 * MS);
        timeline.record(&sample(MS, 90_000 * MS, Outcome::Answered(200)));
        let moments = timeline.moments(1.0);
        assert_eq!((moments.len(), moments[0].throughput), (1, 0.0));
    }
}
