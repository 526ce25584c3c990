//! When requests are due: gaps between arrivals, determined by a seed alone.
//!
//! A schedule never reads a clock and does not depend on how the service is doing, which is what
//! makes an open loop open. The same arrivals and seed give the same gaps, bit for bit, on any
//! machine: the generator is `ChaCha12`, whose stream is specified.

mod stages;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::distr::Distribution;
use rand::rngs::ChaCha12Rng;
use rand_distr::{Exp, Exp1, Poisson};
use serde::{Deserialize, Serialize};
pub use stages::Stages;

use crate::error::Error;

/// An arrival process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Arrivals {
    /// Exponential gaps: independent users, the standard process of queueing theory.
    Poisson {
        /// Mean arrivals per second.
        rate: f64,
    },
    /// Equal gaps.
    Uniform {
        /// Arrivals per second.
        rate: f64,
    },
    /// Whole seconds drawn from a Poisson distribution, as in the original experiment: for small
    /// means nearly every gap is zero and requests come in bursts.
    SeedCompat {
        /// Mean gap in seconds.
        mean_wait: f64,
    },
    /// A rate that changes.
    Staged {
        /// How it changes.
        stages: Stages,
        /// Whether gaps are equal while the rate is constant, instead of independent users.
        is_uniform: bool,
    },
    /// Recorded instants.
    Recorded {
        /// When each request is due, in order.
        #[serde(skip)]
        instants: Arc<[Duration]>,
    },
    /// A fixed number of users who each wait for an answer, think, and send the next request.
    Closed {
        /// How many users.
        users: usize,
        /// Pause between an answer and the next request of the same user.
        think: Duration,
    },
}

impl Arrivals {
    /// Arrivals per second that the process prescribes; `None` for a closed loop, which has none.
    pub fn offered_rate(&self) -> Option<f64> {
        match self {
            Self::Poisson { rate } | Self::Uniform { rate } => Some(*rate),
            Self::SeedCompat { mean_wait } => Some(1.0 / mean_wait),
            Self::Staged { stages, .. } => Some(stages.mean_rate()),
            Self::Recorded { instants } => (!instants.is_empty())
                .then(|| instants.len() as f64 / length_of(instants).as_secs_f64()),
            Self::Closed { .. } => None,
        }
    }

    /// Whether the load is the same at all times, however the service answers. Only then does
    /// rising latency mean that a queue is growing.
    pub fn is_steady(&self) -> bool {
        match self {
            Self::Poisson { .. } | Self::Uniform { .. } | Self::SeedCompat { .. } => true,
            Self::Staged { .. } | Self::Recorded { .. } | Self::Closed { .. } => false,
        }
    }

    /// The infinite sequence of gaps of this process.
    pub fn schedule(&self, seed: u64) -> Result<Schedule, Error> {
        let gaps = match self {
            Self::Staged { stages, is_uniform } => {
                let (stages, is_uniform) = (stages.clone(), *is_uniform);
                return Ok(Schedule::of(
                    Instants::Staged { stages, is_uniform, expected: 0.0 },
                    seed,
                ));
            }
            Self::Recorded { instants } => {
                let instants = Arc::clone(instants);
                return Ok(Schedule::of(Instants::Recorded { instants, next: 0 }, seed));
            }
            Self::Poisson { rate } => Gaps::Exponential(
                Exp::new(in_range("rate", *rate, RATES)?)
                    .map_err(|e| Error::Usage(e.to_string()))?,
            ),
            Self::Uniform { rate } => {
                Gaps::Constant(Duration::from_secs_f64(1.0 / in_range("rate", *rate, RATES)?))
            }
            Self::SeedCompat { mean_wait } => Gaps::WholeSeconds(
                Poisson::new(in_range("mean wait", *mean_wait, WAITS)?)
                    .map_err(|e| Error::Usage(e.to_string()))?,
            ),
            Self::Closed { users: 0, .. } => {
                return Err(Error::Usage("a closed loop needs at least one user".into()));
            }
            Self::Closed { think, .. } => Gaps::Constant(*think),
        };
        Ok(Schedule { process: Process::Gaps(gaps), rng: ChaCha12Rng::seed_from_u64(seed) })
    }
}

/// How long recorded arrivals last: up to the last one, plus the mean gap between them.
pub fn length_of(instants: &[Duration]) -> Duration {
    const SHORTEST: Duration = Duration::from_millis(1);
    let last = instants.last().copied().unwrap_or_default();
    let others = u32::try_from(instants.len()).unwrap_or(u32::MAX).saturating_sub(1);
    last.saturating_add((last / others.max(1)).max(SHORTEST))
}

/// From one per day to one per nanosecond: outside this range, durations would overflow or vanish.
const RATES: RangeInclusive<f64> = 1e-5..=1e9;
/// Seconds between arrivals at those rates.
const WAITS: RangeInclusive<f64> = 1e-9..=1e5;

fn in_range(what: &str, value: f64, range: RangeInclusive<f64>) -> Result<f64, Error> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = range.into_inner();
    Err(Error::Usage(format!("a {what} must be between {least} and {most}, not {value}")))
}

/// Gaps between arrivals. Never ends: after the last arrival the gap is the longest duration.
#[derive(Debug)]
pub struct Schedule {
    process: Process,
    rng: ChaCha12Rng,
}

#[derive(Debug)]
enum Process {
    /// Independent gaps.
    Gaps(Gaps),
    /// Instants, from which gaps are derived.
    Instants { instants: Instants, last: Duration },
}

#[derive(Debug, Clone, Copy)]
enum Gaps {
    Exponential(Exp<f64>),
    Constant(Duration),
    WholeSeconds(Poisson<f64>),
}

#[derive(Debug)]
enum Instants {
    /// A rate that changes; `expected` is the position in a process of rate 1.
    Staged { stages: Stages, is_uniform: bool, expected: f64 },
    /// Recorded instants; `next` is the index of the next one.
    Recorded { instants: Arc<[Duration]>, next: usize },
}

impl Gaps {
    fn draw(self, rng: &mut ChaCha12Rng) -> Duration {
        match self {
            Self::Exponential(gaps) => Duration::from_secs_f64(gaps.sample(rng)),
            Self::Constant(gap) => gap,
            Self::WholeSeconds(gaps) => Duration::from_secs_f64(gaps.sample(rng)),
        }
    }
}

impl Instants {
    fn next(&mut self, rng: &mut ChaCha12Rng) -> Option<Duration> {
        match self {
            Self::Staged { stages, is_uniform, expected } => {
                let gap: f64 = if *is_uniform { 1.0 } else { Exp1.sample(rng) };
                *expected += gap;
                stages.instant(*expected)
            }
            Self::Recorded { instants, next } => {
                *next += 1;
                instants.get(*next - 1).copied()
            }
        }
    }
}

impl Schedule {
    fn of(instants: Instants, seed: u64) -> Self {
        let process = Process::Instants { instants, last: Duration::ZERO };
        Self { process, rng: ChaCha12Rng::seed_from_u64(seed) }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(match &mut self.process {
            Process::Gaps(gaps) => gaps.draw(&mut self.rng),
            Process::Instants { instants, last } => {
                let at = instants.next(&mut self.rng).unwrap_or(Duration::MAX);
                let gap = at.saturating_sub(*last);
                *last = at;
                gap
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Arrivals, length_of};

    #[test]
    fn a_recording_asks_for_as_many_as_there_are_in_its_time() {
        let instants = [0, 100, 200, 300].map(Duration::from_millis);
        assert_eq!(length_of(&instants), Duration::from_millis(400));
        let rate =
            |instants: &[Duration]| Arrivals::Recorded { instants: instants.into() }.offered_rate();
        assert!((rate(&instants).unwrap() - 10.0).abs() < 1e-9);
        assert!((rate(&instants[..1]).unwrap() - 1000.0).abs() < 1e-9, "one, and no closed loop");
    }

    #[test]
    fn the_wait_of_every_rate_can_be_asked_for_as_well() {
        for power in -5..=9 {
            let rate = 10_f64.powi(power);
            assert!(Arrivals::Poisson { rate }.schedule(1).is_ok(), "{rate}/s");
            let mean_wait = 1.0 / rate;
            assert!(Arrivals::SeedCompat { mean_wait }.schedule(1).is_ok(), "{rate}/s");
        }
    }

    #[test]
    fn senseless_processes_are_refused() {
        for arrivals in [
            Arrivals::Poisson { rate: 0.0 },
            Arrivals::Poisson { rate: f64::NAN },
            Arrivals::Uniform { rate: -1.0 },
            Arrivals::SeedCompat { mean_wait: f64::INFINITY },
            Arrivals::Closed { users: 0, think: Duration::ZERO },
        ] {
            assert!(arrivals.schedule(1).is_err(), "{arrivals:?}");
        }
    }
}
