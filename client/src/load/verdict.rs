//! Whether the numbers of a run mean what they say, and if not, why.
//!
//! Pure. Four things make them worthless: a generator that fell behind its own schedule, too few
//! samples for the quantile that is asked for, too many errors (errors are often fast), and a
//! service that did not keep up, since latency then only says how long the run was.

use serde::Serialize;

use crate::driver::Tally;
use crate::experiment::Trial;
use crate::report;
use crate::sample::{Failure, Outcome};

/// What makes a run valid.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct Rules {
    /// The quantile of latency that has to be sound.
    #[arg(long, env = "CLIENT_QUANTILE", default_value_t = 0.99, value_name = "Q")]
    pub quantile: f64,
    /// Share of requests that may fail.
    #[arg(long, env = "CLIENT_MAX_ERRORS", default_value_t = 0.01, value_name = "SHARE")]
    pub max_errors: f64,
}

/// Samples beyond a quantile that make it sound.
const BEYOND: f64 = 10.0;
/// A schedule that is kept to this (99 % of requests) is kept ...
const KEPT_NANOS: u64 = 1_000_000;
/// ... and so is one that is kept to this share of the latency that is reported.
const KEPT_SHARE: f64 = 0.05;
/// A service that answers this share of what arrives keeps up.
const KEEPS_UP: f64 = 0.95;

/// A judgement with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The numbers mean what they say.
    pub is_valid: bool,
    /// Why not; empty if they do.
    pub reasons: Vec<String>,
}

/// Samples that make quantile `q` sound.
pub fn samples_for(q: f64) -> f64 {
    BEYOND / (1.0 - q.clamp(0.0, 0.999_999))
}

/// Judges a run.
pub fn judge(trial: &Trial, tally: &Tally, interrupted: bool, rules: &Rules) -> Verdict {
    let mut reasons = Vec::new();
    let (requests, errors) = (tally.requests(), tally.errors());
    if interrupted {
        reasons.push("ended by the user before its time".to_owned());
    }
    if errors as f64 > rules.max_errors * requests as f64 {
        let classes = report::errors(&tally.outcomes);
        reasons.push(format!("{errors} of {requests} requests failed ({classes})"));
    }
    let needed = samples_for(rules.quantile);
    if (tally.latency.len() as f64) < needed {
        let n = tally.latency.len();
        reasons.push(format!("{n} samples; quantile {} needs {needed:.0}", rules.quantile));
    }
    reasons.extend(saturated(tally));
    reasons.extend(starved(trial, tally));
    if let Some(asked) = asked_rate(trial, tally)
        && tally.throughput() < KEEPS_UP * asked
        && requests > 0
    {
        reasons.push(format!(
            "the service did not keep up: {} of {} answers/s; latency depends on how long this lasts",
            report::number(Some(tally.throughput())),
            report::number(Some(asked))
        ));
    }
    Verdict { is_valid: reasons.is_empty(), reasons }
}

/// Why the generator cannot vouch for its schedule.
fn saturated(tally: &Tally) -> Option<String> {
    let unsent = tally.outcomes.get(&Outcome::Failed(Failure::Unsent)).copied().unwrap_or(0);
    if unsent > 0 {
        return Some(format!("{unsent} requests were never sent: more wait than may queue"));
    }
    let late = tally.scheduling_error.value_at_quantile(0.99);
    let latency = tally.latency.value_at_quantile(0.99);
    (late > KEPT_NANOS && late as f64 > KEPT_SHARE * latency as f64).then(|| {
        format!(
            "the generator was saturated: 1 % of requests left more than {} ms late",
            late / 1_000_000
        )
    })
}

/// Why latency is mostly a wait in this program.
fn starved(trial: &Trial, tally: &Tally) -> Option<String> {
    let latency = tally.latency.value_at_quantile(0.5);
    let service = tally.service_time.value_at_quantile(0.5);
    let late = tally.scheduling_error.value_at_quantile(0.5);
    (latency > 2 * (service + late) + KEPT_NANOS).then(|| {
        format!(
            "half of the requests waited for one of the {} connections: the service, or \
             --connections, is too small for this rate",
            trial.connections
        )
    })
}

/// Arrivals a second that the schedule really drew in the measured time.
fn asked_rate(trial: &Trial, tally: &Tally) -> Option<f64> {
    trial.arrivals.offered_rate()?;
    let (first, last, _) = tally.window?;
    let seconds = last.saturating_sub(first).as_secs_f64();
    (seconds > 0.0).then(|| tally.requests() as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::{Rules, Verdict, judge};
    use crate::driver::Tally;
    use crate::experiment::{Protocol, Reuse, Trial};
    use crate::sample::{Failure, Outcome, Sample};
    use crate::schedule::Arrivals;
    use std::num::{NonZeroU64, NonZeroUsize};
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);
    const RULES: Rules = Rules { quantile: 0.99, max_errors: 0.01 };

    fn trial() -> Trial {
        Trial {
            arrivals: Arrivals::Uniform { rate: 1000.0 },
            seed: 1,
            requests: None,
            duration: Some(Duration::from_secs(2)),
            warm_up_requests: 0,
            warm_up: Duration::ZERO,
            protocol: Protocol::Http1,
            reuse: Reuse::KeepAlive,
            connections: NonZeroUsize::MIN,
            backlog: 0,
            timeout: Duration::from_secs(1),
            threads: NonZeroUsize::MIN,
            keep_samples: 0,
            keep_every: NonZeroU64::MIN,
        }
    }

    /// 2,000 requests, one a millisecond, each changed by `change`.
    fn verdict(change: impl Fn(u32, &mut Sample)) -> Verdict {
        let mut tally = Tally::new();
        for number in 0..2000 {
            let scheduled = MS * number;
            let mut sample = Sample {
                index: u64::from(number),
                item: 0,
                warm_up: false,
                scheduled,
                dispatched: scheduled,
                sent: scheduled,
                first_byte: scheduled + 4 * MS,
                done: scheduled + 5 * MS,
                outcome: Outcome::Answered(200),
                bytes: 0,
                endpoint: None,
                timings: None,
                labels: Vec::new(),
                correct: None,
            };
            change(number, &mut sample);
            tally.record(&sample);
        }
        judge(&trial(), &tally, false, &RULES)
    }

    #[test]
    fn a_run_without_fault_is_valid() {
        assert_eq!(verdict(|_, _| ()), Verdict { is_valid: true, reasons: vec![] });
    }

    #[test]
    fn a_late_generator_is_a_reason_unless_latency_dwarfs_it() {
        let late = |_, sample: &mut Sample| sample.dispatched += 2 * MS;
        assert!(verdict(late).reasons[0].contains("saturated"));
        let late_and_slow = |_, sample: &mut Sample| {
            sample.dispatched += 2 * MS;
            sample.done += 60 * MS;
        };
        assert!(verdict(late_and_slow).is_valid);
    }

    #[test]
    fn one_error_in_a_hundred_is_the_most_that_is_allowed() {
        let failing = |every: u32| {
            move |number: u32, sample: &mut Sample| {
                if number.is_multiple_of(every) {
                    sample.outcome = Outcome::Answered(503);
                }
            }
        };
        assert!(verdict(failing(100)).is_valid);
        assert!(verdict(failing(50)).reasons[0].contains("40 of 2000 requests failed (503 x 40)"));
    }

    #[test]
    fn requests_that_were_never_sent_are_named() {
        let unsent = |number: u32, sample: &mut Sample| {
            if number == 7 {
                sample.outcome = Outcome::Failed(Failure::Unsent);
            }
        };
        assert!(verdict(unsent).reasons[0].contains("1 requests were never sent"));
    }

    #[test]
    fn a_wait_for_connections_is_named() {
        let waiting = |_, sample: &mut Sample| {
            sample.sent += 30 * MS;
            sample.done += 30 * MS;
        };
        assert!(verdict(waiting).reasons[0].contains("waited for one of the 1 connections"));
    }

    #[test]
    fn a_queue_that_grows_all_the_time_is_a_service_that_does_not_keep_up() {
        let growing = |number: u32, sample: &mut Sample| sample.done += MS * number / 2;
        assert!(verdict(growing).reasons[0].contains("did not keep up"));
    }
}
