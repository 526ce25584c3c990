//! Which endpoint takes the next request.
//!
//! A [`Policy`] chooses one of the endpoints it is given, all of which may take requests. It does
//! not know why others are missing or what the request is. It allocates nothing, reads no clock and
//! owns no random numbers, so that the balancer and a simulation run the same code. Every algorithm
//! has its own file; [`Kind`] is the only place that names them all.

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

pub use hash::{Hash, key_of};
pub use inference::Inference;
pub use least_requests::LeastRequests;
pub use p2c::P2c;
pub use peak_ewma::PeakEwma;
use rand::Rng;
pub use random::Random;
pub use round_robin::RoundRobin;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
pub use weighted::Weighted;

use crate::Endpoint;

/// What a pick may depend on besides the endpoints.
pub struct Occasion<'a> {
    /// The current time.
    pub now: Instant,
    /// The key of the request, for policies that send equal requests to one endpoint.
    pub key: Option<u64>,
    /// The source of random numbers.
    pub rng: &'a mut dyn Rng,
}

impl Debug for Occasion<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Occasion").field("now", &self.now).field("key", &self.key).finish()
    }
}

/// A rule that chooses one of several endpoints.
pub trait Policy: Send + Sync + Debug {
    /// The position of the chosen endpoint; `None` only if there are no endpoints.
    fn pick(&self, endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize>;
}

/// The policies by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Any endpoint, with equal probability.
    #[default]
    Random,
    /// Each endpoint in turn.
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
    /// Every policy, in the order in which help and documents list them.
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

/// A uniform number in `0..bound`, but for a bias below 2^-32 (Lemire's multiplication).
#[inline]
fn below(rng: &mut dyn Rng, bound: usize) -> usize {
    let wide = u128::from(rng.next_u64()) * bound as u128;
    usize::try_from(wide >> 64).expect("below a usize")
}

/// A uniform number from 0 to below 1.
#[inline]
fn unit(rng: &mut dyn Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Draws after which any endpoint will do: ten are expected at most, because every endpoint takes
/// at least a tenth of its share.
const MAX_DRAWS: usize = 100;

/// A random position, weighted by the current share of each endpoint: equal, except during a slow
/// start. `None` if there is none.
#[inline]
fn drawn(endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<usize> {
    if endpoints.is_empty() {
        return None;
    }
    let mut position = 0;
    for _ in 0..MAX_DRAWS {
        position = below(occasion.rng, endpoints.len());
        if takes_part(&endpoints[position], occasion) {
            break;
        }
    }
    Some(position)
}

/// Whether an endpoint takes part in a draw; in its slow start, with the probability of its share.
#[inline]
fn takes_part(endpoint: &Endpoint, occasion: &mut Occasion<'_>) -> bool {
    let share = endpoint.slow_start_weight(occasion.now);
    share >= 1.0 || unit(occasion.rng) < share
}

/// Two different positions, the first drawn by share; twice the same if there is only one.
#[inline]
fn two_of(endpoints: &[Arc<Endpoint>], occasion: &mut Occasion<'_>) -> Option<Pair> {
    let first = drawn(endpoints, occasion)?;
    if endpoints.len() == 1 {
        return Some((first, first));
    }
    let second = below(occasion.rng, endpoints.len() - 1);
    Some((first, if second >= first { second + 1 } else { second }))
}

type Pair = (usize, usize);

/// The load of an endpoint with one more request, in proportion to its share.
///
/// The endpoint that was drawn first is already drawn in proportion to its share, so it only needs
/// room in proportion. The challenger has to be better with the new request included. So an
/// endpoint in its slow start gets its share of the picks while no endpoint is busy, and never more
/// than its share of the load when all are. Outside of a slow start the two are the same.
#[derive(Debug, Clone, Copy)]
struct Load<T> {
    drawn: T,
    challenging: T,
}

/// The load of an endpoint with this many requests.
#[inline]
fn shared(requests: f64, endpoint: &Endpoint, now: Instant) -> Load<f64> {
    let share = endpoint.slow_start_weight(now);
    Load { drawn: requests / share + 1.0, challenging: (requests + 1.0) / share }
}

/// The position with the lowest load. The scan starts at a random position, so that endpoints with
/// equal load share the picks.
#[inline]
fn lowest<T: Copy>(
    endpoints: &[Arc<Endpoint>],
    occasion: &mut Occasion<'_>,
    load: impl Fn(&Endpoint) -> Load<T>,
    is_better: impl Fn(&T, &T) -> bool,
) -> Option<usize> {
    let start = drawn(endpoints, occasion)?;
    let mut best = (start, load(&endpoints[start]).drawn);
    for position in (start + 1..endpoints.len()).chain(0..start) {
        let challenging = load(&endpoints[position]).challenging;
        if is_better(&challenging, &best.1) {
            best = (position, challenging);
        }
    }
    Some(best.0)
}

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;
