//! How latency went over the run: does a queue grow?
//!
//! When less is answered than arrives, each request waits longer than the one before it, so latency
//! climbs with the clock. The run is cut into parts of equal length; a climb is one if the second
//! half is later than the first by more than chance explains.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Even, so that there are halves.
const PARTS: u32 = 64;

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
    squares: f64,
}

impl Moments {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    /// Of the mean, squared.
    fn error(&self) -> f64 {
        (self.squares / self.count - self.mean().powi(2)).max(0.0) / self.count
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
        let x = latency.as_secs_f64();
        self.parts[number].add(Moments { count: 1.0, sum: x, squares: x * x });
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.parts.iter_mut().zip(&other.parts) {
            mine.add(*theirs);
        }
    }

    /// Seconds by which latency climbs in each second of the run; nothing if it does not, or if that
    /// may be chance.
    pub fn climb(&self) -> Option<f64> {
        /// Latencies of neighbours are alike, so errors are larger than they seem.
        const ERRORS: f64 = 4.0;
        let last = self.parts.iter().rposition(|part| part.count > 0.0)?;
        let half = last.div_ceil(2);
        let sum = |parts: &[Moments]| {
            parts.iter().fold(Moments::default(), |mut sum, part| {
                sum.add(*part);
                sum
            })
        };
        let (early, late) = (sum(&self.parts[..half]), sum(&self.parts[half..2 * half]));
        if early.count < 2.0 || late.count < 2.0 {
            return None;
        }
        let rise = late.mean() - early.mean();
        let chance = ERRORS * (early.error() + late.error()).sqrt();
        (rise > chance).then(|| rise / (self.part.as_secs_f64() * half as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::Course;
    use std::time::Duration;

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

    #[test]
    fn a_slow_service_that_answers_everything_does_not_climb() {
        assert_eq!(course(50, |_| 0.5).climb(), None);
        // Scattered, without a trend: the golden ratio fills the unit interval evenly.
        assert_eq!(course(50, |n| (f64::from(n) * 0.618).fract()).climb(), None);
        assert_eq!(course(1, |_| 0.5).climb(), None);
    }
}
