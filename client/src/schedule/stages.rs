//! A rate that changes during the run: `30s:0..500,60s:500` rises from 0 to 500 requests per second
//! within 30 seconds and stays there for a minute.
//!
//! Each arrival of a process with constant rate 1 is moved to the time at which the expected number
//! of arrivals reaches its own instant (Çinlar, "Introduction to Stochastic Processes", 1975). This
//! is exact for Poisson processes, and evenly spaced arrivals keep their spacing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A part of a run in which the rate changes linearly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Stage {
    seconds: f64,
    from: f64,
    to: f64,
}

impl Stage {
    /// Expected number of arrivals in the stage.
    fn arrivals(self) -> f64 {
        self.seconds * f64::midpoint(self.from, self.to)
    }

    /// Seconds after which `arrivals` are expected.
    fn instant(self, arrivals: f64) -> f64 {
        let slope = (self.to - self.from) / self.seconds;
        // This form of the quadratic formula loses no precision if the slope is small.
        let rate = (self.from * self.from + 2.0 * slope * arrivals).max(0.0).sqrt();
        let seconds = 2.0 * arrivals / (self.from + rate);
        if seconds.is_finite() { seconds.min(self.seconds) } else { 0.0 }
    }
}

/// A sequence of stages.
#[derive(Debug, Clone, PartialEq)]
pub struct Stages {
    stages: Arc<[Stage]>,
    /// As the user wrote them.
    text: Arc<str>,
}

impl Stages {
    /// Total duration of all stages.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.stages.iter().map(|stage| stage.seconds).sum())
    }

    /// Mean arrivals per second over all stages.
    pub fn mean_rate(&self) -> f64 {
        let arrivals: f64 = self.stages.iter().map(|stage| stage.arrivals()).sum();
        arrivals / self.duration().as_secs_f64()
    }

    /// The instant at which `arrivals` are expected; `None` beyond the last stage.
    pub(super) fn instant(&self, arrivals: f64) -> Option<Duration> {
        let (mut left, mut start) = (arrivals, 0.0);
        for stage in self.stages.iter() {
            if left < stage.arrivals() {
                return Some(Duration::from_secs_f64(start + stage.instant(left)));
            }
            left -= stage.arrivals();
            start += stage.seconds;
        }
        None
    }
}

/// Far more than a person would write, and few enough to iterate over for each request.
const MAX_STAGES: usize = 1000;
const MAX_RATE: f64 = 1e7;

impl FromStr for Stages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            |part: &str| format!("{part:?} is no stage: TIME:RATE or TIME:FROM..TO, as 30s:0..500");
        let mut stages = Vec::new();
        for part in text.split(',').map(str::trim) {
            stages.push(stage(part).ok_or_else(|| refuse(part))?);
        }
        if stages.len() > MAX_STAGES {
            return Err(format!("{} stages; {MAX_STAGES} are the most", stages.len()));
        }
        if stages.iter().all(|stage| stage.arrivals() == 0.0) {
            return Err("stages without a request".to_owned());
        }
        Ok(Self { stages: stages.into(), text: text.into() })
    }
}

fn stage(text: &str) -> Option<Stage> {
    let (time, rates) = text.split_once(':')?;
    let (from, to) = rates.split_once("..").unwrap_or((rates, rates));
    let rate = |text: &str| text.trim().parse().ok().filter(|rate| (0.0..=MAX_RATE).contains(rate));
    let time = humantime::parse_duration(time.trim()).ok()?;
    let is_sane = time >= Duration::from_millis(1) && time <= Duration::from_hours(24 * 365);
    is_sane.then_some(Stage { seconds: time.as_secs_f64(), from: rate(from)?, to: rate(to)? })
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Stages {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stages {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Stages;

    fn stages(text: &str) -> Stages {
        text.parse().expect("stages")
    }

    #[test]
    fn a_rising_rate_brings_its_arrivals_later_and_later_apart_from_the_first() {
        let stages = stages("10s:0..100, 10s:100, 5s:100..0");
        assert_eq!(stages.duration(), Duration::from_secs(25));
        assert!((stages.mean_rate() - 1750.0 / 25.0).abs() < 1e-9);
        let at = |arrivals: f64| stages.instant(arrivals).unwrap().as_secs_f64();
        // If the rate rises linearly, a quarter of the requests have arrived after half
        // of the time.
        for (arrivals, expected) in [(0.0, 0.0), (125.0, 5.0), (500.0, 10.0), (1000.0, 15.0)] {
            assert!((at(arrivals) - expected).abs() < 1e-6, "{arrivals}: {}", at(arrivals));
        }
        assert!(at(1749.999) > 24.9 && stages.instant(1750.0).is_none());
    }

    #[test]
    fn a_pause_has_no_arrival() {
        let stages = stages("1s:10,1h:0,1s:10");
        let at = |arrivals: f64| stages.instant(arrivals).unwrap().as_secs_f64();
        assert!(at(9.99) < 1.0 && at(10.0) >= 3601.0);
    }

    #[test]
    fn what_is_no_stage_is_refused_by_name() {
        for text in ["", "30s", "30s:", "x:5", "30s:-1", "30s:nan", "0s:5", "5s:0", "1s:1..2..3"] {
            assert!(text.parse::<Stages>().is_err(), "{text}");
        }
        assert!("10s:1,what".parse::<Stages>().unwrap_err().contains("what"));
    }
}
