//! Bounds that decide the exit status: `--fail 'p99>50ms'` fails a run whose 99th percentile is
//! above 50 ms.
//!
//! A figure with too few samples neither crosses a bound nor holds it: it is unknown, and a run
//! that was asked for it is not valid. If only a minimum of a figure is known and the true value
//! may be beyond the bound, it counts as beyond.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::driver::{Bound, Tally};
use crate::report::number;
use crate::stats::samples_for;

/// A condition on which a run fails.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    figure: Figure,
    relation: Relation,
    /// In the unit of the figure.
    value: f64,
    /// As the user wrote it.
    text: String,
}

/// The figure that a condition is about.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Figure {
    /// A quantile of the latency of all requests (ms).
    Quantile(f64),
    /// Mean latency (ms).
    Mean,
    /// Longest latency (ms).
    Max,
    /// Share of the requests that failed.
    Errors,
    /// Expected answers per second.
    Achieved,
    /// Requests per second that were due.
    Offered,
    /// Share of the answers that were right.
    Accuracy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// The result of checking a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It did not come true.
    Held,
    /// It came true, or may have.
    Crossed,
    /// There are too few samples to say.
    Unknown,
}

/// A condition and its result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checked {
    /// The condition as the user wrote it.
    pub expression: String,
    /// The figure, in milliseconds, as a share, or per second; `None` if it is not known.
    pub value: Option<f64>,
    /// The true value may be larger.
    pub at_least: bool,
    /// The result of the check.
    pub state: State,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Held => "held",
            State::Crossed => "CROSSED",
            State::Unknown => "unknown: too few samples",
        };
        write!(f, "{}: {state}", self.expression)?;
        let least = if self.at_least { "≥" } else { "" };
        match self.value {
            Some(value) => write!(f, ", it is {least}{}", number(Some(value))),
            None => Ok(()),
        }
    }
}

impl Threshold {
    /// Checks the condition against the figures of a run.
    pub fn check(&self, tally: &Tally) -> Checked {
        let found = self.figure.of(tally);
        let state = match found {
            None => State::Unknown,
            Some((value, at_least)) if self.is_crossed(value, at_least) => State::Crossed,
            Some(_) => State::Held,
        };
        Checked {
            expression: self.text.clone(),
            value: found.map(|(value, _)| value),
            at_least: found.is_some_and(|(_, at_least)| at_least),
            state,
        }
    }

    /// How many samples the figure needs, if it is a quantile.
    pub fn needs(&self) -> Option<f64> {
        self.quantile().map(samples_for)
    }

    /// The quantile that the condition is about, if it is about one.
    pub fn quantile(&self) -> Option<f64> {
        if let Figure::Quantile(q) = self.figure { Some(q) } else { None }
    }

    fn is_crossed(&self, value: f64, at_least: bool) -> bool {
        match self.relation {
            Relation::Above => value > self.value || at_least,
            Relation::AtLeast => value >= self.value || at_least,
            Relation::Below => value < self.value,
            Relation::AtMost => value <= self.value,
        }
    }
}

impl Figure {
    /// Its value, and whether that is only a lower bound.
    fn of(self, tally: &Tally) -> Option<(f64, bool)> {
        let requests = tally.requests();
        let times = &tally.latency;
        let millis = |bound: Bound| (bound.nanos as f64 / 1e6, bound.at_least);
        match self {
            Self::Quantile(q) => {
                let is_sound = times.len() as f64 >= samples_for(q);
                is_sound.then(|| times.quantile(q)).flatten().map(millis)
            }
            Self::Mean => (requests > 0).then(|| (times.mean() / 1e6, times.has_least())),
            Self::Max => times.max().map(millis),
            Self::Errors => {
                (requests > 0).then(|| (tally.errors() as f64 / requests as f64, false))
            }
            Self::Achieved => tally.window().map(|_| (tally.throughput(), false)),
            Self::Offered => tally.window().map(|_| (tally.offered_rate(), false)),
            Self::Accuracy => {
                let labels = tally.accuracy()?;
                Some((labels.successes as f64 / labels.count as f64, false))
            }
        }
    }

    /// Parses a value in the unit of the figure.
    fn value(self, text: &str) -> Option<f64> {
        match self {
            Self::Quantile(_) | Self::Mean | Self::Max => {
                let time: Duration = humantime::parse_duration(text).ok()?;
                Some(time.as_secs_f64() * 1e3)
            }
            Self::Errors | Self::Accuracy => {
                let share = match text.strip_suffix('%') {
                    Some(percent) => percent.trim().parse::<f64>().ok()? / 100.0,
                    None => text.parse().ok()?,
                };
                (0.0..=1.0).contains(&share).then_some(share)
            }
            Self::Achieved | Self::Offered => {
                let rate = text.strip_suffix("/s").unwrap_or(text).trim().parse().ok();
                rate.filter(|rate: &f64| rate.is_finite() && *rate >= 0.0)
            }
        }
    }
}

impl FromStr for Figure {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "mean" => Self::Mean,
            "max" => Self::Max,
            "errors" => Self::Errors,
            "achieved" => Self::Achieved,
            "offered" => Self::Offered,
            "accuracy" => Self::Accuracy,
            _ => {
                let percent: f64 = text.strip_prefix('p').ok_or(())?.parse().map_err(|_| ())?;
                let is_quantile = percent > 0.0 && percent < 100.0;
                is_quantile.then_some(Self::Quantile(percent / 100.0)).ok_or(())?
            }
        })
    }
}

const EXAMPLES: &str = "p99>50ms, mean>=20ms, max>1s, errors>1%, achieved<100, offered<100 or \
                        accuracy<90%";

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is no condition: {EXAMPLES}");
        // The longer signs come first, or they would be read as the shorter ones.
        let signs = [
            (">=", Relation::AtLeast),
            ("<=", Relation::AtMost),
            (">", Relation::Above),
            ("<", Relation::Below),
        ];
        let found = signs.iter().find_map(|(sign, relation)| {
            let (figure, value) = text.split_once(sign)?;
            Some((figure.trim(), *relation, value.trim()))
        });
        let (figure, relation, value) = found.ok_or_else(refuse)?;
        let figure: Figure = figure.parse().map_err(|()| refuse())?;
        let value = figure.value(value).ok_or_else(refuse)?;
        Ok(Self { figure, relation, value, text: text.trim().to_owned() })
    }
}

impl Serialize for Threshold {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{State, Threshold};
    use crate::driver::Tally;
    use crate::sample::{Failure, Outcome, Sample};

    const MS: Duration = Duration::from_millis(1);

    /// 2,000 requests, one per millisecond: 1 to 100 ms in turn, one in a hundred never answered.
    fn tally() -> Tally {
        let mut tally = Tally::new();
        for number in 0..2000_u32 {
            let scheduled = MS * number;
            let latency = MS * (number % 100 + 1);
            let is_lost = number % 100 == 99;
            let outcome =
                if is_lost { Outcome::Failed(Failure::Timeout) } else { Outcome::Answered(200) };
            let sample = Sample {
                outcome,
                correct: Some(number % 2 == 0),
                ..Sample::answered(u64::from(number), scheduled, latency)
            };
            tally.record(&sample);
        }
        tally
    }

    fn state(text: &str) -> State {
        text.parse::<Threshold>().unwrap().check(&tally()).state
    }

    #[test]
    fn a_condition_that_comes_true_is_crossed_and_others_hold() {
        for text in
            ["p50>49ms", "p50 >= 40ms", "errors>0.9%", "errors>=0.01", "achieved<5000", "mean>50ms"]
        {
            assert_eq!(state(text), State::Crossed, "{text}");
        }
        for text in ["p50>52ms", "errors>1%", "achieved<100/s", "accuracy<49%", "offered<10"] {
            assert_eq!(state(text), State::Held, "{text}");
        }
    }

    #[test]
    fn a_time_of_which_only_the_least_is_known_holds_no_bound_above_it() {
        assert_eq!(state("max>1h"), State::Crossed);
        assert_eq!(state("max<1ms"), State::Held);
    }

    #[test]
    fn a_quantile_without_samples_enough_is_unknown() {
        assert_eq!(state("p99.9>1h"), State::Unknown);
        let threshold: Threshold = "p99.9>1h".parse().unwrap();
        assert!((threshold.needs().unwrap() - 10_000.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in
            ["", "p99", "p99>", ">50ms", "p0>1ms", "p100>1ms", "p99>50", "errors>2", "rtt>1s"]
        {
            assert!(text.parse::<Threshold>().is_err(), "{text}");
        }
    }
}
