//! How busy a fleet is: samples of the requests in flight.
//!
//! The sampled counts exist anyway, so sampling adds no cost per request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Observation;
use crate::endpoint::{Endpoint, EndpointId};
use crate::latency::{self, Counts};

/// Time between two samples.
pub const SAMPLE: Duration = Duration::from_millis(20);
/// Samples per observation: half a second.
pub const SAMPLES: u32 = 25;
/// The share of the requests whose latency counts.
const QUANTILE: f64 = 0.95;

/// Sums up the requests in flight and waiting, sample by sample.
#[derive(Debug)]
pub struct Meter {
    threads: u32,
    has_latency: bool,
    samples: u32,
    busy: f64,
    on_workers: f64,
    in_line: f64,
    /// What each worker had answered at the last reading: in all, and of no use to a client.
    answered: HashMap<EndpointId, [Counts; 2]>,
}

impl Meter {
    /// A meter for workers with this many threads each; `has_latency` has it measure latency too.
    pub fn new(threads: usize, has_latency: bool) -> Self {
        Self {
            threads: u32::try_from(threads).unwrap_or(u32::MAX),
            has_latency,
            samples: 0,
            busy: 0.0,
            on_workers: 0.0,
            in_line: 0.0,
            answered: HashMap::new(),
        }
    }

    /// Takes one sample of the workers that take requests, while `in_line` requests wait for one;
    /// returns whether there are enough samples for an observation.
    pub fn sample(&mut self, workers: &[Arc<Endpoint>], in_line: usize) -> bool {
        self.samples += 1;
        for worker in workers {
            let in_flight = worker.in_flight();
            let busy = in_flight.min(self.threads);
            self.busy += f64::from(busy);
            self.on_workers += f64::from(in_flight - busy);
        }
        self.in_line += in_line as f64;
        self.samples >= SAMPLES
    }

    /// The observation since the last call, of a fleet of this size.
    pub fn read(&mut self, workers: &[Arc<Endpoint>], size: Observation) -> Observation {
        let samples = f64::from(self.samples.max(1));
        let mean = |sum: &mut f64| std::mem::take(sum) / samples;
        let (busy, on_workers) = (mean(&mut self.busy), mean(&mut self.on_workers));
        let in_line = mean(&mut self.in_line);
        self.samples = 0;
        let latency = if self.has_latency { self.latency(workers, in_line) } else { None };
        Observation { busy, waiting: on_workers + in_line, latency, ..size }
    }

    /// How long useful answers took: on a worker, and in line before that, where by Little's law
    /// the time is the length of the line per answered request. A flood of requests that are
    /// refused immediately does not make the others look faster.
    fn latency(&mut self, workers: &[Arc<Endpoint>], in_line: f64) -> Option<Duration> {
        let mut before = std::mem::take(&mut self.answered);
        let [mut all, mut useless]: [Counts; 2] = [std::array::from_fn(|_| 0); 2];
        for worker in workers {
            let answered = worker.counters().answered();
            // The earlier answers of a worker that is seen for the first time do not count.
            let earlier = before.remove(&worker.id()).unwrap_or(answered);
            for (sums, (now, then)) in
                [&mut all, &mut useless].into_iter().zip(answered.iter().zip(&earlier))
            {
                for (sum, (now, then)) in sums.iter_mut().zip(now.iter().zip(then)) {
                    *sum += now.saturating_sub(*then);
                }
            }
            self.answered.insert(worker.id(), answered);
        }
        let answered = all.iter().sum::<u64>() as f64;
        let wait = (SAMPLE * SAMPLES).mul_f64(in_line / answered.max(1.0));
        let useful: Counts =
            std::array::from_fn(|bucket| all[bucket].saturating_sub(useless[bucket]));
        latency::quantile(&useful, QUANTILE).map(|latency| latency + wait)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::State;

    fn worker(id: u32) -> Arc<Endpoint> {
        let address = ([127, 0, 0, 1], 80).into();
        Arc::new(Endpoint::new(EndpointId(id), "a", address, State::up(), Instant::now()))
    }

    #[test]
    fn what_is_more_than_a_worker_computes_on_at_a_time_waits() {
        let (workers, mut meter) = ([worker(1), worker(2)], Meter::new(2, false));
        let now = Instant::now();
        let _three: Vec<_> = (0..3).map(|_| workers[0].begin(now)).collect();
        assert!(!meter.sample(&workers, 4));
        let one = workers[1].begin(now);
        assert!(!meter.sample(&workers, 0));
        drop(one);
        let size = Observation { available: 2, ..Observation::default() };
        let seen = meter.read(&workers, size);
        assert!((seen.busy - 2.5).abs() < 1e-9 && (seen.waiting - 3.0).abs() < 1e-9, "{seen:?}");
        assert_eq!(seen.available, 2);
        assert!((1..SAMPLES).all(|_| !meter.sample(&workers, 0)) && meter.sample(&workers, 0));
    }

    #[test]
    fn latency_is_that_of_the_last_moment_and_the_wait_in_line() {
        let (workers, mut meter) = ([worker(1)], Meter::new(1, true));
        let now = Instant::now();
        let slow = Duration::from_secs(5);
        (0..100).for_each(|_| workers[0].observe(slow, now));
        assert_eq!(meter.read(&workers, Observation::default()).latency, None);
        (0..50).for_each(|_| workers[0].observe(Duration::from_millis(10), now));
        // Ten in line on average, of which a hundred per second are answered: a tenth of a second.
        assert!((1..SAMPLES).all(|_| !meter.sample(&workers, 10)) && meter.sample(&workers, 10));
        let latency = meter.read(&workers, Observation::default()).latency.expect("answers");
        let milliseconds = latency.as_secs_f64() * 1e3;
        assert!((108.0..=111.0).contains(&milliseconds), "{milliseconds}");
    }

    #[test]
    fn refusals_and_faults_of_requests_hide_no_slow_answers() {
        let (workers, mut meter) = ([worker(1)], Meter::new(1, true));
        let now = Instant::now();
        assert_eq!(meter.read(&workers, Observation::default()).latency, None);
        (0..10).for_each(|_| workers[0].observe(Duration::from_millis(400), now));
        (0..500).for_each(|_| workers[0].observe_useless(Duration::from_millis(1), now));
        (0..500).for_each(|_| workers[0].observe_refusal(Duration::from_millis(1), now));
        let latency = meter.read(&workers, Observation::default()).latency.expect("answers");
        assert!(latency > Duration::from_millis(300), "{latency:?}");
        (0..500).for_each(|_| workers[0].observe_useless(Duration::from_millis(1), now));
        assert_eq!(meter.read(&workers, Observation::default()).latency, None, "nothing useful");
    }
}
