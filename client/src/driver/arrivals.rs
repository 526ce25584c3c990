//! The share of a schedule that one sender thread takes: which request is due next, and when.
//!
//! Pure: the time is an argument. An open loop's arrivals follow from the seed alone. In a closed
//! loop a user is due again one think time after its answer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::error::Error;
use crate::experiment::Trial;
use crate::sample::Outcome;
use crate::schedule::{Arrivals, Schedule};

/// The minimum time between a failure and the next request of the same user.
const PAUSE: Duration = Duration::from_millis(100);

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Its number in the whole trial, over all threads.
    pub(crate) index: u64,
    /// When it is due.
    pub(crate) scheduled: Duration,
}

/// What the schedule has next for a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// A request at this instant, or immediately if it has passed.
    Due(Duration),
    /// Every user is waiting for an answer.
    Busy,
    /// The schedule has no more requests.
    End,
}

/// The arrivals of one thread.
#[derive(Debug)]
pub(crate) struct Share {
    source: Source,
    stride: u64,
    requests: u64,
    duration: Duration,
}

#[derive(Debug)]
enum Source {
    Open { gaps: Schedule, next: Arrival },
    Closed { think: Schedule, due: BinaryHeap<Reverse<Duration>>, index: u64 },
}

impl Share {
    /// The arrivals of thread `thread` of the trial's threads.
    pub(crate) fn try_new(trial: &Trial, thread: usize) -> Result<Self, Error> {
        let (thread, stride) = (thread as u64, trial.threads.get() as u64);
        let gaps = trial.arrivals.schedule(trial.seed)?;
        let source = if let Arrivals::Closed { users, .. } = &trial.arrivals {
            let mine = (*users as u64).saturating_sub(thread).div_ceil(stride);
            let due = (0..mine).map(|_| Reverse(Duration::ZERO)).collect();
            // A thread without users would wait for an answer for ever.
            let index = if mine == 0 { u64::MAX } else { thread };
            Source::Closed { think: gaps, due, index }
        } else {
            let mut source =
                Source::Open { gaps, next: Arrival { index: 0, scheduled: Duration::ZERO } };
            source.skip(thread + 1);
            source
        };
        Ok(Self {
            source,
            stride,
            requests: trial.requests.unwrap_or(u64::MAX),
            duration: trial.duration.unwrap_or(Duration::MAX),
        })
    }

    /// What comes next, without taking it.
    pub(crate) fn peek(&self) -> Next {
        match &self.source {
            Source::Open { next, .. } if self.is_over(next.index - 1, next.scheduled) => Next::End,
            Source::Open { next, .. } => Next::Due(next.scheduled),
            Source::Closed { index, .. } if *index >= self.requests => Next::End,
            Source::Closed { due, .. } => match due.peek() {
                Some(Reverse(at)) if *at >= self.duration => Next::End,
                Some(Reverse(at)) => Next::Due(*at),
                None => Next::Busy,
            },
        }
    }

    /// Takes the request that [`Self::peek`] reported as due.
    pub(crate) fn take(&mut self, now: Duration) -> Arrival {
        match &mut self.source {
            Source::Open { next, .. } => {
                let arrival = Arrival { index: next.index - 1, scheduled: next.scheduled };
                self.source.skip(self.stride);
                arrival
            }
            Source::Closed { due, index, .. } => {
                let scheduled = due.pop().map_or(now, |Reverse(at)| at);
                let arrival = Arrival { index: *index, scheduled };
                *index += self.stride;
                arrival
            }
        }
    }

    /// Records that a request ended at `now`. In a closed loop its user starts to think, for at
    /// least `PAUSE` if there was no answer: a user that immediately repeated a request that cannot
    /// be answered would measure this program.
    pub(crate) fn ended(&mut self, now: Duration, outcome: Outcome) {
        if let Source::Closed { think, due, .. } = &mut self.source {
            let pause = match outcome {
                Outcome::Answered(_) | Outcome::Expected(_) | Outcome::Unexpected(_) => {
                    Duration::ZERO
                }
                Outcome::Failed(_) => PAUSE,
            };
            due.push(Reverse(now + think.next().unwrap_or_default().max(pause)));
        }
    }

    /// Ends the schedule at `at`: requests that are due then or later are not sent.
    pub(crate) fn end_at(&mut self, at: Duration) {
        self.duration = self.duration.min(at);
    }

    /// When sending ends or has ended: the length of the schedule, or the instant of the first
    /// arrival beyond the number of requests. Unknown for a closed loop that ends by number.
    pub(crate) fn end(&self) -> Option<Duration> {
        let by_number = match &self.source {
            Source::Open { next, .. } if next.index > self.requests => Some(next.scheduled),
            Source::Open { .. } | Source::Closed { .. } => None,
        };
        let by_time = Some(self.duration).filter(|end| *end < Duration::MAX);
        by_number.into_iter().chain(by_time).min()
    }

    /// Whether a new answer can change what comes next.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.source, Source::Closed { .. })
    }

    fn is_over(&self, index: u64, scheduled: Duration) -> bool {
        index >= self.requests || scheduled >= self.duration
    }
}

impl Source {
    /// Skips `count` arrivals of the whole schedule.
    fn skip(&mut self, count: u64) {
        if let Self::Open { gaps, next } = self {
            for _ in 0..count {
                next.index += 1;
                next.scheduled = next.scheduled.saturating_add(gaps.next().unwrap_or_default());
            }
        }
    }
}

/// When sending ends, if that follows from the trial alone.
pub fn planned_end(trial: &Trial) -> Result<Option<Duration>, Error> {
    let mut share = Share::try_new(&Trial { threads: NonZeroUsize::MIN, ..trial.clone() }, 0)?;
    if !share.is_closed() {
        while let Next::Due(at) = share.peek() {
            share.take(at);
        }
    }
    Ok(share.end())
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU64, NonZeroUsize};
    use std::time::Duration;

    use super::{Arrival, Next, Share};
    use crate::experiment::{Protocol, Reuse, Trial};
    use crate::sample::{Failure, Outcome};
    use crate::schedule::Arrivals;

    fn trial(arrivals: Arrivals, threads: usize) -> Trial {
        Trial {
            arrivals,
            seed: 7,
            requests: Some(100),
            duration: None,
            warm_up_requests: 0,
            warm_up: Duration::ZERO,
            protocol: Protocol::Http1,
            reuse: Reuse::KeepAlive,
            connections: NonZeroUsize::MIN,
            backlog: 0,
            timeout: Duration::from_secs(1),
            threads: NonZeroUsize::new(threads).unwrap(),
            keep_samples: 0,
            keep_every: NonZeroU64::MIN,
        }
    }

    fn all(trial: &Trial) -> Vec<Arrival> {
        let mut all: Vec<_> = (0..trial.threads.get())
            .flat_map(|thread| {
                let mut share = Share::try_new(trial, thread).unwrap();
                std::iter::from_fn(move || match share.peek() {
                    Next::Due(at) => Some(share.take(at)),
                    Next::Busy | Next::End => None,
                })
            })
            .collect();
        all.sort_by_key(|arrival| arrival.index);
        all
    }

    #[test]
    fn the_union_of_all_shares_is_one_schedule_for_any_number_of_threads() {
        let stages = "1s:0..100,10s:100".parse().unwrap();
        let rising = Arrivals::Staged { stages, is_uniform: false };
        for arrivals in [Arrivals::Poisson { rate: 50.0 }, rising] {
            let all = |threads| all(&trial(arrivals.clone(), threads));
            let one = all(1);
            assert_eq!(one.len(), 100);
            assert_eq!((&one, &one), (&all(3), &all(8)));
        }
    }

    #[test]
    fn a_duration_ends_an_open_schedule_before_the_arrival_that_misses_it() {
        let mut trial = trial(Arrivals::Uniform { rate: 10.0 }, 1);
        trial.duration = Some(Duration::from_millis(950));
        assert_eq!(all(&trial).len(), 9);
    }

    #[test]
    fn a_closed_user_is_due_again_one_think_time_after_its_answer() {
        let think = Duration::from_millis(30);
        let mut share = Share::try_new(&trial(Arrivals::Closed { users: 1, think }, 1), 0).unwrap();
        assert_eq!(share.peek(), Next::Due(Duration::ZERO));
        share.take(Duration::ZERO);
        assert_eq!(share.peek(), Next::Busy);
        share.ended(Duration::from_millis(5), Outcome::Answered(503));
        assert_eq!(share.peek(), Next::Due(Duration::from_millis(35)));
    }

    #[test]
    fn a_closed_user_without_an_answer_does_not_ask_again_at_once() {
        let closed = Arrivals::Closed { users: 1, think: Duration::ZERO };
        let mut share = Share::try_new(&trial(closed, 1), 0).unwrap();
        share.take(Duration::ZERO);
        share.ended(Duration::ZERO, Outcome::Failed(Failure::NoDescriptor));
        assert_eq!(share.peek(), Next::Due(Duration::from_millis(100)));
    }

    #[test]
    fn sending_ends_with_its_time_or_with_the_arrival_that_is_one_too_many() {
        let mut trial = trial(Arrivals::Uniform { rate: 10.0 }, 1);
        trial.requests = Some(5);
        let mut share = Share::try_new(&trial, 0).unwrap();
        assert_eq!(share.end(), None);
        while let Next::Due(at) = share.peek() {
            share.take(at);
        }
        assert_eq!(share.end(), Some(Duration::from_millis(600)));
        share.end_at(Duration::from_millis(250));
        assert_eq!((share.end(), share.peek()), (Some(Duration::from_millis(250)), Next::End));
    }

    #[test]
    fn a_thread_without_users_has_nothing_to_wait_for() {
        let mut trial = trial(Arrivals::Closed { users: 1, think: Duration::ZERO }, 2);
        trial.requests = None;
        assert_eq!(Share::try_new(&trial, 1).unwrap().peek(), Next::End);
    }

    #[test]
    fn users_are_dealt_out_to_threads_without_loss() {
        let arrivals = Arrivals::Closed { users: 5, think: Duration::ZERO };
        assert_eq!(all(&trial(arrivals, 3)).len(), 5);
    }
}
