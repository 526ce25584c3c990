//! At random, in proportion to the weights.
//!
//! For fleets of unequal machines, or to give a new version a small share first. A weight of 0
//! keeps requests away under every policy: such an endpoint is not among those to choose from.

use std::sync::Arc;

use super::{Occasion, Policy, below, unit};
use crate::Endpoint;

/// Picks at random, in proportion to the weights.
#[derive(Debug, Clone, Copy)]
pub struct Weighted;

impl Policy for Weighted {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        if endpoints.is_empty() {
            return None;
        }
        let now = occasion.now;
        let weight = |one: &Arc<Endpoint>| f64::from(one.weight()) * one.slow_start_weight(now);
        let total: f64 = endpoints.iter().map(weight).sum();
        if total <= 0.0 {
            return Some(below(occasion.rng, endpoints.len()));
        }
        let mut rest = unit(occasion.rng) * total;
        let hit = endpoints.iter().position(|endpoint| {
            let weight = weight(endpoint);
            let here = rest < weight;
            rest -= weight;
            here
        });
        // A weight may change between the two passes; then the last endpoint takes it.
        hit.or(Some(endpoints.len() - 1))
    }
}
