//! How many requests may be in their second attempt: a share of the active ones.
//!
//! Retries therefore cannot multiply an overload, whatever makes attempts fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The running second attempts, and how many are allowed.
#[derive(Debug)]
pub struct RetryBudget {
    active: Arc<AtomicU64>,
    percent: u64,
}

/// One request in its second attempt.
#[derive(Debug)]
pub struct Retry {
    active: Arc<AtomicU64>,
}

impl RetryBudget {
    /// Second attempts that are always allowed.
    const MIN: u64 = 3;

    /// A share of `percent` of the active requests.
    pub fn new(percent: u32) -> Self {
        Self { active: Arc::default(), percent: u64::from(percent) }
    }

    /// Begins a second attempt, if the budget allows one with `requests` active requests.
    pub fn begin(&self, requests: u64) -> Option<Retry> {
        let allowed = (requests * self.percent / 100).max(Self::MIN);
        let retry = Retry { active: Arc::clone(&self.active) };
        let before = self.active.fetch_add(1, Relaxed);
        (before < allowed).then_some(retry)
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_the_active_requests_but_at_least_three() {
        let budget = RetryBudget::new(20);
        let begun: Vec<Retry> = (0..10).filter_map(|_| budget.begin(0)).collect();
        assert_eq!(begun.len(), 3);
        let more: Vec<Retry> = (0..100).filter_map(|_| budget.begin(100)).collect();
        assert_eq!(more.len(), 17);
        drop((begun, more));
        assert_eq!((0..10).filter_map(|_| budget.begin(50)).collect::<Vec<_>>().len(), 10);
    }
}
