//! Requests that were abandoned before an endpoint had sent anything.
//!
//! One client that leaves early proves nothing about an endpoint, but many in sequence that wait in
//! vain show that it hangs. So the time in which any request waited in vain is added up, each
//! moment once, until there is an answer. Impatient clients cannot make a slow endpoint look like
//! one that hangs: that takes several times its usual service time.

use super::nanoseconds;
use crate::state::Limits;

/// This many usual service times of silence are no accident.
const USUAL_TIMES: f64 = 3.0;

/// The time that requests waited in vain; times are nanoseconds since the endpoint was born.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Vain {
    /// The last answer before it began.
    answered_at: u64,
    requests: u32,
    waited: u64,
    until: u64,
    /// The service time before it began.
    usual: f64,
}

impl Vain {
    /// A request that had waited since `began` was abandoned at `now`.
    pub(crate) fn add(&mut self, began: u64, now: u64, answered_at: u64, usual: f64) {
        if answered_at > began {
            return;
        }
        if self.requests == 0 || self.answered_at != answered_at {
            *self = Self { answered_at, usual, ..Self::default() };
        }
        self.requests = self.requests.saturating_add(1);
        self.waited += now.saturating_sub(began.max(self.until));
        self.until = self.until.max(now);
    }

    /// Whether the endpoint hangs, as far as can be told.
    pub(crate) fn is_enough(&self, answered_at: u64, limits: &Limits) -> bool {
        let least = (nanoseconds(limits.silence) as f64).max(USUAL_TIMES * self.usual);
        self.answered_at == answered_at
            && self.requests >= limits.consecutive_failures
            && self.waited as f64 >= least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn waited_in_vain(times: u64, each: u64, usual: f64) -> bool {
        let mut vain = Vain::default();
        (0..times).for_each(|n| vain.add(n * each, (n + 1) * each, 0, usual));
        vain.is_enough(0, &Limits::default())
    }

    #[test]
    fn several_that_waited_and_heard_nothing_are_enough() {
        assert!(waited_in_vain(5, 200 * MS, 0.0));
        assert!(!waited_in_vain(4, 200 * MS, 0.0));
        assert!(!waited_in_vain(5, 20 * MS, 0.0), "no request waited long");
        assert!(!waited_in_vain(5, 200 * MS, 1e9), "it always takes a second");
        assert!(waited_in_vain(15, 200 * MS, 1e9));
    }

    #[test]
    fn a_moment_counts_once_however_many_wait() {
        let mut vain = Vain::default();
        (0..100).for_each(|_| vain.add(0, 20 * MS, 0, 0.0));
        assert!(!vain.is_enough(0, &Limits::default()));
    }

    #[test]
    fn any_answer_begins_the_count_anew() {
        let mut vain = Vain::default();
        (0..9).for_each(|n| vain.add(n * 200 * MS, (n + 1) * 200 * MS, 0, 0.0));
        assert!(!vain.is_enough(1_900 * MS, &Limits::default()));
        vain.add(1_800 * MS, 2_000 * MS, 1_900 * MS, 0.0);
        assert!(!vain.is_enough(1_900 * MS, &Limits::default()), "it answered meanwhile");
        vain.add(2_000 * MS, 2_200 * MS, 1_900 * MS, 0.0);
        assert!(!vain.is_enough(1_900 * MS, &Limits::default()));
    }
}
