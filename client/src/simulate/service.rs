//! How long a worker computes on one request: analytic, or as it was measured.
//!
//! Measured service times come from a results folder, in their order, and are drawn in stretches:
//! slow moments cluster, and requests that hit the same one queue behind each other. Drawn one by
//! one they would not, and the tail of a busy fleet would come out even shorter. A stretch ends
//! with the same probability after each request (Politis and Romano, "The Stationary Bootstrap",
//! 1994), so that every request is drawn equally often. If the worker reports its stages, the
//! service time is its model's compute time, which is how long the next request has to wait; the
//! rest of the round trip, without the queue, delays a request but occupies nothing. A run at any
//! load will then do, and one at the load in question also shows how workers affect each other.
//! Without stages, use a run at low load, where nothing had to queue.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::{Rng, RngExt};
use rand_distr::{Distribution, Exp1, LogNormal};
use serde::Deserialize;

/// A distribution of service times.
#[derive(Debug, Clone, PartialEq)]
pub enum ServiceTime {
    /// The same time for every request.
    Constant(Duration),
    /// Exponential: the case that theory knows best.
    Exponential(Duration),
    /// Log-normal with a mean and a coefficient of variation: like most computations.
    LogNormal(Duration, f64),
    /// As measured: seconds, in the order of the run.
    Measured(Arc<[f64]>),
}

/// On average, this many stretches together are as long as the measured run.
const STRETCHES: f64 = 20.0;
/// Longer than any sensible service; keeps sums of nanoseconds far from overflow.
const LONGEST: Duration = Duration::from_hours(1);

/// What is known from a results folder.
#[derive(Debug, Clone)]
pub struct Measured {
    /// How long workers computed.
    pub service: ServiceTime,
    /// One-way delay of the network.
    pub network: Duration,
}

impl ServiceTime {
    /// The mean of the distribution, in seconds.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Constant(mean) | Self::Exponential(mean) | Self::LogNormal(mean, _) => {
                mean.as_secs_f64()
            }
            Self::Measured(times) => times.iter().sum::<f64>() / times.len() as f64,
        }
    }

    /// A sampler that draws from this distribution.
    #[expect(clippy::missing_panics_doc, reason = "parsing checks mean and variation")]
    pub fn sampler(&self) -> Sampler {
        match self {
            Self::Constant(time) => Sampler::Constant(time.as_secs_f64()),
            Self::Exponential(mean) => Sampler::Exponential(mean.as_secs_f64()),
            Self::LogNormal(mean, variation) => {
                let variance = (variation * variation).ln_1p();
                let location = mean.as_secs_f64().ln() - variance / 2.0;
                let normal = LogNormal::new(location, variance.sqrt());
                Sampler::LogNormal(normal.expect("parsing checked mean and variation"))
            }
            Self::Measured(times) => Sampler::Measured(Stretches::new(times)),
        }
    }

    /// The service times of the successful samples of a results folder: the compute time that the
    /// worker reports for its model, otherwise all of its time except the queue. The rest of the
    /// round trip counts as network.
    pub fn measured(folder: &Path) -> Result<Measured> {
        #[derive(Deserialize)]
        struct Row {
            warm_up: bool,
            service_time_ms: Option<f64>,
            outcome: String,
            worker_ms: Option<f64>,
            #[serde(default)]
            queue_ms: Option<f64>,
            #[serde(default)]
            compute_ms: Option<f64>,
        }
        let file = folder.join("samples.csv");
        let mut reader =
            csv::Reader::from_path(&file).with_context(|| file.display().to_string())?;
        let (mut times, mut rests) = (Vec::new(), Vec::new());
        for row in reader.deserialize() {
            let row: Row = row.with_context(|| file.display().to_string())?;
            let Some(whole) = row.service_time_ms.filter(|time| *time > 0.0) else { continue };
            if !row.warm_up && row.outcome == "200" {
                let time = row.compute_ms.or(row.worker_ms).unwrap_or(whole);
                times.push(time / 1e3);
                let rest = whole - row.queue_ms.unwrap_or(0.0) - time;
                rests.push(rest.max(0.0) / 1e3);
            }
        }
        ensure!(
            times.len() >= 30,
            "{} has {} samples that succeeded; a distribution needs 30 at least",
            file.display(),
            times.len()
        );
        rests.sort_unstable_by(f64::total_cmp);
        // The median, since a hiccup of the machine is not network delay.
        let network = Duration::from_secs_f64(rests[rests.len() / 2] / 2.0);
        Ok(Measured { service: Self::Measured(times.into()), network })
    }
}

impl FromStr for ServiceTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            "const:MEAN, exp:MEAN or lognormal:MEAN:VARIATION, such as lognormal:20ms:0.3"
                .to_owned()
        };
        let mut parts = text.split(':');
        let kind = parts.next().unwrap_or_default();
        let mean =
            humantime::parse_duration(parts.next().ok_or_else(refuse)?).map_err(|_| refuse())?;
        if mean.is_zero() || mean > LONGEST {
            return Err("a mean above 0 and up to 1h".to_owned());
        }
        match (kind, parts.next(), parts.next()) {
            ("const", None, _) => Ok(Self::Constant(mean)),
            ("exp", None, _) => Ok(Self::Exponential(mean)),
            ("lognormal", Some(variation), None) => match variation.parse::<f64>() {
                Ok(variation) if (0.001..=100.0).contains(&variation) => {
                    Ok(Self::LogNormal(mean, variation))
                }
                _ => Err("a variation from 0.001 to 100".to_owned()),
            },
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for ServiceTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(mean) => write!(f, "constant {mean:?}"),
            Self::Exponential(mean) => write!(f, "exponential, mean {mean:?}"),
            Self::LogNormal(mean, cv) => write!(f, "log-normal, mean {mean:?}, variation {cv}"),
            Self::Measured(times) => {
                write!(f, "{} measured times, mean {:.3} ms", times.len(), self.mean() * 1e3)
            }
        }
    }
}

/// Draws service times in seconds.
#[derive(Debug, Clone)]
pub enum Sampler {
    /// Always this time.
    Constant(f64),
    /// Exponential, with this mean.
    Exponential(f64),
    /// Log-normal, with the parameters of the logarithm.
    LogNormal(LogNormal<f64>),
    /// Stretches of the measured times.
    Measured(Stretches),
}

/// Draws stretches of a measured sequence.
#[derive(Debug, Clone)]
pub struct Stretches {
    times: Arc<[f64]>,
    /// Position of the next time of the stretch; `None` before the first.
    next: Option<usize>,
    /// The probability that a stretch ends.
    end: f64,
}

impl Sampler {
    /// Draws the service time of one request.
    pub fn draw(&mut self, rng: &mut impl Rng) -> f64 {
        match self {
            Self::Constant(time) => *time,
            Self::Exponential(mean) => {
                let unit: f64 = Exp1.sample(rng);
                *mean * unit
            }
            Self::LogNormal(normal) => normal.sample(rng),
            Self::Measured(stretches) => stretches.draw(rng),
        }
    }
}

impl Stretches {
    fn new(times: &Arc<[f64]>) -> Self {
        let end = (STRETCHES / times.len() as f64).min(1.0);
        Self { times: Arc::clone(times), next: None, end }
    }

    fn draw(&mut self, rng: &mut impl Rng) -> f64 {
        let from = match self.next {
            Some(next) if !rng.random_bool(self.end) => next,
            Some(_) | None => rng.random_range(0..self.times.len()),
        };
        // Wraps around, or the times near the ends would be drawn less often.
        self.next = Some((from + 1) % self.times.len());
        self.times[from]
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;

    use super::*;

    #[test]
    fn every_distribution_has_the_mean_it_says() {
        let measured = ServiceTime::Measured([0.01, 0.02, 0.06].into());
        for service in
            ["const:30ms", "exp:30ms", "lognormal:30ms:0.5"].map(|text| text.parse().expect(text))
        {
            for service in [service, measured.clone()] {
                let mut sampler = service.sampler();
                let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
                let mean = (0..200_000).map(|_| sampler.draw(&mut rng)).sum::<f64>() / 200_000.0;
                assert!((mean / 0.03 - 1.0).abs() < 0.01, "{service}: {mean}");
                assert!((service.mean() - 0.03).abs() < 1e-12);
            }
        }
    }

    /// A run that was slow for its second half: what is drawn has its mean and its halves.
    #[test]
    fn slow_moments_are_drawn_together() {
        let times: Arc<[f64]> = (0..1000).map(|n| if n < 500 { 0.01 } else { 0.03 }).collect();
        let mut sampler = ServiceTime::Measured(times).sampler();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        let drawn: Vec<f64> = (0..200_000).map(|_| sampler.draw(&mut rng)).collect();
        let slow = drawn.iter().filter(|&&time| time > 0.02).count() as f64 / drawn.len() as f64;
        assert!((slow - 0.5).abs() < 0.05, "{slow}");
        let changes = drawn.windows(2).filter(|pair| pair[0] < pair[1]).count() as f64;
        // One stretch in 50 requests, one in four of them from fast to slow, and the middle itself.
        let expected = drawn.len() as f64 * (1.0 / 50.0 / 4.0 + 1.0 / 1000.0);
        assert!((changes / expected - 1.0).abs() < 0.15, "{changes} of {expected}");
    }

    #[test]
    fn senseless_distributions_are_refused() {
        for text in [
            "",
            "exp",
            "exp:0s",
            "exp:2h",
            "exp:1ms:2",
            "lognormal:1ms",
            "lognormal:1ms:0",
            "gamma:1ms",
        ] {
            assert!(text.parse::<ServiceTime>().is_err(), "{text}");
        }
    }

    #[test]
    fn measured_times_are_those_that_succeeded() {
        let folder = tempfile::tempdir().expect("folder");
        let mut text = String::from("trial,warm_up,service_time_ms,outcome,extra\n");
        text.push_str("a,true,999,200,x\na,false,999,503,x\na,false,999,timeout,x\n");
        text.push_str(&"a,false,10,200,x\n".repeat(20));
        let file = folder.path().join("samples.csv");
        std::fs::write(&file, &text).expect("written");
        let few = ServiceTime::measured(folder.path()).expect_err("too few").to_string();
        assert!(few.contains("has 20 samples"), "{few}");
        text.push_str(&"a,false,20,200,x\n".repeat(20));
        std::fs::write(&file, &text).expect("written");
        let service = ServiceTime::measured(folder.path()).expect("enough");
        assert!((service.service.mean() - 0.015).abs() < 1e-12);
        assert_eq!(service.network, Duration::ZERO);
        let text = text.replace(",extra\n", ",worker_ms\n").replace(",x\n", ",8\n");
        std::fs::write(&file, text).expect("written");
        let service = ServiceTime::measured(folder.path()).expect("enough");
        assert!((service.service.mean() - 0.008).abs() < 1e-12);
        assert_eq!(service.network, Duration::from_millis(6));
        // 5 ms of computing and 1 ms in the queue leave 4 or 14 ms, half of it each way.
        let text = std::fs::read_to_string(&file).expect("there");
        let text = text.replace(",worker_ms\n", ",worker_ms,queue_ms,compute_ms\n");
        std::fs::write(&file, text.replace(",8\n", ",8,1,5\n")).expect("written");
        let service = ServiceTime::measured(folder.path()).expect("enough");
        assert!((service.service.mean() - 0.005).abs() < 1e-12);
        assert_eq!(service.network, Duration::from_millis(7));
    }
}
