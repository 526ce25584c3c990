//! How fast each worker of a measured run was at each moment.
//!
//! A request may cost more because its picture is larger, or because its worker was slow just then:
//! a neighbour took the processor, or a quota had run out. The first effect follows the request,
//! wherever the simulation sends it; the second stays with the worker and the moment, and hits
//! whatever request arrives then. The effect of the moment is what neighbouring requests of a
//! worker have in common: the logarithms of costs are modelled as a first-order process observed
//! under noise, whose variances follow from the correlation of neighbours. The Kalman filter and
//! the smoother of Rauch, Tung and Striebel (1965) yield the expected process. It varies less than
//! the process itself, and variation is what causes queues, so one possible course of the process
//! is drawn instead (Durbin and Koopman, "A simple and efficient simulation smoother for state
//! space time series analysis", 2002). Where neighbours have nothing in common, nothing is taken
//! from the requests.

use std::sync::Arc;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use super::clock::Nanos;

/// Seed of the drawn course, which is always the same.
const COURSE: u64 = 1;

/// Distances, in requests, at which correlation is measured, and as many further ones.
const NEAR: [usize; 4] = [2, 3, 4, 5];
const AFTER: [usize; 4] = [6, 7, 8, 9];

/// A request that kept its worker busy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Occupied {
    /// Seconds into the run.
    pub(crate) from: f64,
    /// Seconds into the run at which it was done.
    pub(crate) until: f64,
    /// How many times as long as usual it took.
    pub(crate) slowness: f64,
}

/// How fast one worker was over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    stretches: Arc<[Stretch]>,
}

/// A period of constant speed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stretch {
    /// Seconds into the run at which it begins.
    from: f64,
    /// Seconds of usual work that were done by then.
    done: f64,
    /// Seconds of usual work per second.
    speed: f64,
}

impl Pace {
    /// The pace of a worker with these requests, in chronological order. Between two requests, its
    /// speed is that of the nearer one.
    pub(crate) fn new(seen: &[Occupied]) -> Self {
        let mut stretches: Vec<Stretch> = Vec::with_capacity(seen.len());
        for (place, it) in seen.iter().enumerate() {
            let before = place.checked_sub(1).map_or(f64::NEG_INFINITY, |last| seen[last].until);
            let from = if before.is_finite() { f64::midpoint(before, it.from) } else { 0.0 };
            let done =
                stretches.last().map_or(0.0, |last| last.done + last.speed * (from - last.from));
            stretches.push(Stretch { from, done, speed: 1.0 / it.slowness.max(1e-6) });
        }
        Self { stretches: stretches.into() }
    }

    /// When `work` begun at `now` is done.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float to integer cast saturates, which is what is wanted"
    )]
    pub(crate) fn finish(&self, now: Nanos, work: f64) -> Nanos {
        let begun = now as f64 / 1e9;
        if self.stretches.is_empty() {
            return now + (work * 1e9) as Nanos;
        }
        let last_of = |count: usize| &self.stretches[count.saturating_sub(1)];
        let at = last_of(self.stretches.partition_point(|it| it.from <= begun));
        // Before the first stretch, its speed applies.
        let done = at.done + at.speed * (begun - at.from) + work;
        let at = last_of(self.stretches.partition_point(|it| it.done <= done));
        let seconds = at.from + (done - at.done) / at.speed;
        now.max((seconds * 1e9).round() as Nanos)
    }
}

/// The part of each value that is due to its moment, for series in chronological order.
pub(crate) fn moments(series: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let nothing = || series.iter().map(|values| vec![0.0; values.len()]).collect();
    let Some(process) = Process::of(series) else { return nothing() };
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(COURSE);
    series.iter().map(|values| process.course(values, &mut rng)).collect()
}

/// A first-order process observed under noise.
#[derive(Debug, Clone, Copy)]
struct Process {
    mean: f64,
    /// The share of a value that carries over to the next one.
    memory: f64,
    variance: f64,
    noise: f64,
}

impl Process {
    /// Estimated from the correlation of requests a few places apart; `None` if it may be chance.
    /// Adjacent ones tell little: if one takes longer because a quota ran out, the next takes less.
    fn of(series: &[Vec<f64>]) -> Option<Self> {
        /// Fewer than one in a thousand series without memory exceed this many standard errors.
        const ERRORS: f64 = 3.3;
        let all = || series.iter().flatten();
        let count = all().count() as f64;
        let mean = all().sum::<f64>() / count;
        let together = |lag: usize| {
            let of_one = |values: &Vec<f64>| -> f64 {
                let pairs = values.iter().zip(values.iter().skip(lag));
                pairs.map(|(one, other)| (one - mean) * (other - mean)).sum()
            };
            series.iter().map(of_one).sum::<f64>() / count
        };
        let (whole, near, after) = (together(0), NEAR.map(together), AFTER.map(together));
        let (near, after) = (near.iter().sum::<f64>(), after.iter().sum::<f64>());
        if count < 30.0 || near <= whole * ERRORS * (NEAR.len() as f64 / count).sqrt() {
            return None;
        }
        let memory = (after / near).max(0.0).powf(1.0 / NEAR.len() as f64).clamp(0.05, 0.995);
        let of_near: f64 = NEAR.iter().map(|&lag| memory.powf(lag as f64)).sum();
        let variance = (near / of_near).min(whole);
        // A trace of noise, so that nothing is divided by zero.
        let noise = (whole - variance).max(whole * 1e-6);
        Some(Self { mean, memory, variance, noise })
    }

    /// Draws a course of the process that may have produced these values.
    fn course(&self, values: &[f64], rng: &mut impl Rng) -> Vec<f64> {
        let mut normal = |variance: f64| -> f64 {
            let unit: f64 = StandardNormal.sample(rng);
            variance.sqrt() * unit
        };
        let fresh = self.variance * (1.0 - self.memory * self.memory);
        let mut level = normal(self.variance);
        let (mut drawn, mut seen) = (Vec::new(), Vec::new());
        for _ in values {
            drawn.push(level);
            seen.push(self.mean + level + normal(self.noise));
            level = self.memory * level + normal(fresh);
        }
        // The uncertainty about the drawn course equals that about the true one.
        let (expected, known) = (self.smooth(values), self.smooth(&seen));
        let errors = drawn.iter().zip(known).map(|(drawn, known)| drawn - known);
        expected.iter().zip(errors).map(|(expected, error)| expected + error).collect()
    }

    /// The expected course of the process, given these values.
    fn smooth(&self, values: &[f64]) -> Vec<f64> {
        let Self { mean, memory, variance, noise } = *self;
        let fresh = variance * (1.0 - memory * memory);
        let mut filtered: Vec<(f64, f64)> = Vec::with_capacity(values.len());
        let mut expected = (0.0, variance);
        for value in values {
            let gain = expected.1 / (expected.1 + noise);
            let level = expected.0 + gain * (value - mean - expected.0);
            let doubt = (1.0 - gain) * expected.1;
            filtered.push((level, doubt));
            expected = (memory * level, memory * memory * doubt + fresh);
        }
        let mut later: Option<f64> = None;
        let mut found: Vec<f64> = Vec::with_capacity(values.len());
        for (level, doubt) in filtered.into_iter().rev() {
            let level = later.map_or(level, |later| {
                let share = memory * doubt / (memory * memory * doubt + fresh);
                level + share * (later - memory * level)
            });
            found.push(level);
            later = Some(level);
        }
        found.reverse();
        found
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::ChaCha12Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::{Occupied, Pace, moments};
    use crate::simulate::clock::nanos;

    #[test]
    fn work_takes_as_long_as_the_moment_makes_it() {
        // Usual speed for 1 s, three times as slow until 4 s, usual speed from then on.
        let occupied = |from, until, slowness| Occupied { from, until, slowness };
        let seen = [occupied(0.0, 1.0, 1.0), occupied(1.0, 4.0, 3.0), occupied(4.0, 5.0, 1.0)];
        let pace = Pace::new(&seen);
        let finish = |now: f64, work| pace.finish(nanos(now), work) as f64 / 1e9;
        for (now, work, expected) in
            [(0.0, 0.5, 0.5), (0.5, 1.0, 2.5), (1.0, 1.0, 4.0), (0.5, 2.5, 5.0), (9.0, 1.0, 10.0)]
        {
            assert!(
                (finish(now, work) - expected).abs() < 1e-6,
                "{now} {work}: {}",
                finish(now, work)
            );
        }
        assert_eq!(Pace::new(&[]).finish(5, 1e-9), 6);
    }

    #[test]
    fn between_two_requests_a_worker_is_as_for_the_nearer_one() {
        let seen = [
            Occupied { from: 0.0, until: 1.0, slowness: 1.0 },
            Occupied { from: 3.0, until: 4.0, slowness: 2.0 },
        ];
        assert_eq!(Pace::new(&seen).finish(1_000_000_000, 1.5), 3_000_000_000);
    }

    #[test]
    fn what_neighbours_have_in_common_belongs_to_the_moment_and_the_rest_does_not() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let mut normal = || -> f64 { StandardNormal.sample(&mut rng) };
        let (mut level, mut levels, mut seen) = (0.0, Vec::new(), Vec::new());
        for _ in 0..4000 {
            level = 0.9 * level + (1.0_f64 - 0.81).sqrt() * normal();
            levels.push(level);
            seen.push(level + 0.5 * normal());
        }
        let found = moments(&[seen.clone()]).remove(0);
        let product = |one: &[f64], other: &[f64]| -> f64 {
            one.iter().zip(other).map(|(one, other)| one * other).sum()
        };
        let (whole, kept) = (product(&levels, &levels), product(&found, &found));
        assert!((kept / whole - 1.0).abs() < 0.15, "varies as much: {kept}, {whole}");
        let common = product(&found, &levels) / (kept * whole).sqrt();
        assert!(common > 0.8, "{common}");
        // If one takes longer, the next takes less: a quota was used up, and was then refilled.
        let pay = |(at, value): (usize, &f64)| value + if at % 2 == 0 { 1.5 } else { -1.5 };
        let paying: Vec<f64> = seen.iter().enumerate().map(pay).collect();
        let found = moments(&[paying]).remove(0);
        let kept = product(&found, &found);
        assert!(product(&found, &levels) / (kept * whole).sqrt() > 0.6, "{kept} of {whole}");
        let alone: Vec<f64> = (0..4000).map(|_| normal()).collect();
        assert!(moments(&[alone]).remove(0).iter().all(|it| it.abs() < 1e-12));
    }
}
