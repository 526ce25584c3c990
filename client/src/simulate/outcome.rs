//! What a simulation found: counts, and a histogram of the time from arrival to answer.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::clock::Nanos;
use super::scenario::Scenario;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Answered in time.
    Answered,
    /// Not answered before its deadline.
    Late,
    /// Refused because every queue was full.
    Shed,
    /// Lost with a worker, or there was none.
    Failed,
}

/// The result of one simulation. Times are seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Name of the policy.
    pub policy: &'static str,
    /// Workers at the start.
    pub workers: usize,
    /// Workers on average.
    pub mean_workers: f64,
    /// Arrivals a second.
    pub offered_rate: f64,
    /// Answers a second.
    pub throughput: f64,
    /// Busy share of the executors.
    pub utilisation: f64,
    /// Answered in time.
    pub answered: u64,
    /// Too late.
    pub late: u64,
    /// Refused.
    pub shed: u64,
    /// Lost.
    pub failed: u64,
    /// Further attempts.
    pub retries: u64,
    /// Requests that failed because the retry budget was used up.
    pub retries_denied: u64,
    /// Times that an endpoint was ejected.
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
}

impl Outcome {
    /// Requests that were not answered in time.
    pub fn errors(&self) -> u64 {
        self.late + self.shed + self.failed
    }
}

/// Counts while the simulation runs.
#[derive(Debug)]
pub(crate) struct Tally {
    policy: &'static str,
    workers: usize,
    requests: u64,
    first_counted: u64,
    latencies: Histogram<u64>,
    latency_sum: u128,
    longest: Nanos,
    answered: u64,
    late: u64,
    shed: u64,
    failed: u64,
    retries: u64,
    retries_denied: u64,
    from: Moment,
    to: Moment,
    size: usize,
    size_since: Nanos,
    worker_time: f64,
}

/// Where the sums stood at one end of the time that counts.
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
        Self {
            policy: scenario.policy.as_str(),
            workers: scenario.workers,
            requests: scenario.requests,
            first_counted: (scenario.requests as f64 * scenario.warm_up) as u64,
            latencies: Histogram::new(3).expect("three digits are allowed"),
            latency_sum: 0,
            longest: 0,
            answered: 0,
            late: 0,
            shed: 0,
            failed: 0,
            retries: 0,
            retries_denied: 0,
            from: Moment::default(),
            to: Moment::default(),
            size: 0,
            size_since: 0,
            worker_time: 0.0,
        }
    }

    pub(crate) fn ended(&mut self, number: u64, arrived: Nanos, now: Nanos, ending: Ending) {
        if number < self.first_counted {
            return;
        }
        match ending {
            Ending::Answered => {
                let latency = now - arrived;
                self.answered += 1;
                self.latency_sum += u128::from(latency);
                self.longest = self.longest.max(latency);
                self.latencies.record(latency).expect("the histogram grows");
            }
            Ending::Late => self.late += 1,
            Ending::Shed => self.shed += 1,
            Ending::Failed => self.failed += 1,
        }
    }

    pub(crate) fn retried(&mut self) {
        self.retries += 1;
    }

    /// The budget refused request `number` another attempt.
    pub(crate) fn retry_denied(&mut self, number: u64) {
        self.retries_denied += u64::from(number >= self.first_counted);
    }

    /// The fleet has this size from `now` on.
    pub(crate) fn fleet_size(&mut self, now: Nanos, size: usize) {
        self.worker_time += self.size as f64 * (now - self.size_since) as f64;
        (self.size, self.size_since) = (size, now);
    }

    /// Number of the first request that counts.
    pub(crate) fn first_counted(&self) -> u64 {
        self.first_counted
    }

    /// The warm-up is over; the fleet has computed for `worked` so far.
    pub(crate) fn start_counting(&mut self, now: Nanos, worked: Nanos) {
        self.fleet_size(now, self.size);
        self.from = Moment { time: now, worked, worker_time: self.worker_time };
    }

    /// The last request has arrived; the fleet has computed for `worked` so far.
    pub(crate) fn stop_counting(&mut self, now: Nanos, worked: Nanos) {
        self.fleet_size(now, self.size);
        self.to = Moment { time: now, worked, worker_time: self.worker_time };
    }

    pub(crate) fn into_outcome(self, threads: usize, ejections: u64) -> Outcome {
        let nanos = (self.to.time - self.from.time).max(1) as f64;
        let worked = (self.to.worked - self.from.worked) as f64;
        let worker_time = (self.to.worker_time - self.from.worker_time).max(1.0);
        let seconds = nanos / 1e9;
        let quantile = |q: f64| self.latencies.value_at_quantile(q) as f64 / 1e9;
        Outcome {
            policy: self.policy,
            workers: self.workers,
            mean_workers: worker_time / nanos,
            offered_rate: (self.requests - self.first_counted) as f64 / seconds,
            throughput: self.answered as f64 / seconds,
            utilisation: worked / (worker_time * threads as f64),
            answered: self.answered,
            late: self.late,
            shed: self.shed,
            failed: self.failed,
            retries: self.retries,
            retries_denied: self.retries_denied,
            ejections,
            mean: self.latency_sum as f64 / 1e9 / self.answered.max(1) as f64,
            p50: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: self.longest as f64 / 1e9,
        }
    }
}
