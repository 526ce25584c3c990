//! Whether the numbers of a run mean what they say, and if not, whose fault that is.
//!
//! Pure. Three things make them worthless: a service that fell short (it failed, or a queue grew,
//! and latency then only says how long the run was), a generator that fell short (it was late or
//! had no idle time, or lacked connections, descriptors or ports), and too few samples for what
//! is claimed.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::rules::Rules;
use super::threshold::State;
use crate::driver::{Run, Tally};
use crate::experiment::{Protocol, Trial};
use crate::report;
use crate::sample::{Failure, Outcome};
use crate::stats::samples_for;

/// This program's part of a reported latency is negligible if it is no longer than this ...
const KEPT_NANOS: u64 = 1_000_000;
/// ... or than this share of the latency.
const KEPT_SHARE: f64 = 0.05;
/// The reported quantiles of latency: each has to be the service's and not this program's, and so
/// does any other that the user names.
const TOLD: [f64; 4] = [0.5, 0.9, 0.95, 0.99];
/// A sender thread that is busy for a larger share of the time has a queue of its own.
const BUSY: f64 = 0.9;

/// Which side fell short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The service under test.
    Service,
    /// This program, or the machine that it runs on.
    Generator,
    /// The run was too short for what is claimed.
    Samples,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "the service fell short",
            Self::Generator => "the generator fell short",
            Self::Samples => "too few samples",
        })
    }
}

/// Why the numbers do not mean what they say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Which side fell short.
    pub cause: Cause,
    /// How, in words and numbers.
    pub text: String,
}

/// A judgement with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The numbers mean what they say.
    pub is_valid: bool,
    /// Why not; empty if they do.
    pub reasons: Vec<Reason>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_valid {
            return writeln!(f, "VALID");
        }
        let mut causes: Vec<Cause> = self.reasons.iter().map(|reason| reason.cause).collect();
        causes.sort_unstable();
        causes.dedup();
        for cause in causes {
            writeln!(f, "INVALID: {cause}")?;
            for reason in self.reasons.iter().filter(|reason| reason.cause == cause) {
                writeln!(f, "  {}", reason.text)?;
            }
        }
        Ok(())
    }
}

/// Judges whether the figures of a run mean what they say.
pub fn judge(trial: &Trial, run: &Run, rules: &Rules) -> Verdict {
    let tally = &run.tally;
    let because = |cause| move |text| Reason { cause, text };
    let exhausted = exhausted(trial, tally);
    // The times of the answers do not show whose queue it is that grows.
    let behind = behind(trial, tally).filter(|_| exhausted.is_none());
    let service = failed(tally, rules).into_iter().chain(behind);
    let generator = (lost(run).chain(own(tally)).chain(late(tally, rules)))
        .chain(exhausted)
        .chain(starved(trial, run, rules));
    let samples = too_few(tally, rules)
        .into_iter()
        .chain(unknown(tally, rules))
        .chain(unfinished(tally, rules));
    let reasons: Vec<Reason> = (service.map(because(Cause::Service)))
        .chain(generator.map(because(Cause::Generator)))
        .chain(samples.map(because(Cause::Samples)))
        .collect();
    Verdict { is_valid: reasons.is_empty(), reasons }
}

/// Why a run says more about this program than about the service, which may fail as it likes.
pub fn fell_short(trial: &Trial, run: &Run) -> impl Iterator<Item = String> {
    let rules = Rules { quantile: None, max_errors: 1.0, fail: Vec::new() };
    let reasons = judge(trial, run, &rules).reasons.into_iter();
    reasons.filter(|reason| reason.cause == Cause::Generator).map(|reason| reason.text)
}

/// Too many failures of the service; failures are often fast.
fn failed(tally: &Tally, rules: &Rules) -> Option<String> {
    let requests = tally.requests();
    let is_theirs =
        |outcome: Outcome| !outcome.is_success() && !outcome.is_own() && outcome != UNFINISHED;
    let theirs = tally.outcomes.iter().filter(|(outcome, _)| is_theirs(**outcome));
    let theirs = theirs.map(|(outcome, count)| (*outcome, *count)).collect();
    let errors = report::count(&theirs);
    (errors as f64 > rules.max_errors * requests as f64)
        .then(|| format!("{errors} of {requests} requests failed ({})", report::errors(&theirs)))
}

/// A queue grows. In a closed loop none can, and where the rate changes, latency changes with it.
fn behind(trial: &Trial, tally: &Tally) -> Option<String> {
    if !trial.arrivals.is_steady() {
        return None;
    }
    let climb = tally.course.as_ref()?.climb()?;
    Some(format!(
        "the service did not keep up: each second of the run added {} ms; latency depends on how \
         long this lasts",
        report::number(Some(climb * 1e3))
    ))
}

const UNFINISHED: Outcome = Outcome::Failed(Failure::Unfinished);

/// Agents that were lost before they reported what they measured.
fn lost(run: &Run) -> impl Iterator<Item = String> {
    run.generators.iter().filter_map(|generator| {
        let why = generator.lost.as_ref()?;
        Some(format!("agent {} was lost with what it measured ({why})", generator.address))
    })
}

/// Requests that this program or its machine could not send.
fn own(tally: &Tally) -> Option<String> {
    let own = tally.outcomes.iter().filter(|(outcome, _)| outcome.is_own());
    let own = own.map(|(outcome, count)| (*outcome, *count)).collect();
    let count = report::count(&own);
    let advice = |failure, text| own.contains_key(&Outcome::Failed(failure)).then_some(text);
    let advice = advice(Failure::NoDescriptor, "; raise the limit on open files (ulimit -n)")
        .or(advice(Failure::NoPort, "; ports are used up: keep connections alive"))
        .or(advice(Failure::Unsent, "; every connection was busy"))
        .unwrap_or_default();
    (count > 0)
        .then(|| format!("{count} requests were never sent ({}){advice}", report::errors(&own)))
}

/// The first of the quantiles at which this program's own part is more than `share` of the
/// latency, and that part. A quantile of too few requests is not reported, and one late request
/// decides nothing.
fn own_part(tally: &Tally, rules: &Rules, part: &Histogram<u64>, share: f64) -> Option<(f64, u64)> {
    let is_told = |q: &f64| *q <= TOLD[0] || tally.requests() as f64 >= samples_for(*q);
    TOLD.into_iter().chain(rules.quantiles()).filter(is_told).find_map(|q| {
        let own = part.value_at_quantile(q);
        let latency = tally.latency.quantile(q)?.nanos;
        (own > KEPT_NANOS && own as f64 > share * latency as f64).then_some((q, own))
    })
}

/// The share of the requests that lies beyond a quantile, with two digits.
fn beyond(quantile: f64) -> String {
    let percent: f64 = format!("{:.1e}", 100.0 * (1.0 - quantile)).parse().unwrap_or_default();
    format!("{percent} % of the requests")
}

/// The generator did not keep its own schedule.
fn late(tally: &Tally, rules: &Rules) -> Option<String> {
    let (quantile, late) = own_part(tally, rules, &tally.scheduling_error, KEPT_SHARE)?;
    Some(format!(
        "saturated: {} left more than {} ms late; it needs more CPU, or a lower rate",
        beyond(quantile),
        late / 1_000_000
    ))
}

/// A sender thread had no idle time: answers waited until it got to them.
fn exhausted(trial: &Trial, tally: &Tally) -> Option<String> {
    let busy = tally.sender_busy.filter(|busy| *busy > BUSY)?;
    Some(format!(
        "saturated: the busiest of {} sender threads was busy for {:.0} % of the time, so answers \
         waited for it; it needs more CPU, or a `client load` with more --threads, or with --agents on \
         other machines",
        trial.threads,
        100.0 * busy
    ))
}

/// Latency is mostly a wait in this program.
fn starved(trial: &Trial, run: &Run, rules: &Rules) -> Option<String> {
    const MOSTLY: f64 = 0.5;
    let tally = &run.tally;
    let (quantile, wait) = own_part(tally, rules, &tally.connection_wait, MOSTLY)?;
    let (requests, wait) = (beyond(quantile), wait / 1_000_000);
    let what = match trial.protocol {
        Protocol::Http1 => "connections",
        Protocol::H2 => "connections and the streams that the service allows on them",
    };
    Some(match run.cap {
        Some(cap) => format!(
            "{requests} waited more than {wait} ms for one of {cap} {what}: the limit on open files \
             allows no more (ulimit -n)"
        ),
        None => format!(
            "{requests} waited more than {wait} ms for one of the {} {what}: more --connections would \
             show whether the service is too slow for this rate",
            trial.connections
        ),
    })
}

fn too_few(tally: &Tally, rules: &Rules) -> Option<String> {
    let quantile = rules.claimed()?;
    let (n, needed) = (tally.requests(), samples_for(quantile));
    ((n as f64) < needed).then(|| format!("{n} samples; quantile {quantile} needs {needed:.0}"))
}

/// Conditions that cannot be evaluated.
fn unknown(tally: &Tally, rules: &Rules) -> Option<String> {
    let checked = rules.fail.iter().map(|condition| (condition, condition.check(tally)));
    let unknown = checked.filter(|(_, checked)| checked.state == State::Unknown);
    let told = unknown.map(|(condition, checked)| match condition.needs() {
        Some(needed) => format!("{} needs {needed:.0}", checked.expression),
        None => checked.expression,
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| format!("{} samples; --fail {}", tally.requests(), told.join(", ")))
}

/// The user did not wait for the requests in flight.
fn unfinished(tally: &Tally, rules: &Rules) -> Option<String> {
    let (n, requests) = (tally.outcomes.get(&UNFINISHED).copied()?, tally.requests());
    (n as f64 > rules.max_errors * requests as f64)
        .then(|| format!("{n} of {requests} requests had no answer yet when the run was ended"))
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU64, NonZeroUsize};
    use std::time::Duration;

    use super::{Cause, Rules, Verdict, judge};
    use crate::driver::{Run, Tally};
    use crate::experiment::{Protocol, Reuse, Trial};
    use crate::sample::{Failure, Outcome, Sample};
    use crate::schedule::Arrivals;

    const MS: Duration = Duration::from_millis(1);
    const RULES: Rules = Rules { quantile: Some(0.99), max_errors: 0.01, fail: Vec::new() };

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

    /// 2,000 requests, one per millisecond, each changed by `change`.
    fn verdict(change: impl Fn(u32, &mut Sample)) -> Verdict {
        verdict_by(&RULES, change)
    }

    /// The same with other rules.
    fn verdict_by(rules: &Rules, change: impl Fn(u32, &mut Sample)) -> Verdict {
        let mut tally = Tally::of(&trial());
        for number in 0..2000 {
            let mut sample = Sample::answered(u64::from(number), MS * number, 5 * MS);
            change(number, &mut sample);
            tally.record(&sample);
        }
        judge(
            &trial(),
            &Run { tally, samples: Vec::new(), cap: None, generators: Vec::new() },
            rules,
        )
    }

    #[track_caller]
    fn is_because(verdict: &Verdict, cause: Cause, text: &str) {
        let reason = &verdict.reasons[0];
        assert!(reason.cause == cause && reason.text.contains(text), "{verdict}");
        assert!(verdict.to_string().contains(&format!("INVALID: {cause}\n")), "{verdict}");
    }

    #[test]
    fn a_run_without_fault_is_valid() {
        assert_eq!(verdict(|_, _| ()), Verdict { is_valid: true, reasons: vec![] });
    }

    #[test]
    fn a_late_generator_is_a_reason_unless_latency_dwarfs_it() {
        let late = |_, sample: &mut Sample| sample.dispatched += 2 * MS;
        is_because(&verdict(late), Cause::Generator, "saturated");
        let late_and_slow = |_, sample: &mut Sample| {
            sample.dispatched += 2 * MS;
            sample.done += 60 * MS;
        };
        assert!(verdict(late_and_slow).is_valid);
    }

    #[test]
    fn a_few_slow_answers_do_not_excuse_a_generator_that_is_always_late() {
        let late = |number: u32, sample: &mut Sample| {
            let slow = if number.is_multiple_of(40) { 500 * MS } else { Duration::ZERO };
            sample.dispatched += 20 * MS;
            sample.done += 20 * MS + slow;
        };
        is_because(
            &verdict(late),
            Cause::Generator,
            "50 % of the requests left more than 20 ms late",
        );
    }

    /// The slowest requests are this program's own doing: a quantile that lies among them is its own.
    #[test]
    fn a_generator_that_is_late_for_the_quantile_that_is_claimed_is_a_reason() {
        let late = |number: u32, sample: &mut Sample| {
            if number.is_multiple_of(150) {
                sample.dispatched += 100 * MS;
                sample.done += 100 * MS;
            }
        };
        assert!(verdict(late).is_valid, "{}", verdict(late));
        let claimed = Rules { quantile: Some(0.995), ..RULES };
        let text = "saturated: 0.5 % of the requests left more than";
        is_because(&verdict_by(&claimed, late), Cause::Generator, text);
        let bound = "p99.5>1s".parse().unwrap();
        let condition = Rules { quantile: None, fail: vec![bound], ..RULES };
        is_because(&verdict_by(&condition, late), Cause::Generator, text);
    }

    /// The run of [`verdict`] with its busiest thread at `busy`, and climbing latency if `climbs`.
    fn verdict_of(busy: Option<f64>, climbs: bool) -> Verdict {
        let mut tally = Tally::of(&trial());
        for number in 0..2000 {
            let late = if climbs { MS * number / 2 } else { Duration::ZERO };
            tally.record(&Sample::answered(u64::from(number), MS * number, 5 * MS + late));
        }
        // One of two threads: the other has hardly anything to do.
        for share in [busy, busy.map(|_| 0.1)] {
            let mut one = Tally::of(&trial());
            one.sender_busy = share;
            tally.merge(&one);
        }
        let run = Run { tally, samples: Vec::new(), cap: None, generators: Vec::new() };
        judge(&trial(), &run, &RULES)
    }

    #[test]
    fn a_sender_thread_without_idle_time_is_a_reason() {
        let text = "was busy for 97 % of the time";
        is_because(&verdict_of(Some(0.97), false), Cause::Generator, text);
        for busy in [Some(0.85), None] {
            assert!(verdict_of(busy, false).is_valid, "{busy:?}");
        }
    }

    #[test]
    fn a_queue_that_may_be_that_of_a_busy_sender_thread_is_not_blamed_on_the_service() {
        let found = verdict_of(Some(0.97), true);
        assert!(found.reasons.iter().all(|it| it.cause == Cause::Generator), "{found}");
        assert_eq!(verdict_of(Some(0.5), true).reasons[0].cause, Cause::Service);
    }

    #[test]
    fn one_late_request_of_a_few_is_no_reason() {
        let trial = Trial { duration: Some(MS * 40), ..trial() };
        let rules = Rules { quantile: Some(0.5), ..RULES };
        let judged = |late: u32| {
            let mut tally = Tally::of(&trial);
            for number in 0..40 {
                let sample = Sample::answered(u64::from(number), MS * number, 5 * MS);
                let is_late = number < late;
                let delay = if is_late { 2 * MS } else { Duration::ZERO };
                let dispatched = sample.scheduled + delay;
                tally.record(&Sample { dispatched, ..sample });
            }
            judge(
                &trial,
                &Run { tally, samples: Vec::new(), cap: None, generators: Vec::new() },
                &rules,
            )
        };
        assert!(judged(1).is_valid, "{}", judged(1));
        is_because(&judged(30), Cause::Generator, "saturated: 50 % of the requests");
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
        is_because(&verdict(failing(50)), Cause::Service, "40 of 2000 requests failed (503 x 40)");
    }

    #[test]
    fn requests_that_were_never_sent_are_named() {
        let unsent = |number: u32, sample: &mut Sample| {
            if number == 7 {
                sample.outcome = Outcome::Failed(Failure::Unsent);
            }
        };
        is_because(&verdict(unsent), Cause::Generator, "1 requests were never sent (unsent x 1)");
    }

    #[test]
    fn a_wait_for_connections_is_named() {
        let waiting = |_, sample: &mut Sample| {
            sample.ready = Some(sample.dispatched + 30 * MS);
            sample.done += 30 * MS;
        };
        is_because(&verdict(waiting), Cause::Generator, "ms for one of the 1 connections");
        let some = |number: u32, sample: &mut Sample| {
            if number.is_multiple_of(15) {
                waiting(number, sample);
            }
        };
        is_because(&verdict(some), Cause::Generator, "5 % of the requests waited more than 30 ms");
    }

    #[test]
    fn opening_a_connection_takes_the_services_time_and_is_no_wait_for_one() {
        let opening = |_, sample: &mut Sample| {
            sample.sent = Some(sample.dispatched + 100 * MS);
            sample.done += 100 * MS;
        };
        assert!(verdict(opening).is_valid, "{}", verdict(opening));
    }

    #[test]
    fn a_queue_that_grows_all_the_time_is_a_service_that_does_not_keep_up() {
        let growing = |number: u32, sample: &mut Sample| sample.done += MS * number / 2;
        is_because(&verdict(growing), Cause::Service, "each second of the run added 500 ms");
    }

    /// 100 requests per second to a service that answers 90, ended after 70 s of ten minutes.
    #[test]
    fn a_queue_that_grows_is_seen_although_the_run_is_ended_long_before_its_time() {
        let arrivals = Arrivals::Uniform { rate: 100.0 };
        let trial = Trial { arrivals, duration: Some(MS * 600_000), ..trial() };
        let mut tally = Tally::of(&trial);
        for index in 0..7000_u32 {
            tally.record(&Sample::answered(u64::from(index), 10 * MS * index, 5 * MS + MS * index));
        }
        tally.close(Some(MS * 70_000));
        let run = Run { tally, samples: Vec::new(), cap: None, generators: Vec::new() };
        is_because(&judge(&trial, &run, &RULES), Cause::Service, "each second of the run added");
    }

    #[test]
    fn what_this_machine_lacks_is_not_blamed_on_the_service() {
        for (failure, advice) in [(Failure::NoDescriptor, "ulimit -n"), (Failure::NoPort, "ports")]
        {
            let found = verdict(|_, sample: &mut Sample| sample.outcome = Outcome::Failed(failure));
            is_because(&found, Cause::Generator, advice);
            assert!(found.reasons.iter().all(|reason| reason.cause == Cause::Generator), "{found}");
        }
    }

    #[test]
    fn requests_without_an_answer_yet_are_too_few_samples() {
        let ended = |number: u32, sample: &mut Sample| {
            if number > 1900 {
                sample.outcome = Outcome::Failed(Failure::Unfinished);
            }
        };
        is_because(&verdict(ended), Cause::Samples, "99 of 2000 requests had no answer yet");
    }

    #[test]
    fn a_condition_that_cannot_be_judged_is_a_claim_without_samples() {
        let mut tally = Tally::of(&trial());
        tally.close(trial().duration);
        let rules = Rules { quantile: None, fail: vec!["p99.9>1s".parse().unwrap()], ..RULES };
        let run = Run { tally, samples: Vec::new(), cap: None, generators: Vec::new() };
        let found = judge(&trial(), &run, &rules).to_string();
        assert!(found.contains("--fail p99.9>1s needs 10000"), "{found}");
    }

    /// Few requests to a slow service: whatever the schedule draws, each of them was answered.
    #[test]
    fn no_draw_of_few_slow_requests_makes_a_service_that_answers_all_fall_short() {
        for seed in 0..200 {
            let poisson = Arrivals::Poisson { rate: 5.0 };
            let trial = Trial {
                arrivals: poisson.clone(),
                duration: Some(Duration::from_secs(30)),
                ..trial()
            };
            let mut tally = Tally::of(&trial);
            let mut now = Duration::ZERO;
            for (index, gap) in (0..).zip(poisson.schedule(seed).unwrap()) {
                now += gap;
                if Some(now) >= trial.duration {
                    break;
                }
                tally.record(&Sample::answered(index, now, 500 * MS));
            }
            tally.close(trial.duration);
            let rules = Rules { quantile: Some(0.5), ..RULES };
            let found = judge(
                &trial,
                &Run { tally, samples: Vec::new(), cap: None, generators: Vec::new() },
                &rules,
            );
            assert!(found.is_valid, "seed {seed}: {found}");
        }
    }

    #[test]
    fn latency_that_climbs_with_the_rate_is_no_queue_that_grows() {
        let stages = "2s:100..1000".parse().unwrap();
        let trial = Trial { arrivals: Arrivals::Staged { stages, is_uniform: true }, ..trial() };
        let mut tally = Tally::of(&trial);
        for index in 0..2000_u32 {
            let sample = Sample::answered(u64::from(index), MS * index, 5 * MS + MS * index / 4);
            tally.record(&sample);
        }
        let run = Run { tally, samples: Vec::new(), cap: None, generators: Vec::new() };
        assert!(judge(&trial, &run, &RULES).is_valid);
    }

    #[test]
    fn a_slow_service_that_answers_everything_keeps_up() {
        let slow = |_, sample: &mut Sample| sample.done += 500 * MS;
        assert!(verdict(slow).is_valid, "{}", verdict(slow));
    }
}
