//! How many workers there should be: a fleet that grows and shrinks with its load.
//!
//! One pure function, [`Scaler::next`], maps what is remembered and observed to the next decision
//! and its reason. It reads no clock and starts nothing, so the balancer, which runs processes, and
//! a simulation, which only models them, decide alike.
//!
//! Growing is quick and shrinking is slow, because too few workers cost answers and too many cost
//! only memory. The thresholds are far apart: a fleet that has just grown is about 60 % busy, grows
//! again above 75 %, and loses a worker only if the others would be at most 50 % busy. Under a
//! constant load it therefore settles on one size. Where the load comes in waves, a worker that is
//! needed again soon after it was stopped doubles the time until the next one is stopped.
//!
//! The fleet is multiplied by measured over target utilisation, as in Kubernetes' horizontal
//! autoscaler, and at most doubled in one step: a full fleet does not show how much more load there
//! would have been.

mod meter;
mod reason;

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

pub use meter::{Meter, SAMPLE, SAMPLES};
pub use reason::Reason;
use tokio::time::Instant;

/// The target utilisation after growing.
const AIM: f64 = 0.6;
/// Above this utilisation it grows.
const HIGH: f64 = 0.75;
/// It shrinks if the remaining workers are no busier than this.
const LOW: f64 = 0.5;
/// Waiting requests per thread of the available workers, above which it grows soon.
const LONG_QUEUE: f64 = 4.0;
/// Below this utilisation latency is not caused by too few workers.
const SOME_LOAD: f64 = 0.3;
/// Latency must be below this share of its target for a worker to be stopped.
const WELL_BELOW: f64 = 0.8;
/// How long utilisation or latency must be high before it grows.
pub const GROW_AFTER: Duration = Duration::from_millis(1500);
/// How long the queue must have been long before it grows.
pub const QUEUE_AFTER: Duration = Duration::from_millis(500);
/// Each further worker is stopped after the calm time divided by this.
const NEXT_GOES: u32 = 3;
/// Utilisation is averaged over the calm time divided by this before a worker is stopped.
const AVERAGED: u32 = 6;
/// After a longer gap between observations, the earlier ones are forgotten.
const GAP: Duration = Duration::from_secs(5);
/// Most times that the calm time is doubled.
const MAX_REGRETS: u32 = 4;
/// Most workers of a range.
pub const MAX_WORKERS: usize = 1024;

/// The fewest and the most workers of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerRange {
    /// The fewest workers, however light the load.
    pub min: usize,
    /// The most workers, including those that are stopping.
    pub max: usize,
}

impl WorkerRange {
    /// Always this many.
    pub fn fixed(count: usize) -> Self {
        Self { min: count, max: count }
    }

    /// Whether the number of workers never changes.
    pub fn is_fixed(self) -> bool {
        self.min == self.max
    }
}

/// `4` or `1..4`.
impl FromStr for WorkerRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<usize>().ok();
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let (Some(min), Some(max)) = (number(min), number(max)) else {
            return Err(format!("{text:?} is no number of workers: N or MIN..MAX, as 4 or 1..4"));
        };
        if min > max {
            return Err(format!("{text:?}: from more workers to fewer"));
        }
        if min == 0 && max > 0 {
            return Err(format!("{text:?}: a fleet that follows its load has at least one worker"));
        }
        Ok(Self { min, max })
    }
}

/// In a file it may be written as a number.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Written {
    Number(usize),
    Text(String),
}

impl<'de> serde::Deserialize<'de> for WorkerRange {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(count) => Ok(Self::fixed(count)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl Display for WorkerRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (min, max) if min == max => write!(out, "{min}"),
            (min, max) => write!(out, "{min}..{max}"),
        }
    }
}

/// The rules by which a fleet is resized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// How many workers there may be.
    pub range: WorkerRange,
    /// Requests that a worker computes concurrently.
    pub threads: usize,
    /// How long there must have been too many workers before one is stopped.
    pub shrink_after: Duration,
    /// The time within which 95 % of the requests should be answered, if that matters.
    pub latency: Option<Duration>,
}

/// The fleet as observed over a short period; half a second is a good choice.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Observation {
    /// Workers that take requests.
    pub available: usize,
    /// Workers that were started and will take requests soon.
    pub starting: usize,
    /// Workers that fail to start, or take far too long.
    pub failing: usize,
    /// Workers that took requests before and do not now: ejected, down, or restarting.
    pub out: usize,
    /// Workers that finish their requests before they stop.
    pub stopping: usize,
    /// Requests that were being computed, on average.
    pub busy: f64,
    /// Requests that waited, on average, for a worker or on one.
    pub waiting: f64,
    /// The time within which 95 % of the requests were answered, if there were any.
    pub latency: Option<Duration>,
}

impl Observation {
    /// All workers except those that are stopping.
    pub fn size(&self) -> usize {
        self.available + self.starting + self.failing + self.out
    }

    /// The share of the time for which available workers of this many threads were busy.
    pub fn utilisation(&self, threads: usize) -> f64 {
        share(self.busy, self.available, threads)
    }
}

/// What to do about the number of workers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decision {
    /// Leave the number as it is.
    Keep(Reason),
    /// Start this many more.
    Grow(usize, Reason),
    /// Drain and stop one: one that takes no requests, or else the youngest.
    Shrink(Reason),
}

impl Decision {
    /// The reason behind the decision, for log and fleet view.
    pub fn reason(&self) -> &Reason {
        match self {
            Self::Keep(reason) | Self::Grow(_, reason) | Self::Shrink(reason) => reason,
        }
    }
}

/// What is remembered from one decision to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scaler {
    seen_at: Option<Instant>,
    /// Requests that were being computed, averaged over a part of the calm time.
    busy: f64,
    available: usize,
    /// Requests that waited.
    waiting: f64,
    /// Since when more workers have been wanted.
    pressed_since: Option<Instant>,
    /// When one may be stopped, if fewer are enough until then.
    goes_at: Option<Instant>,
    /// When the last one was stopped.
    went_at: Option<Instant>,
    /// How many times in a row a stopped worker was needed again soon.
    regrets: u32,
}

impl Scaler {
    /// What to do now, and what to remember.
    #[must_use]
    pub fn next(self, seen: &Observation, rules: &Rules, now: Instant) -> (Self, Decision) {
        let mut next = self.averaged(seen, rules, now);
        // A shrinking queue is being worked off: the current workers may be enough.
        let is_growing = seen.waiting >= self.waiting;
        next.waiting = seen.waiting;
        let missing = rules.range.min.saturating_sub(seen.size());
        let decision = if missing > 0 {
            next.pressed_since = None;
            Decision::Grow(missing, Reason::BelowMinimum)
        } else if seen.available == 0 {
            (next.pressed_since, next.goes_at) = (None, None);
            Decision::Keep(Reason::NoneAvailable)
        } else if let Some(pressure) = pressure(seen, rules, is_growing) {
            next.goes_at = None;
            next.press(pressure, seen, rules, now)
        } else {
            next.pressed_since = None;
            next.relax(seen, rules, now)
        };
        (next, decision)
    }

    /// How long fewer workers must have been enough before one is stopped.
    fn calm_time(&self, rules: &Rules) -> Duration {
        rules.shrink_after.saturating_mul(1 << self.regrets)
    }

    fn averaged(mut self, seen: &Observation, rules: &Rules, now: Instant) -> Self {
        let memory = (rules.shrink_after / AVERAGED).as_secs_f64();
        let age = self.seen_at.map(|at| now.saturating_duration_since(at));
        if age.is_some_and(|age| age > GAP) {
            // The whole machine may have been paused. Nothing is known about the gap.
            (self.pressed_since, self.goes_at) = (None, None);
        }
        self.busy = match age {
            Some(age) if memory > 0.0 && age <= GAP => {
                let weight = (-age.as_secs_f64() / memory).exp();
                self.busy * weight + seen.busy * (1.0 - weight)
            }
            Some(_) | None => seen.busy,
        };
        if self.available != seen.available {
            // First observe how busy the new number of workers is.
            self.pressed_since = None;
        }
        (self.seen_at, self.available) = (Some(now), seen.available);
        self
    }

    /// There is more work than the workers can do.
    fn press(
        &mut self,
        pressure: Pressure,
        seen: &Observation,
        rules: &Rules,
        now: Instant,
    ) -> Decision {
        let since = *self.pressed_since.get_or_insert(now);
        if now.saturating_duration_since(since) < pressure.patience() {
            return Decision::Keep(pressure.reason());
        }
        if seen.failing > 0 {
            // Another one would not start either; the failing one is retried, later each time.
            return Decision::Keep(Reason::NoStart);
        }
        let wanted = pressure.wanted(seen, rules);
        let more = wanted.saturating_sub(seen.available + seen.starting);
        if more == 0 {
            return Decision::Keep(Reason::Starting(seen.starting));
        }
        let room = rules.range.max.saturating_sub(seen.size() + seen.stopping);
        if room == 0 {
            return Decision::Keep(Reason::AtMaximum);
        }
        let soon = self.calm_time(rules).saturating_mul(2);
        let is_missed = |went: Instant| now.saturating_duration_since(went) <= soon;
        self.regrets = match self.went_at.take().map(is_missed) {
            Some(true) => (self.regrets + 1).min(MAX_REGRETS),
            Some(false) => self.regrets.saturating_sub(1),
            None => self.regrets,
        };
        Decision::Grow(more.min(room), pressure.reason())
    }

    /// There are as many workers as are needed, or more.
    fn relax(&mut self, seen: &Observation, rules: &Rules, now: Instant) -> Decision {
        let utilisation = Reason::Utilisation(seen.utilisation(rules.threads));
        if seen.stopping > 0 {
            return Decision::Keep(Reason::Stopping);
        }
        if seen.starting > 0 {
            return Decision::Keep(Reason::Starting(seen.starting));
        }
        let is_one_out = seen.out + seen.failing > 0;
        let left = if is_one_out { seen.available } else { seen.available - 1 };
        let is_enough = left > 0
            && self.busy <= LOW * (left * rules.threads) as f64
            && seen.waiting <= (left * rules.threads) as f64
            && !is_above(seen.latency, rules.latency, WELL_BELOW);
        if seen.size() <= rules.range.min || !is_enough {
            self.goes_at = None;
            return Decision::Keep(if seen.size() <= rules.range.min {
                Reason::AtMinimum
            } else {
                utilisation
            });
        }
        let calm_time = self.calm_time(rules);
        let goes_at = *self.goes_at.get_or_insert(now + calm_time);
        if now < goes_at {
            return Decision::Keep(Reason::Calm { left: goes_at - now });
        }
        self.goes_at = Some(now + calm_time / NEXT_GOES);
        self.went_at = Some(now);
        Decision::Shrink(Reason::Enough {
            workers: left,
            utilisation: share(self.busy, left, rules.threads),
        })
    }
}

/// Why more workers are wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pressure {
    Queue(f64),
    Utilisation(f64),
    Latency(Duration),
}

fn pressure(seen: &Observation, rules: &Rules, is_growing: bool) -> Option<Pressure> {
    let utilisation = seen.utilisation(rules.threads);
    let is_slow = is_above(seen.latency, rules.latency, 1.0);
    let is_long = seen.waiting > LONG_QUEUE * (seen.available * rules.threads) as f64;
    if is_long && is_growing {
        Some(Pressure::Queue(seen.waiting))
    } else if utilisation > HIGH {
        Some(Pressure::Utilisation(utilisation))
    } else if is_slow && utilisation > SOME_LOAD {
        seen.latency.map(Pressure::Latency)
    } else {
        None
    }
}

impl Pressure {
    /// How long it must have lasted before the fleet grows.
    fn patience(self) -> Duration {
        match self {
            Self::Queue(_) => QUEUE_AFTER,
            Self::Utilisation(_) | Self::Latency(_) => GROW_AFTER,
        }
    }

    /// How many available workers would be enough.
    fn wanted(self, seen: &Observation, rules: &Rules) -> usize {
        let most = seen.available * 2;
        let wanted = match self {
            Self::Queue(_) => most,
            Self::Utilisation(_) => ceiling(seen.busy / (AIM * rules.threads as f64)),
            Self::Latency(_) => 0,
        };
        wanted.clamp(seen.available + 1, most.max(seen.available + 1))
    }

    fn reason(self) -> Reason {
        match self {
            Self::Queue(waiting) => Reason::Queue(waiting),
            Self::Utilisation(share) => Reason::Utilisation(share),
            Self::Latency(latency) => Reason::Latency(latency),
        }
    }
}

/// The busy share of the capacity of this many workers.
fn share(busy: f64, workers: usize, threads: usize) -> f64 {
    busy / ((workers * threads).max(1)) as f64
}

fn is_above(latency: Option<Duration>, target: Option<Duration>, part: f64) -> bool {
    latency.zip(target).is_some_and(|(latency, target)| latency > target.mul_f64(part))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "as many workers as a machine has; a float to integer cast saturates"
)]
fn ceiling(value: f64) -> usize {
    // A hair above a whole number is rounding, not need.
    (value - 1e-9).ceil().max(0.0) as usize
}

#[cfg(test)]
mod tests;
