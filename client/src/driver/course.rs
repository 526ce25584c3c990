//! How latency went over the run: does a queue grow?
//!
//! When less is answered than arrives, each request waits longer than the one before it, so latency
//! climbs with the clock, in a straight line. The latencies of neighbours are alike, and a queue that
//! does not grow wanders as well, so a climb is not told from chance as if requests were independent:
//! the run is cut into stretches, and what has to be seen is that their means lie on a line.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::stats::Line;

/// Many of a run that is ended early are left.
const PARTS: u32 = 64;
/// At most so many stretches, which are parts or several of them together ...
const STRETCHES: usize = 16;
/// ... and with fewer nothing is said.
const FEWEST: usize = 8;

/// Latencies by the instant at which requests were due.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Course {
    start: Duration,
    part: Duration,
    parts: Vec<Moments>,
}

/// Sums over the latencies of one part, in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Moments {
    count: f64,
    sum: f64,
}

impl Moments {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }
}

impl Course {
    /// Of requests that are due between `start` and `end`.
    pub(super) fn new(start: Duration, end: Duration) -> Self {
        let part = end.saturating_sub(start) / PARTS;
        Self {
            start,
            part: part.max(Duration::from_nanos(1)),
            parts: vec![Moments::default(); PARTS as usize],
        }
    }

    pub(super) fn record(&mut self, scheduled: Duration, latency: Duration) {
        let number = scheduled.saturating_sub(self.start).as_nanos() / self.part.as_nanos();
        let number = usize::try_from(number).unwrap_or(usize::MAX).min(self.parts.len() - 1);
        self.parts[number].add(Moments { count: 1.0, sum: latency.as_secs_f64() });
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.parts.iter_mut().zip(&other.parts) {
            mine.add(*theirs);
        }
    }

    /// Whether there is enough of it to say whether latency climbs.
    pub(super) fn is_told(&self) -> bool {
        self.stretches().len() >= FEWEST
    }

    /// Seconds by which latency climbs in each second of the run; nothing where it does not, or where
    /// its ups and downs say as much as its climb.
    pub fn climb(&self) -> Option<f64> {
        /// A service that answers less than this share of what it is asked for is behind.
        const LEAST: f64 = 0.01;
        /// From end to end it climbs by so much of its mean: twice as long a run tells another one.
        const RISE: f64 = 0.5;
        /// The share of the scatter of its stretches that a straight line explains. Of a queue that
        /// only has its ups and downs it seldom explains as much, of one that grows nearly always.
        const STRAIGHT: f64 = 0.7;
        let points = self.stretches();
        if points.len() < FEWEST {
            return None;
        }
        let line = Line::through(&points).filter(|line| line.slope > LEAST)?;
        let mean = points.iter().map(|point| point.1).sum::<f64>() / points.len() as f64;
        let length = points.last()?.0 - points.first()?.0;
        let is_climb = line.explained(&points) >= STRAIGHT && line.slope * length > RISE * mean;
        is_climb.then_some(line.slope)
    }

    /// The run so far in stretches of equal length: the middle of each, and its mean latency.
    fn stretches(&self) -> Vec<(f64, f64)> {
        let Some(last) = self.parts.iter().rposition(|part| part.count > 0.0) else {
            return Vec::new();
        };
        let length = (last + 1).div_ceil(STRETCHES);
        let stretch = |(number, parts): (usize, &[Moments])| {
            let mut sum = Moments::default();
            for part in parts {
                sum.add(*part);
            }
            let middle = number as f64 * length as f64 + parts.len() as f64 / 2.0;
            (sum.count > 0.0).then(|| (middle * self.part.as_secs_f64(), sum.mean()))
        };
        self.parts[..=last].chunks(length).enumerate().filter_map(stretch).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::rngs::ChaCha12Rng;
    use rand::{RngExt, SeedableRng};
    use rand_distr::Exp1;

    use super::Course;

    const SECOND: Duration = Duration::from_secs(1);

    fn course(count: u32, latency: impl Fn(u32) -> f64) -> Course {
        let mut course = Course::new(SECOND, 11 * SECOND);
        for number in 0..count {
            let scheduled = SECOND + 10 * SECOND * number / count;
            course.record(scheduled, Duration::from_secs_f64(latency(number)));
        }
        course
    }

    #[test]
    fn a_queue_that_grows_climbs_as_fast_as_it_grows() {
        // Four of five are answered: 10 s of arrivals take 12.5 s.
        let climb = course(1000, |n| 0.01 + 2.5 * f64::from(n) / 1000.0).climb().unwrap();
        assert!((climb - 0.25).abs() < 0.01, "{climb}");
    }

    /// One per cent more is asked than is answered: no two halves of 30 s differ by much.
    #[test]
    fn a_queue_that_grows_slowly_climbs_as_well() {
        let climb = course(1000, |n| 0.02 + 0.2 * f64::from(n) / 1000.0).climb().unwrap();
        assert!((climb - 0.02).abs() < 0.001, "{climb}");
        // Beside half a second that every request takes it does not matter.
        assert_eq!(course(1000, |n| 0.5 + 0.2 * f64::from(n) / 1000.0).climb(), None);
    }

    #[test]
    fn a_run_that_is_ended_early_is_judged_by_what_there_is() {
        let mut course = Course::new(SECOND, 101 * SECOND);
        for number in 0..300_u32 {
            let late = Duration::from_millis(10) * number;
            course.record(SECOND + 20 * SECOND * number / 300, late);
        }
        let climb = course.climb().unwrap();
        assert!((climb - 0.15).abs() < 0.01, "{climb}");
    }

    /// The latencies of a queue with a memory: those of an `M/M/1` whose server is busy for a share of
    /// the time, for 27 s after 3 s of warm-up.
    fn queue(rate: f64, service: f64, seed: u64) -> Course {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let mut draw = |mean: f64| -> f64 { mean * rng.sample::<f64, _>(Exp1) };
        let mut course = Course::new(3 * SECOND, 30 * SECOND);
        let (mut now, mut free) = (0.0_f64, 0.0_f64);
        loop {
            now += draw(1.0 / rate);
            free = free.max(now) + draw(service);
            if now >= 30.0 {
                return course;
            }
            if now >= 3.0 {
                course.record(Duration::from_secs_f64(now), Duration::from_secs_f64(free - now));
            }
        }
    }

    #[test]
    fn a_queue_that_only_has_its_ups_and_downs_seldom_climbs_and_one_that_grows_nearly_always() {
        let found = |rate: f64, service: f64| {
            (0..200).filter(|seed| queue(rate, service, *seed).climb().is_some()).count()
        };
        // Eight in ten of the time: 200 runs each of a fast service and of a slow one.
        assert!(found(80.0, 0.01) <= 2, "{}", found(80.0, 0.01));
        assert!(found(8.0, 0.1) <= 12, "{}", found(8.0, 0.1));
        // Nine in ten, of a service that takes 100 ms.
        assert!(found(9.0, 0.1) <= 24, "{}", found(9.0, 0.1));
        // A tenth more than it can do.
        assert!(found(110.0, 0.01) >= 190, "{}", found(110.0, 0.01));
    }

    #[test]
    fn a_slow_service_that_answers_everything_does_not_climb() {
        assert_eq!(course(50, |_| 0.5).climb(), None);
        // Scattered, without a trend: the golden ratio fills the unit interval evenly.
        assert_eq!(course(50, |n| (f64::from(n) * 0.618).fract()).climb(), None);
        assert_eq!(course(1, |_| 0.5).climb(), None);
    }
}
