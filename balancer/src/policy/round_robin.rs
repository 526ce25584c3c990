//! One endpoint after the other.
//!
//! One counter for all threads: over any run of picks from the same endpoints the shares differ by
//! at most one. It is fair in counts and blind to cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Occasion, Policy};
use crate::upstream::Endpoint;

/// Picks in turn.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicUsize,
}

impl Policy for RoundRobin {
    fn pick(&self, endpoints: &[Arc<Endpoint>], _: &mut Occasion<'_>) -> Option<usize> {
        self.turn.fetch_add(1, Relaxed).checked_rem(endpoints.len())
    }
}
