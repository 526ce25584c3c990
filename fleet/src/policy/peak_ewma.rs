//! The better of two random endpoints by the time a request can expect to take there.
//!
//! The expectation is the moving average of the service time, which jumps up with a slow answer and
//! decays slowly, times the requests already pending plus this one (as in Finagle). Requests that
//! fail, or are given up, count as slow answers, so an endpoint that fails fast or hangs attracts
//! no requests; an unknown endpoint is assumed to be as slow as the other.

use std::sync::Arc;

use super::{Occasion, Policy, shared, two_of};
use crate::Endpoint;

/// Picks two at random and takes the one with the lower expected time.
#[derive(Debug, Clone, Copy)]
pub struct PeakEwma;

impl Policy for PeakEwma {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        let (a, b) = two_of(endpoints, occasion)?;
        let now = occasion.now;
        let [first, second] = [a, b].map(|at| {
            let endpoint = &endpoints[at];
            let load = shared(f64::from(endpoint.in_flight()), endpoint, now);
            (load, endpoint.estimate(now))
        });
        let here = first.0.drawn * first.1.beside(&second.1);
        let there = second.0.challenging * second.1.beside(&first.1);
        Some(if there < here { b } else { a })
    }
}
