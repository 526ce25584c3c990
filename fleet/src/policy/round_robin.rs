//! Each endpoint in turn.
//!
//! One counter for all threads: over any run of picks from the same endpoints the shares differ by
//! at most one. It is fair in counts and blind to cost. An endpoint in its slow start is skipped as
//! often as its share requires.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{MAX_DRAWS, Occasion, Policy, takes_part};
use crate::Endpoint;

/// Picks in turn.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicUsize,
}

impl Policy for RoundRobin {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        let mut position = None;
        for _ in 0..MAX_DRAWS {
            position = self.turn.fetch_add(1, Relaxed).checked_rem(endpoints.len());
            if position.is_none_or(|position| takes_part(&endpoints[position], occasion)) {
                break;
            }
        }
        position
    }
}
