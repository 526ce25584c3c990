//! Always the same endpoint for the same key.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): every endpoint gets a score from the key and
//! its address, and the highest wins. When an endpoint leaves, only its own keys move. A request
//! without a key belongs to no endpoint in particular and goes to the less loaded of two.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash as _, Hasher};
use std::sync::Arc;

use super::{Occasion, P2c, Policy};
use crate::Endpoint;

/// Picks by the key of the request.
#[derive(Debug, Clone, Copy)]
pub struct Hash;

impl Policy for Hash {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        let Some(key) = occasion.key else { return P2c.pick(endpoints, occasion) };
        let now = occasion.now;
        let score = |endpoint: &Endpoint| {
            let mut hasher = DefaultHasher::new();
            endpoint.address().hash(&mut hasher);
            hasher.write_u64(key);
            weighted(hasher.finish(), endpoint.slow_start_weight(now))
        };
        let mut best = None;
        for (position, endpoint) in endpoints.iter().enumerate() {
            let score = score(endpoint);
            if best.is_none_or(|(_, highest)| score >= highest) {
                best = Some((position, score));
            }
        }
        best.map(|(position, _)| position)
    }
}

/// A score whose maximum falls on an endpoint as often as its weight says: the root of a number
/// from 0 to 1 (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006). An
/// endpoint that grows into its share only gains keys.
fn weighted(hash: u64, weight: f64) -> f64 {
    let unit = hash as f64 / 2_f64.powi(64);
    if weight < 1.0 { unit.powf(weight.recip()) } else { unit }
}

/// The key for the bytes that identify a request; the same in every process.
pub fn key_of(bytes: &[u8]) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes)
}
