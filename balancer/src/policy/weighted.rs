//! At random, in proportion to the weights.
//!
//! For fleets of unequal machines, or to give a new version a small share first. A weight of 0
//! keeps requests away; if all weights are 0 there is nothing to go by and chance decides.

use std::sync::Arc;

use super::{Occasion, Policy, below};
use crate::upstream::Endpoint;

/// Picks at random, in proportion to the weights.
#[derive(Debug, Clone, Copy)]
pub struct Weighted;

impl Policy for Weighted {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        if endpoints.is_empty() {
            return None;
        }
        let total: usize = endpoints.iter().map(|endpoint| endpoint.weight() as usize).sum();
        if total == 0 {
            return Some(below(occasion.rng, endpoints.len()));
        }
        let mut rest = below(occasion.rng, total);
        let hit = endpoints.iter().position(|endpoint| {
            let weight = endpoint.weight() as usize;
            let here = rest < weight;
            rest = rest.saturating_sub(weight);
            here
        });
        // A weight may change between the two passes; then the last endpoint takes it.
        hit.or(Some(endpoints.len() - 1))
    }
}
