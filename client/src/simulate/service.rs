//! How long a worker computes on one request: analytic, or as it was measured.
//!
//! A measured distribution is the sorted list of service times of a results folder, drawn from with
//! equal chance (the bootstrap's assumption). Of a worker that states its stages it is the time that
//! its model computed, which is how long the next request has to wait; what is left of the round
//! trip without the queue delays a request and occupies nothing. So a run at any load will do, and
//! one at the load in question also shows what workers do to each other. Without stages take a run
//! at low load, where nothing had to queue.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand_distr::{Distribution, Exp1, LogNormal};
use serde::Deserialize;

/// A distribution of service times.
#[derive(Debug, Clone, PartialEq)]
pub enum ServiceTime {
    /// Always the same.
    Constant(Duration),
    /// Exponential: the case that theory knows best.
    Exponential(Duration),
    /// Log-normal with a mean and a coefficient of variation: like most computations.
    LogNormal(Duration, f64),
    /// As measured: seconds, sorted.
    Measured(Arc<[f64]>),
}

/// Longer than any sensible service; keeps sums of nanoseconds far from overflow.
const LONGEST: Duration = Duration::from_hours(1);

/// What a results folder says.
#[derive(Debug, Clone)]
pub struct Measured {
    /// How long workers computed.
    pub service: ServiceTime,
    /// One way between there and here.
    pub network: Duration,
}

impl ServiceTime {
    /// Mean seconds.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Constant(mean) | Self::Exponential(mean) | Self::LogNormal(mean, _) => {
                mean.as_secs_f64()
            }
            Self::Measured(times) => times.iter().sum::<f64>() / times.len() as f64,
        }
    }

    /// Something that draws from this distribution.
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
            Self::Measured(times) => Sampler::Measured(Arc::clone(times)),
        }
    }

    /// The service times of the samples of a results folder that succeeded: what the worker says its
    /// model took, or all of it but the queue, and the rest of the round trip as network.
    pub fn measured(folder: &Path) -> Result<Measured> {
        #[derive(Deserialize)]
        struct Row {
            warm_up: bool,
            service_time_ms: f64,
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
            if !row.warm_up && row.outcome == "200" && row.service_time_ms > 0.0 {
                let time = row.compute_ms.or(row.worker_ms).unwrap_or(row.service_time_ms);
                times.push(time / 1e3);
                let rest = row.service_time_ms - row.queue_ms.unwrap_or(0.0) - time;
                rests.push(rest.max(0.0) / 1e3);
            }
        }
        ensure!(
            times.len() >= 30,
            "{} has {} samples that succeeded; a distribution needs 30 at least",
            file.display(),
            times.len()
        );
        times.sort_unstable_by(f64::total_cmp);
        rests.sort_unstable_by(f64::total_cmp);
        // The median: a hiccup of the machine is no network.
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
    /// Always this.
    Constant(f64),
    /// With this mean.
    Exponential(f64),
    /// Of the logarithm.
    LogNormal(LogNormal<f64>),
    /// One of these.
    Measured(Arc<[f64]>),
}

impl Sampler {
    /// One service time.
    #[expect(clippy::missing_panics_doc, reason = "the product is below the length")]
    pub fn draw(&self, rng: &mut impl Rng) -> f64 {
        match self {
            Self::Constant(time) => *time,
            Self::Exponential(mean) => {
                let unit: f64 = Exp1.sample(rng);
                mean * unit
            }
            Self::LogNormal(normal) => normal.sample(rng),
            Self::Measured(times) => {
                let wide = u128::from(rng.next_u64()) * times.len() as u128;
                times[usize::try_from(wide >> 64).expect("below the length")]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;

    #[test]
    fn every_distribution_has_the_mean_it_says() {
        let measured = ServiceTime::Measured([0.01, 0.02, 0.06].into());
        for service in
            ["const:30ms", "exp:30ms", "lognormal:30ms:0.5"].map(|text| text.parse().expect(text))
        {
            for service in [service, measured.clone()] {
                let sampler = service.sampler();
                let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
                let mean = (0..200_000).map(|_| sampler.draw(&mut rng)).sum::<f64>() / 200_000.0;
                assert!((mean / 0.03 - 1.0).abs() < 0.01, "{service}: {mean}");
                assert!((service.mean() - 0.03).abs() < 1e-12);
            }
        }
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
