//! The results of a simulation: counts, and histograms of the time from arrival to answer.
//!
//! The run is cut into segments by request number, so that the first ones can be left out once the
//! run has shown how many that should be.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::clock::Nanos;
use super::elastic::Resize;
use super::scenario::Scenario;
use super::steady::{self, SEGMENTS};
use crate::stats::samples_for;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Answered in time.
    Answered,
    /// Not answered before its deadline.
    Late,
    /// Refused because every queue was full.
    Shed,
    /// Lost with a worker, or no worker was available.
    Failed,
}

/// The result of one simulation. Times are in seconds; a figure for which there are too few answers
/// is NaN (null in JSON).
#[derive(Debug, Clone, Serialize)]
pub struct SimulatedRun {
    /// Name of the policy.
    pub policy: &'static str,
    /// Workers at the start.
    pub workers: usize,
    /// Workers on average.
    pub mean_workers: f64,
    /// Arrivals per second.
    pub offered_rate: f64,
    /// Answers per second.
    pub throughput: f64,
    /// Busy share of the executors.
    pub utilisation: f64,
    /// Requests that arrived, including those that are not counted.
    pub arrived: u64,
    /// How many of them, from the first, are not counted.
    pub left_out: u64,
    /// Requests that were answered in time.
    pub answered: u64,
    /// Requests that were answered after their deadline.
    pub late: u64,
    /// Requests that were refused by the queue.
    pub shed: u64,
    /// Requests that were lost with a worker.
    pub failed: u64,
    /// Second attempts that were made.
    pub retries: u64,
    /// Requests that failed because the retry budget was used up.
    pub retries_denied: u64,
    /// Number of ejections of endpoints.
    pub ejections: u64,
    /// Mean latency.
    pub mean: f64,
    /// Median latency.
    pub p50: f64,
    /// 95th percentile of the latency.
    pub p95: f64,
    /// 99th percentile of the latency.
    pub p99: f64,
    /// 99.9th percentile of the latency.
    pub p999: f64,
    /// Longest latency.
    pub max: f64,
    /// Half the width of the 95 % interval of the mean, as a share of the mean.
    pub mean_error: Option<f64>,
    /// The same for the 99th percentile.
    pub p99_error: Option<f64>,
    /// Changes in the number of workers, made by a balancer that follows its load.
    pub changes: Vec<Resize>,
    /// Whether there is no steady state: requests keep arriving faster than they can be served.
    pub is_overloaded: bool,
    /// Why the figures are less reliable than they look; `None` if they are not.
    pub doubt: Option<String>,
}

impl SimulatedRun {
    /// Requests that were not answered in time.
    pub fn errors(&self) -> u64 {
        self.late + self.shed + self.failed
    }

    /// Whether a longer run would be more conclusive.
    pub fn is_too_short(&self) -> bool {
        self.doubt.is_some() && !self.is_overloaded
    }
}

/// Counts while the simulation runs.
#[derive(Debug)]
pub(crate) struct Tally {
    policy: &'static str,
    workers: usize,
    requests: u64,
    first_counted: u64,
    segment_length: u64,
    segments: Vec<Segment>,
    is_over: bool,
    load: f64,
    removes_transient: bool,
    retries: u64,
    to: Moment,
    size: usize,
    size_since: Nanos,
    worker_time: f64,
}

/// A segment of the run: requests with consecutive numbers.
#[derive(Debug)]
struct Segment {
    from: Moment,
    latencies: Histogram<u64>,
    latency_sum: u128,
    longest: Nanos,
    answered: u64,
    late: u64,
    shed: u64,
    failed: u64,
    retries_denied: u64,
    /// Answers, to any request, that arrived before the next segment began.
    answers: u64,
}

/// The running totals at one end of the time that counts.
#[derive(Debug, Clone, Copy, Default)]
struct Moment {
    time: Nanos,
    worked: Nanos,
    worker_time: f64,
}

impl Tally {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the warm-up is a share below 1"
    )]
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let first_counted = (scenario.requests as f64 * scenario.warm_up) as u64;
        Self {
            policy: scenario.policy.as_str(),
            workers: scenario.workers,
            requests: scenario.requests,
            first_counted,
            segment_length: (scenario.requests - first_counted).div_ceil(SEGMENTS).max(1),
            segments: Vec::new(),
            is_over: false,
            load: scenario.load(),
            removes_transient: scenario.removes_transient,
            retries: 0,
            to: Moment::default(),
            size: 0,
            size_since: 0,
            worker_time: 0.0,
        }
    }

    pub(crate) fn ended(&mut self, number: u64, arrived: Nanos, now: Nanos, ending: Ending) {
        if let (Ending::Answered, false, Some(current)) =
            (ending, self.is_over, self.segments.last_mut())
        {
            current.answers += 1;
        }
        let Some(segment) = self.segment_of(number) else { return };
        match ending {
            Ending::Answered => {
                let latency = now - arrived;
                segment.answered += 1;
                segment.latency_sum += u128::from(latency);
                segment.longest = segment.longest.max(latency);
                segment.latencies.record(latency).expect("the histogram grows");
            }
            Ending::Late => segment.late += 1,
            Ending::Shed => segment.shed += 1,
            Ending::Failed => segment.failed += 1,
        }
    }

    /// The segment that request `number` belongs to, if it counts.
    fn segment_of(&mut self, number: u64) -> Option<&mut Segment> {
        let number = number.checked_sub(self.first_counted)? / self.segment_length;
        self.segments.get_mut(usize::try_from(number).ok()?)
    }

    pub(crate) fn retried(&mut self) {
        self.retries += 1;
    }

    /// Records that the budget refused request `number` another attempt.
    pub(crate) fn retry_denied(&mut self, number: u64) {
        if let Some(segment) = self.segment_of(number) {
            segment.retries_denied += 1;
        }
    }

    /// Records that the fleet has this size from `now` on.
    pub(crate) fn fleet_size(&mut self, now: Nanos, size: usize) {
        self.worker_time += self.size as f64 * (now - self.size_since) as f64;
        (self.size, self.size_since) = (size, now);
    }

    /// Whether a new segment begins with request `number`.
    pub(crate) fn begins_with(&self, number: u64) -> bool {
        let counted = number.checked_sub(self.first_counted);
        counted.is_some_and(|number| number.is_multiple_of(self.segment_length))
    }

    /// Begins a new segment; the fleet has computed for `worked` so far.
    pub(crate) fn begin(&mut self, now: Nanos, worked: Nanos) {
        let from = self.moment(now, worked);
        self.segments.push(Segment {
            from,
            latencies: Histogram::new(3).expect("three digits are allowed"),
            latency_sum: 0,
            longest: 0,
            answered: 0,
            late: 0,
            shed: 0,
            failed: 0,
            retries_denied: 0,
            answers: 0,
        });
    }

    /// Ends the time that counts; the fleet has computed for `worked` so far.
    pub(crate) fn stop_counting(&mut self, now: Nanos, worked: Nanos) {
        self.to = self.moment(now, worked);
        self.is_over = true;
    }

    fn moment(&mut self, now: Nanos, worked: Nanos) -> Moment {
        self.fleet_size(now, self.size);
        Moment { time: now, worked, worker_time: self.worker_time }
    }

    pub(crate) fn into_outcome(mut self, threads: usize, ejections: u64) -> SimulatedRun {
        let means: Vec<f64> = self.segments.iter().map(Segment::mean).collect();
        let cut = if self.removes_transient { steady::transient(&means) } else { Some(0) };
        let has_ended_transient = cut.is_some();
        let kept = self.segments.split_off(cut.unwrap_or(self.segments.len() / 2));
        let left_out = self.first_counted + self.segments.len() as u64 * self.segment_length;
        let from = kept.first().map_or(self.to, |segment| segment.from);
        let nanos = (self.to.time - from.time).max(1) as f64;
        let worker_time = (self.to.worker_time - from.worker_time).max(1.0);
        let mut latencies = Histogram::new(3).expect("three digits are allowed");
        for segment in &kept {
            latencies.add(&segment.latencies).expect("the histogram grows");
        }
        let sum = |pick: fn(&Segment) -> u64| kept.iter().map(pick).sum::<u64>();
        let (answered, unserved) =
            (sum(|it| it.answered), sum(|it| it.late) + sum(|it| it.shed) + sum(|it| it.failed));
        let told = |least: f64, figure: f64| {
            if latencies.len() as f64 >= least { figure } else { f64::NAN }
        };
        let quantile = |q: f64| told(samples_for(q), latencies.value_at_quantile(q) as f64 / 1e9);
        let mean = kept.iter().map(|it| it.latency_sum).sum::<u128>() as f64 / 1e9;
        let longest = kept.iter().map(|it| it.longest).max().unwrap_or(0) as f64 / 1e9;
        let of = |pick: fn(&Segment) -> f64| {
            steady::precision(&kept.iter().map(pick).collect::<Vec<_>>())
        };
        let (mean_error, p99_error) = (of(Segment::mean), of(Segment::p99));
        let is_overloaded = self.load >= 1.0 && unserved == 0;
        SimulatedRun {
            policy: self.policy,
            workers: self.workers,
            mean_workers: worker_time / nanos,
            offered_rate: (self.requests - left_out.min(self.requests)) as f64 / (nanos / 1e9),
            throughput: sum(|it| it.answers) as f64 / (nanos / 1e9),
            utilisation: (self.to.worked - from.worked) as f64 / (worker_time * threads as f64),
            arrived: self.requests,
            left_out,
            answered,
            late: sum(|it| it.late),
            shed: sum(|it| it.shed),
            failed: sum(|it| it.failed),
            retries: self.retries,
            retries_denied: sum(|it| it.retries_denied),
            ejections,
            mean: told(1.0, mean / answered.max(1) as f64),
            p50: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: told(1.0, longest),
            mean_error,
            p99_error,
            changes: Vec::new(),
            is_overloaded,
            doubt: if is_overloaded {
                Some(overloaded(self.load))
            } else {
                steady::doubt(has_ended_transient, mean_error, p99_error)
            },
        }
    }
}

impl Segment {
    fn mean(&self) -> f64 {
        self.latency_sum as f64 / 1e9 / self.answered.max(1) as f64
    }

    fn p99(&self) -> f64 {
        self.latencies.value_at_quantile(0.99) as f64 / 1e9
    }
}

fn overloaded(load: f64) -> String {
    format!(
        "no steady state: {:.0} % of what the fleet can do arrives, and latency grows for as long as \
         that lasts",
        load * 100.0
    )
}
