//! The endpoint where an inference request is done soonest.
//!
//! The work ahead of a request is what this balancer has pending there, plus what the worker says
//! it has queued beyond that (other balancers, slow heads of line), times its service time. Local
//! counts come first because they are exact and current; a report is as old as the last answer, so
//! only its excess over the local count is added.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Occasion, Policy, lowest};
use crate::upstream::Endpoint;

/// Picks the least expected work.
#[derive(Debug, Clone, Copy)]
pub struct Inference;

impl Policy for Inference {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        let now = occasion.now;
        lowest(endpoints, occasion.rng, |endpoint| work(endpoint, now))
    }
}

fn work(endpoint: &Endpoint, now: Instant) -> f64 {
    let local = endpoint.in_flight();
    let elsewhere = endpoint.reported_queue().saturating_sub(local);
    (f64::from(local) + f64::from(elsewhere) + 1.0) * endpoint.service_time(now)
}
