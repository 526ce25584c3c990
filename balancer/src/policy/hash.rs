//! Always the same endpoint for the same key.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): every endpoint gets a score from the key and
//! its address, and the highest wins. When an endpoint goes, only its own keys move. A request
//! without a key is nobody's in particular: the less loaded of two takes it.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash as _, Hasher};
use std::sync::Arc;

use super::{Occasion, P2c, Policy};
use crate::upstream::Endpoint;

/// Picks by the key of the request.
#[derive(Debug, Clone, Copy)]
pub struct Hash;

impl Policy for Hash {
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
        let Some(key) = occasion.key else { return P2c.pick(endpoints, occasion) };
        let score = |endpoint: &Endpoint| {
            let mut hasher = DefaultHasher::new();
            endpoint.address().hash(&mut hasher);
            hasher.write_u64(key);
            hasher.finish()
        };
        (0..endpoints.len()).max_by_key(|position| score(&endpoints[*position]))
    }
}

/// The key of what identifies a request, equal in every process.
pub fn key_of(bytes: &[u8]) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes)
}
