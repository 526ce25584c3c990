//! The better of two random endpoints.
//!
//! Two draws and one comparison bring most of the benefit of looking at all endpoints, in constant
//! time and without herding (Mitzenmacher, "The power of two choices in randomized load balancing",
//! IEEE TPDS 2001).

use std::sync::Arc;

use super::{Occasion, Policy, shared, two_of};
use crate::Endpoint;

/// Picks two at random and takes the one with fewer requests in flight.
#[derive(Debug, Clone, Copy)]
pub struct P2c;

impl Policy for P2c {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        let (a, b) = two_of(endpoints, occasion)?;
        let load =
            |at: usize| shared(f64::from(endpoints[at].in_flight()), &endpoints[at], occasion.now);
        Some(if load(b).challenging < load(a).drawn { b } else { a })
    }
}
