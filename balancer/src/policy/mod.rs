//! Which endpoint takes the next request.
//!
//! A [`Policy`] chooses one of the endpoints it is shown, all of which may take requests, and knows
//! nothing else: not why others are missing, not what the request is. It allocates nothing, reads
//! no clock and owns no random numbers, so that the balancer and a simulation run the same code.
//! Every algorithm has its own file; [`Kind`] is the only place that names them all.

mod hash;
mod inference;
mod least_requests;
mod p2c;
mod peak_ewma;
mod random;
mod round_robin;
mod weighted;

use std::fmt::Debug;
use std::sync::Arc;

use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::upstream::Endpoint;

pub use hash::{Hash, key_of};
pub use inference::Inference;
pub use least_requests::LeastRequests;
pub use p2c::P2c;
pub use peak_ewma::PeakEwma;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use weighted::Weighted;

/// What a pick may depend on besides the endpoints.
pub struct Occasion<'a> {
    /// The current time.
    pub now: Instant,
    /// What the request is about, for policies that send equal requests to one endpoint; `None` if
    /// it is about nothing that they go by.
    pub key: Option<u64>,
    /// Where chance comes from.
    pub rng: &'a mut dyn Rng,
}

impl Debug for Occasion<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Occasion").field("now", &self.now).field("key", &self.key).finish()
    }
}

/// A rule that chooses one of several endpoints.
pub trait Policy: Send + Sync + Debug {
    /// The position of the chosen endpoint; `None` only if there is none.
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize>;
}

/// The policies by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Any endpoint, all equally likely.
    #[default]
    Random,
    /// One after the other.
    RoundRobin,
    /// The one with the fewest unanswered requests.
    LeastRequests,
    /// The better of two random ones, by unanswered requests.
    P2c,
    /// The better of two random ones, by expected time: moving average times pending requests.
    PeakEwma,
    /// At random, in proportion to the weights.
    Weighted,
    /// Always the same one for the same key (rendezvous hashing).
    Hash,
    /// The least expected work: pending requests and reported queue, times the service time.
    Inference,
}

impl Kind {
    /// Every policy.
    pub const ALL: [Self; 8] = [
        Self::Random,
        Self::RoundRobin,
        Self::LeastRequests,
        Self::P2c,
        Self::PeakEwma,
        Self::Weighted,
        Self::Hash,
        Self::Inference,
    ];

    /// A new instance of the policy.
    pub fn build(self) -> Arc<dyn Policy> {
        match self {
            Self::Random => Arc::new(Random),
            Self::RoundRobin => Arc::new(RoundRobin::default()),
            Self::LeastRequests => Arc::new(LeastRequests),
            Self::P2c => Arc::new(P2c),
            Self::PeakEwma => Arc::new(PeakEwma),
            Self::Weighted => Arc::new(Weighted),
            Self::Hash => Arc::new(Hash),
            Self::Inference => Arc::new(Inference),
        }
    }

    /// Its name, as flags and the configuration file spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::LeastRequests => "least-requests",
            Self::P2c => "p2c",
            Self::PeakEwma => "peak-ewma",
            Self::Weighted => "weighted",
            Self::Hash => "hash",
            Self::Inference => "inference",
        }
    }
}

/// A number in `0..bound`, all equally likely but for a bias below 2^-32 (Lemire's multiplication).
#[inline]
fn below(rng: &mut dyn Rng, bound: usize) -> usize {
    let wide = u128::from(rng.next_u64()) * bound as u128;
    usize::try_from(wide >> 64).expect("below a usize")
}

/// Two different positions in `0..count`; `count` is at least 2.
#[inline]
fn two_of(rng: &mut dyn Rng, count: usize) -> (usize, usize) {
    let first = below(rng, count);
    let second = below(rng, count - 1);
    (first, if second >= first { second + 1 } else { second })
}

/// The position with the lowest cost; the scan starts anywhere, so that equals share.
#[inline]
fn lowest<T: PartialOrd>(
    endpoints: &[Arc<Endpoint>],
    rng: &mut dyn Rng,
    cost: impl Fn(&Endpoint) -> T,
) -> Option<usize> {
    let start = below(rng, endpoints.len().max(1));
    let mut best: Option<(usize, T)> = None;
    for position in (start..endpoints.len()).chain(0..start) {
        let candidate = cost(&endpoints[position]);
        if best.as_ref().is_none_or(|(_, lowest)| candidate < *lowest) {
            best = Some((position, candidate));
        }
    }
    best.map(|(position, _)| position)
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
