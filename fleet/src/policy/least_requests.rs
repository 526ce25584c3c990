//! The endpoint with the fewest unanswered requests.
//!
//! It looks at every endpoint, which is right for fleets of tens. Many balancers doing this against
//! the same fleet would all choose the same endpoint; `p2c` does not have that weakness.

use std::sync::Arc;

use super::{Occasion, Policy, lowest, shared};
use crate::Endpoint;

/// Picks the fewest in flight, ties at random.
#[derive(Debug, Clone, Copy)]
pub struct LeastRequests;

impl Policy for LeastRequests {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        let now = occasion.now;
        let load = |endpoint: &Endpoint| shared(f64::from(endpoint.in_flight()), endpoint, now);
        lowest(endpoints, occasion, load, |challenger, best| challenger < best)
    }
}
