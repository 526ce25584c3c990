//! Counts and histograms of a trial, filled while it runs and merged when it ends.
//!
//! A tally is as large after a million requests as after ten; its quantiles have three significant
//! digits. A request counts if it was due in the measured time, however it ended: failures count
//! with the time that they took, and those without an answer with the time that they had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::course::Course;
use super::timeline::Timeline;
use super::times::{MAX_NANOS, Times, histogram};
use crate::experiment::Trial;
use crate::sample::{Outcome, Sample};
use crate::stats::Tried;

/// The measured time: requests that were due in it count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// When it began, relative to the start of the trial.
    pub start: Duration,
    /// When sending ended; in a closed loop that ends by number, when the last request ended.
    pub end: Duration,
}

impl Window {
    /// How long it was.
    pub fn length(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }
}

/// The stages of an answer whose times workers report.
pub(super) const STAGES: [&str; 5] = ["decode", "preprocess", "queue", "compute", "total"];

/// Everything known about the measured requests without looking at them one by one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tally {
    /// Scheduled to done, of all requests.
    pub latency: Times,
    /// Scheduled to done, of those that were answered as expected: with 2xx, unless told otherwise.
    pub succeeded: Times,
    /// Scheduled to done, of all others.
    pub failed: Times,
    /// Sent to done, of all requests that were sent.
    pub service_time: Times,
    /// Scheduled to dispatched, of all requests (nanoseconds): the generator's own lateness.
    #[serde(with = "super::exact::times")]
    pub scheduling_error: Histogram<u64>,
    /// How long requests waited for one of the connections that this program may have (nanoseconds).
    #[serde(with = "super::exact::times")]
    pub connection_wait: Histogram<u64>,
    /// Times of the worker's own stages, from answers that report them (nanoseconds), by stage.
    #[serde(with = "super::exact::stages")]
    pub stages: BTreeMap<&'static str, Histogram<u64>>,
    /// Number of requests by outcome.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Successful answers by endpoint.
    #[serde(with = "super::exact::names")]
    pub endpoints: BTreeMap<Arc<str>, u64>,
    /// Answers whose label was compared, and how many were right, by request of the workload.
    pub labels: Vec<Tried>,
    /// The share of the measured time in which the busiest sender thread was computing, if the
    /// system reports it.
    pub sender_busy: Option<f64>,
    /// Bytes of answers' bodies.
    pub bytes: u64,
    /// How latency developed, if the length of the trial was known in advance.
    pub course: Option<Course>,
    /// The course of the whole trial, warm-up included, if its length was known in advance.
    pub timeline: Option<Timeline>,
    /// The offered load is the same at any time, however the service answers.
    is_steady: bool,
    starts_at: Option<Duration>,
    ends_at: Option<Duration>,
    first: Option<Duration>,
    last_done: Duration,
    /// When the last success arrived.
    last_answer: Option<Duration>,
    /// Sum of the times for which the measured requests were unanswered.
    in_flight: Duration,
}

impl Tally {
    /// An empty tally.
    pub fn new() -> Self {
        Self {
            latency: Times::new(),
            succeeded: Times::new(),
            failed: Times::new(),
            service_time: Times::new(),
            scheduling_error: histogram(),
            connection_wait: histogram(),
            stages: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            labels: Vec::new(),
            sender_busy: None,
            bytes: 0,
            course: None,
            timeline: None,
            is_steady: false,
            starts_at: None,
            ends_at: None,
            first: None,
            last_done: Duration::ZERO,
            last_answer: None,
            in_flight: Duration::ZERO,
        }
    }

    /// An empty tally of `trial`, which is measured from the end of the warm-up on.
    pub fn of(trial: &Trial) -> Self {
        let is_timed = trial.warm_up_requests == 0;
        Self {
            starts_at: is_timed.then_some(trial.warm_up),
            course: trial.duration.map(|_| Course::new(trial.warm_up)),
            timeline: trial.duration.map(Timeline::new),
            is_steady: trial.arrivals.is_steady(),
            ..Self::new()
        }
    }

    /// Counts `sample`, if it was due in the measured time.
    pub fn record(&mut self, sample: &Sample) {
        if let Some(timeline) = &mut self.timeline {
            timeline.record(sample);
        }
        if sample.warm_up {
            return;
        }
        self.in_flight += sample.latency();
        *self.outcomes.entry(sample.outcome).or_default() += 1;
        self.scheduling_error.saturating_record(nanos(sample.scheduling_error()));
        self.connection_wait.saturating_record(nanos(sample.connection_wait()));
        self.first = Some(self.first.map_or(sample.scheduled, |at| at.min(sample.scheduled)));
        self.last_done = self.last_done.max(sample.done);
        self.bytes += sample.bytes as u64;
        if let Some(correct) = sample.correct {
            let labels = entry(&mut self.labels, sample.item);
            labels.count += 1;
            labels.successes += u64::from(correct);
        }
        self.record_times(sample);
        if sample.outcome.is_success() {
            self.record_answer(sample);
        }
    }

    fn record_times(&mut self, sample: &Sample) {
        let latency = nanos(sample.latency());
        let service_time = sample.service_time().map(nanos);
        let of_its_kind =
            if sample.outcome.is_success() { &mut self.succeeded } else { &mut self.failed };
        if sample.outcome.is_unanswered() {
            self.latency.record_unanswered(latency);
            of_its_kind.record_unanswered(latency);
            if let Some(time) = service_time {
                self.service_time.record_unanswered(time);
            }
        } else {
            self.latency.record(latency);
            of_its_kind.record(latency);
            if let Some(time) = service_time {
                self.service_time.record(time);
            }
        }
        if let Some(course) = &mut self.course {
            course.record(sample.scheduled, sample.latency());
        }
    }

    fn record_answer(&mut self, sample: &Sample) {
        self.last_answer = self.last_answer.max(Some(sample.done));
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
        let wire::Timings { decode, preprocess, queue, compute, total } = *timings;
        let times = [decode, preprocess, queue, compute, total];
        for (name, milliseconds) in STAGES.into_iter().zip(times) {
            let time = Duration::try_from_secs_f64(milliseconds / 1e3).unwrap_or_default();
            self.stages.entry(name).or_insert_with(histogram).saturating_record(nanos(time));
        }
    }

    /// No further request of this share of the schedule is sent after `end`, if that is known.
    pub(crate) fn close(&mut self, end: Option<Duration>) {
        self.ends_at = end;
        if let Some(timeline) = &mut self.timeline {
            timeline.close(end);
        }
    }

    /// Adds what another thread counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        const SAME: &str = "all histograms have the same bounds";
        self.latency.merge(&other.latency);
        self.succeeded.merge(&other.succeeded);
        self.failed.merge(&other.failed);
        self.service_time.merge(&other.service_time);
        self.scheduling_error.add(&other.scheduling_error).expect(SAME);
        self.connection_wait.add(&other.connection_wait).expect(SAME);
        for (name, theirs) in &other.stages {
            self.stages.entry(name).or_insert_with(histogram).add(theirs).expect(SAME);
        }
        for (outcome, count) in &other.outcomes {
            *self.outcomes.entry(*outcome).or_default() += count;
        }
        for (endpoint, count) in &other.endpoints {
            *self.endpoints.entry(Arc::clone(endpoint)).or_default() += count;
        }
        for (item, theirs) in other.labels.iter().enumerate() {
            let mine = entry(&mut self.labels, item);
            mine.count += theirs.count;
            mine.successes += theirs.successes;
        }
        let shares = self.sender_busy.into_iter().chain(other.sender_busy);
        self.sender_busy = shares.reduce(f64::max);
        self.bytes += other.bytes;
        if let (Some(mine), Some(theirs)) = (&mut self.course, &other.course) {
            mine.merge(theirs);
        }
        if let (Some(mine), Some(theirs)) = (&mut self.timeline, &other.timeline) {
            mine.merge(theirs);
        }
        self.ends_at = earlier(self.ends_at, other.ends_at);
        self.first = earlier(self.first, other.first);
        self.last_done = self.last_done.max(other.last_done);
        self.last_answer = self.last_answer.max(other.last_answer);
        self.in_flight += other.in_flight;
    }

    /// The measured time; `None` if nothing was measured.
    pub fn window(&self) -> Option<Window> {
        let start = self.starts_at.or(self.first)?;
        let end = self.ends_at.unwrap_or(self.last_done);
        (end > start).then_some(Window { start, end })
    }

    /// How many requests were measured.
    pub fn requests(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Requests that were answered as expected.
    pub fn successes(&self) -> u64 {
        self.outcomes.iter().filter(|(outcome, _)| outcome.is_success()).map(|(_, n)| n).sum()
    }

    /// Requests that were not.
    pub fn errors(&self) -> u64 {
        self.requests() - self.successes()
    }

    /// Answers whose label was compared, and how many were right; `None` if there were none.
    pub fn accuracy(&self) -> Option<Tried> {
        let sum = |of: fn(&Tried) -> u64| self.labels.iter().map(of).sum();
        let all = Tried { successes: sum(|it| it.successes), count: sum(|it| it.count) };
        (all.count > 0).then_some(all)
    }

    /// Requests that were due per second of the measured time.
    pub fn offered_rate(&self) -> f64 {
        self.a_second(self.requests() as f64)
    }

    /// Successes per second of the time in which they arrived. That is the measured time; if a
    /// queue grew, it is longer by what the last of these requests waited more than the first. In a
    /// closed loop no queue can grow, and where the rate changes, latency climbs with it: in both
    /// cases it is the measured time. If the course of latency is not known, the time ends with the
    /// last success, less the time that the fastest took, if that is after the measured time.
    pub fn throughput(&self) -> f64 {
        let Some(window) = self.window() else { return 0.0 };
        let measured = window.length().as_secs_f64();
        let seconds = match &self.course {
            Some(_) if !self.is_steady => measured,
            Some(course) if course.is_told() => measured * (1.0 + course.climb().unwrap_or(0.0)),
            Some(_) | None => {
                let end = self.last_answer_due().max(window.end);
                end.saturating_sub(window.start).as_secs_f64()
            }
        };
        self.successes() as f64 / seconds
    }

    /// When the last success would have been due if it had waited for no other.
    fn last_answer_due(&self) -> Duration {
        let fastest = Duration::from_nanos(self.succeeded.histogram().min());
        self.last_answer.unwrap_or_default().saturating_sub(fastest)
    }

    /// Average number of measured requests that are unanswered. Each counts from the instant at
    /// which it was due until it ended, wherever in the run that is.
    pub fn in_flight(&self) -> f64 {
        self.a_second(self.in_flight.as_secs_f64())
    }

    fn a_second(&self, sum: f64) -> f64 {
        self.window().map_or(0.0, |window| sum / window.length().as_secs_f64())
    }
}

/// The counts of a request of the workload.
fn entry(labels: &mut Vec<Tried>, item: usize) -> &mut Tried {
    if labels.len() <= item {
        labels.resize(item + 1, Tried::default());
    }
    &mut labels[item]
}

fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(MAX_NANOS)
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU64, NonZeroUsize};
    use std::time::Duration;

    use super::Tally;
    use crate::experiment::{Protocol, Reuse, Trial};
    use crate::sample::{Failure, Outcome, Sample};
    use crate::schedule::Arrivals;

    const MS: Duration = Duration::from_millis(1);

    /// Measured from 1 to 11 s.
    fn trial() -> Trial {
        Trial {
            arrivals: Arrivals::Uniform { rate: 100.0 },
            seed: 1,
            requests: None,
            duration: Some(11_000 * MS),
            warm_up_requests: 0,
            warm_up: 1000 * MS,
            protocol: Protocol::Http1,
            reuse: Reuse::KeepAlive,
            connections: NonZeroUsize::MIN,
            backlog: 0,
            timeout: Duration::from_secs(1),
            threads: NonZeroUsize::MIN,
            keep_samples: 0,
            keep_every: NonZeroU64::MIN,
        }
    }

    fn sample(number: u32) -> Sample {
        let scheduled = 10 * MS * number;
        // Between 100 and 400 ms; every eighth request fails.
        let latency = 100 * MS + MS * (number * 7 % 301);
        let fails = number.is_multiple_of(8);
        Sample {
            warm_up: scheduled < 1000 * MS,
            outcome: if fails { Outcome::Failed(Failure::Timeout) } else { Outcome::Answered(200) },
            ..Sample::answered(u64::from(number), scheduled, latency)
        }
    }

    #[test]
    fn littles_law_holds_between_rate_latency_and_requests_in_flight() {
        let mut tally = Tally::of(&trial());
        let end = trial().duration;
        (0..1100).for_each(|number| tally.record(&sample(number)));
        tally.close(end);
        assert!((tally.offered_rate() - 100.0).abs() < 1e-9, "{}", tally.offered_rate());
        assert!((tally.throughput() - 87.5).abs() < 1e-9, "{}", tally.throughput());
        let expected = tally.offered_rate() * tally.latency.mean() / 1e9;
        assert!((tally.in_flight() / expected - 1.0).abs() < 0.01, "{}", tally.in_flight());
        // In a steady run, that many are unanswered at any instant of the measured time.
        let unanswered = |at: Duration| {
            let is_at = |it: &Sample| it.scheduled <= at && at < it.done;
            (0..1100).map(sample).filter(is_at).count()
        };
        let instants = (1005..11_005).step_by(50).map(|millis| unanswered(MS * millis));
        let average = instants.sum::<usize>() as f64 / 200.0;
        assert!((tally.in_flight() / average - 1.0).abs() < 0.01, "{average}");
        assert_eq!((tally.latency.len(), tally.latency.unanswered()), (1000, 125));
    }

    /// 500 requests that are due within 5 s, to a service that answers 50 per second.
    #[test]
    fn a_number_of_requests_is_divided_by_the_time_in_which_the_answers_came() {
        let answered = |number: u32| Sample {
            done: 20 * MS * (number + 1),
            outcome: Outcome::Answered(200),
            warm_up: false,
            ..sample(number)
        };
        let of_half = |parity: u32, trial: &Trial| {
            let mut tally = Tally::of(trial);
            let numbers = (0..500).filter(|number| number % 2 == parity);
            numbers.for_each(|number| tally.record(&answered(number)));
            tally.close(Some(5000 * MS));
            tally
        };
        let endless = Trial { duration: None, warm_up: Duration::ZERO, ..trial() };
        // The first seconds of a minute that was to be measured show how latency developed.
        let cut = Trial { duration: Some(60_000 * MS), ..endless.clone() };
        for trial in [endless, cut] {
            let mut tally = of_half(0, &trial);
            tally.merge(&of_half(1, &trial));
            assert!((tally.offered_rate() - 100.0).abs() < 1e-9, "{}", tally.offered_rate());
            assert!((tally.throughput() - 50.0).abs() < 0.2, "{}", tally.throughput());
        }
    }

    /// Latency climbs by one second in ten, as with a service that gets slower.
    #[test]
    fn latency_that_climbs_takes_nothing_off_the_answers_of_a_closed_loop_or_of_stages() {
        let slower = |number: u32| Sample {
            done: 10 * MS * number + MS * number,
            outcome: Outcome::Answered(200),
            ..sample(number)
        };
        let throughput = |arrivals: Arrivals| {
            let mut tally = Tally::of(&Trial { arrivals, ..trial() });
            (0..1100).for_each(|number| tally.record(&slower(number)));
            tally.close(trial().duration);
            tally.throughput()
        };
        let closed = throughput(Arrivals::Closed { users: 10, think: Duration::ZERO });
        let stages = "11s:90..110".parse().unwrap();
        let changing = throughput(Arrivals::Staged { stages, is_uniform: true });
        assert!(
            (closed - 100.0).abs() < 1e-9 && (changing - 100.0).abs() < 1e-9,
            "{closed} {changing}"
        );
        // The same latencies, of requests that arrive whatever the service does: a queue grows.
        let steady = throughput(trial().arrivals);
        assert!((steady - 100.0 / 1.1).abs() < 0.5, "{steady}");
    }

    #[test]
    fn the_wait_for_the_last_of_a_number_of_requests_is_not_counted() {
        let mut tally = Tally::of(&Trial { duration: None, warm_up: Duration::ZERO, ..trial() });
        for number in 0..500 {
            let done = 10 * MS * number + 700 * MS;
            let outcome = Outcome::Answered(200);
            tally.record(&Sample { done, outcome, warm_up: false, ..sample(number) });
        }
        tally.close(Some(5000 * MS));
        assert!((tally.throughput() - 100.0).abs() < 1e-9, "{}", tally.throughput());
    }

    #[test]
    fn a_run_that_ended_early_is_measured_over_the_time_that_it_ran() {
        let mut tally = Tally::of(&trial());
        let end = Some(3000 * MS);
        (0..300).for_each(|number| tally.record(&sample(number)));
        tally.close(end);
        assert!((tally.offered_rate() - 100.0).abs() < 1e-9, "{}", tally.offered_rate());
    }
}
