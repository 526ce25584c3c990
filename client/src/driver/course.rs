//! How latency developed over the run: does a queue grow?
//!
//! When requests arrive faster than they are answered, each waits longer than the one before it, so
//! latency climbs over time, in a straight line. Neighbouring requests have similar latencies, and
//! a queue that does not grow wanders as well, so a climb cannot be told from chance as if requests
//! were independent. Instead, the run is cut into stretches, and their means have to lie on a line.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::stats::Line;

/// Maximum number of parts; more than half of them are filled, however long the run is.
const PARTS: usize = 1024;
/// Initial length of a part.
const SHORTEST: Duration = Duration::from_millis(1);
/// Parts are doubled no more often than this: they are longer than any run by then.
const MAX_DOUBLINGS: u32 = 40;
/// Maximum number of stretches, each of one or more parts ...
const STRETCHES: usize = 16;
/// ... and the minimum, below which nothing is concluded.
const FEWEST: usize = 8;

/// Latencies by the instant at which requests were due.
///
/// A run may end long before its time, so the length of a part follows from the requests so far:
/// whenever there would be too many parts, every two of them are merged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Course {
    start: Duration,
    /// How often parts were doubled.
    doublings: u32,
    /// Up to the last one in which a request was due.
    parts: Vec<Moments>,
}

/// Sums over the latencies of one part, in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Moments {
    count: f64,
    sum: f64,
}

impl Moments {
    /// The sums of several parts.
    fn of(parts: &[Self]) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.add(*part);
        }
        all
    }

    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }
}

impl Course {
    /// An empty course of requests that are due from `start` on.
    pub(super) fn new(start: Duration) -> Self {
        Self { start, doublings: 0, parts: Vec::new() }
    }

    pub(super) fn record(&mut self, scheduled: Duration, latency: Duration) {
        let since = nanos(scheduled.saturating_sub(self.start));
        while since / self.part_nanos() >= PARTS as u64 && self.doublings < MAX_DOUBLINGS {
            self.double();
        }
        let number = usize::try_from(since / self.part_nanos()).unwrap_or(PARTS).min(PARTS - 1);
        if self.parts.len() <= number {
            self.parts.resize(number + 1, Moments::default());
        }
        self.parts[number].add(Moments { count: 1.0, sum: latency.as_secs_f64() });
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        let doublings = self.doublings.max(other.doublings).min(MAX_DOUBLINGS);
        for one in [&mut *self, &mut other] {
            while one.doublings < doublings {
                one.double();
            }
        }
        let count = self.parts.len().max(other.parts.len());
        self.parts.resize(count, Moments::default());
        for (mine, theirs) in self.parts.iter_mut().zip(&other.parts) {
            mine.add(*theirs);
        }
    }

    fn double(&mut self) {
        self.parts = self.parts.chunks(2).map(Moments::of).collect();
        self.doublings += 1;
    }

    fn part_nanos(&self) -> u64 {
        nanos(SHORTEST) << self.doublings.min(MAX_DOUBLINGS)
    }

    /// Whether there is enough data to say whether latency climbs.
    pub(super) fn is_told(&self) -> bool {
        self.stretches().len() >= FEWEST
    }

    /// Seconds by which latency climbs per second of the run; `None` if it does not climb, or if
    /// the climb does not stand out from its ups and downs.
    pub fn climb(&self) -> Option<f64> {
        /// Seconds per second: a service whose latency climbs by less keeps up.
        const LEAST: f64 = 0.01;
        /// From end to end, latency has to climb by more than this share of its mean: a run twice
        /// as long would then report another mean.
        const RISE: f64 = 0.5;
        /// The share of the scatter of the stretches that a straight line has to explain. It seldom
        /// does for a queue that only has its ups and downs, and nearly always for one that grows.
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
        let (parts, part) = (self.parts.len(), self.part_nanos() as f64 / 1e9);
        let count = parts.min(STRETCHES);
        let stretch = |number: usize| {
            let (from, to) = (number * parts / count, (number + 1) * parts / count);
            let sum = Moments::of(&self.parts[from..to]);
            let middle = (from + to) as f64 / 2.0;
            (sum.count > 0.0).then(|| (middle * part, sum.mean()))
        };
        (0..count).filter_map(stretch).collect()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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
        let mut course = Course::new(SECOND);
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

    /// Two per cent more is asked than is answered: the two halves of 10 s hardly differ.
    #[test]
    fn a_queue_that_grows_slowly_climbs_as_well() {
        let climb = course(1000, |n| 0.02 + 0.2 * f64::from(n) / 1000.0).climb().unwrap();
        assert!((climb - 0.02).abs() < 0.001, "{climb}");
        // Beside half a second that every request takes it does not matter.
        assert_eq!(course(1000, |n| 0.5 + 0.2 * f64::from(n) / 1000.0).climb(), None);
    }

    /// The planned length of the run does not matter: 70 s of 10 minutes say as much as 70 s of 70.
    #[test]
    fn a_course_is_told_by_what_there_is_of_it() {
        for seconds in [1, 3, 70, 5000_u32] {
            let mut course = Course::new(SECOND);
            for number in 0..20 * seconds {
                course.record(SECOND + SECOND * number / 20, SECOND * number / 200);
            }
            let climb = course.climb().unwrap();
            assert!((climb - 0.1).abs() < 0.01, "{seconds} s: {climb}");
            assert!(course.parts.len() <= super::PARTS, "{}", course.parts.len());
        }
    }

    #[test]
    fn what_two_threads_saw_is_told_as_if_one_had_seen_it() {
        let (mut one, mut other, mut both) =
            (Course::new(SECOND), Course::new(SECOND), Course::new(SECOND));
        for number in 0..3000_u32 {
            // One of them sends for 30 s, the other for 3 s.
            let mine = if number.is_multiple_of(2) || number > 300 { &mut one } else { &mut other };
            let (scheduled, late) = (SECOND + SECOND * number / 100, SECOND * number / 500);
            mine.record(scheduled, late);
            both.record(scheduled, late);
        }
        let mut merged = other.clone();
        merged.merge(&one);
        one.merge(&other);
        let told = both.climb().unwrap();
        assert!((told - 0.2).abs() < 0.01, "{told}");
        for climb in [merged.climb().unwrap(), one.climb().unwrap()] {
            assert!((climb - told).abs() < 1e-9, "{climb} instead of {told}");
        }
    }

    /// The latencies of a queue with a memory: those of an `M/M/1` whose server is busy for a share of
    /// the time, for 27 s after 3 s of warm-up.
    fn queue(rate: f64, service: f64, seed: u64) -> Course {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let mut draw = |mean: f64| -> f64 { mean * rng.sample::<f64, _>(Exp1) };
        let mut course = Course::new(3 * SECOND);
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
        // Busy 80 % of the time: 200 runs each of a fast service and of a slow one.
        assert!(found(80.0, 0.01) <= 2, "{}", found(80.0, 0.01));
        assert!(found(8.0, 0.1) <= 12, "{}", found(8.0, 0.1));
        // Busy 90 % of the time, with a service that takes 100 ms.
        assert!(found(9.0, 0.1) <= 24, "{}", found(9.0, 0.1));
        // 10 % more than the service can handle.
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
