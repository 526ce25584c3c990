//! The better of two random endpoints by the time a request can expect to take there.
//!
//! The expectation is the moving average of the service time, which jumps up with a slow answer and
//! sinks slowly, times the requests already pending plus this one (as in Finagle). Failed requests
//! count as slow answers, so an endpoint that fails fast attracts nothing.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Occasion, Policy, two_of};
use crate::upstream::Endpoint;

/// Picks two at random and takes the one with the lower expected time.
#[derive(Debug, Clone, Copy)]
pub struct PeakEwma;

impl Policy for PeakEwma {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        if endpoints.len() < 2 {
            return (!endpoints.is_empty()).then_some(0);
        }
        let (a, b) = two_of(occasion.rng, endpoints.len());
        let now = occasion.now;
        Some(if cost(&endpoints[b], now) < cost(&endpoints[a], now) { b } else { a })
    }
}

fn cost(endpoint: &Endpoint, now: Instant) -> f64 {
    endpoint.service_time(now) * (f64::from(endpoint.in_flight()) + 1.0)
}
