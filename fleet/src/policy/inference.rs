//! The endpoint where an inference request finishes soonest.
//!
//! The work ahead of a request is what this balancer has pending there, plus what the worker says
//! it has queued beyond that (other balancers, slow heads of line), times its service time. Local
//! counts come first because they are exact and current; a report is as old as the last answer, so
//! only its excess over the local count is added.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Load, Occasion, Policy, lowest, shared};
use crate::{Endpoint, Estimate};

/// Picks the least expected work.
#[derive(Debug, Clone, Copy)]
pub struct Inference;

/// The work on an endpoint: how much there is, and how long each takes.
#[derive(Debug, Clone, Copy)]
struct Work {
    /// With one more request.
    load: f64,
    time: Estimate,
}

impl Policy for Inference {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        let now = occasion.now;
        let work = |endpoint: &Endpoint| {
            let Load { drawn, challenging } = load(endpoint, now);
            let time = endpoint.estimate(now);
            Load {
                drawn: Work { load: drawn, time },
                challenging: Work { load: challenging, time },
            }
        };
        lowest(endpoints, occasion, work, |challenger, best| {
            challenger.load * challenger.time.beside(&best.time)
                < best.load * best.time.beside(&challenger.time)
        })
    }
}

fn load(endpoint: &Endpoint, now: Instant) -> Load<f64> {
    let local = endpoint.in_flight();
    let elsewhere = endpoint.queue_of_late(now).saturating_sub(local);
    shared(f64::from(local) + f64::from(elsewhere), endpoint, now)
}
