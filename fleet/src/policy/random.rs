//! Any endpoint, with equal probability: the policy of the original experiment.
//!
//! It needs no state and no knowledge, spreads evenly in the long run, and is the yardstick for the
//! others. Its weakness is chance itself: some endpoint always has a longer queue than needed.

use std::sync::Arc;

use super::{Occasion, Policy, drawn};
use crate::Endpoint;

/// Picks uniformly at random.
#[derive(Debug, Clone, Copy)]
pub struct Random;

impl Policy for Random {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        drawn(endpoints, occasion)
    }
}
