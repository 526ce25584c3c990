//! When requests are due: gaps between arrivals, drawn from a seed and nothing else.
//!
//! A schedule never looks at a clock and never learns how the service is doing; that is what makes
//! an open loop open. The same arrivals and seed give the same gaps, bit for bit, on any machine:
//! the generator is `ChaCha12`, whose stream is specified.

use std::time::Duration;

use rand::SeedableRng;
use rand::distr::Distribution;
use rand::rngs::ChaCha12Rng;
use rand_distr::{Exp, Poisson};
use serde::Serialize;

use crate::error::Error;

/// An arrival process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Arrivals {
    /// Exponential gaps: independent users, the process of queueing theory.
    Poisson {
        /// Mean arrivals a second.
        rate: f64,
    },
    /// Equal gaps.
    Uniform {
        /// Arrivals a second.
        rate: f64,
    },
    /// Whole seconds drawn from a Poisson distribution, as the original experiment did: for small
    /// means nearly every gap is zero and requests come in bursts.
    SeedCompat {
        /// Mean gap in seconds.
        mean_wait: f64,
    },
    /// A fixed number of users who each wait for an answer, think, and ask again.
    Closed {
        /// How many users.
        users: usize,
        /// Pause between an answer and the next request of the same user.
        think: Duration,
    },
}

impl Arrivals {
    /// Arrivals a second that the process asks for; `None` for a closed loop, which asks for none.
    pub fn offered_rate(&self) -> Option<f64> {
        match *self {
            Self::Poisson { rate } | Self::Uniform { rate } => Some(rate),
            Self::SeedCompat { mean_wait } => Some(1.0 / mean_wait),
            Self::Closed { .. } => None,
        }
    }

    /// The gaps of this process, without end.
    pub fn schedule(&self, seed: u64) -> Result<Schedule, Error> {
        let gaps = match *self {
            Self::Poisson { rate } => Gaps::Exponential(
                Exp::new(positive("rate", rate)?).map_err(|e| Error::Usage(e.to_string()))?,
            ),
            Self::Uniform { rate } => {
                Gaps::Constant(Duration::from_secs_f64(1.0 / positive("rate", rate)?))
            }
            Self::SeedCompat { mean_wait } => Gaps::WholeSeconds(
                Poisson::new(positive("mean wait", mean_wait)?)
                    .map_err(|e| Error::Usage(e.to_string()))?,
            ),
            Self::Closed { users: 0, .. } => {
                return Err(Error::Usage("a closed loop needs at least one user".into()));
            }
            Self::Closed { think, .. } => Gaps::Constant(think),
        };
        Ok(Schedule { gaps, rng: ChaCha12Rng::seed_from_u64(seed) })
    }
}

/// Rates from one a day to one a nanosecond: outside, durations would overflow or vanish.
fn positive(what: &str, value: f64) -> Result<f64, Error> {
    if value.is_finite() && (1e-5..=1e9).contains(&value) {
        Ok(value)
    } else {
        Err(Error::Usage(format!("a {what} must be a positive number, not {value}")))
    }
}

/// Gaps between arrivals. Never ends.
#[derive(Debug)]
pub struct Schedule {
    gaps: Gaps,
    rng: ChaCha12Rng,
}

#[derive(Debug, Clone, Copy)]
enum Gaps {
    Exponential(Exp<f64>),
    Constant(Duration),
    WholeSeconds(Poisson<f64>),
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(match &self.gaps {
            Gaps::Exponential(gaps) => Duration::from_secs_f64(gaps.sample(&mut self.rng)),
            Gaps::Constant(gap) => *gap,
            Gaps::WholeSeconds(gaps) => Duration::from_secs_f64(gaps.sample(&mut self.rng)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Arrivals;
    use std::time::Duration;

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
