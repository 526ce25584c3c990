//! Choosing an endpoint does not allocate, whatever the policy.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use fleet::policy::{Kind, Occasion};
use fleet::{Endpoint, EndpointId, State};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

/// Allocations of this thread while `work` runs.
fn count(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

#[test]
fn the_counter_counts() {
    assert_eq!(count(|| drop(black_box(Box::new(7)))), 1);
}

#[test]
fn no_policy_allocates_when_it_picks() {
    let now = Instant::now();
    let fleet: Vec<Arc<Endpoint>> = (1..=16)
        .map(|port| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let id = EndpointId(u32::from(port));
            Arc::new(Endpoint::new(id, "worker", address, State::up(), now))
        })
        .collect();
    let mut rng = SmallRng::seed_from_u64(1);
    for kind in Kind::ALL {
        let policy = kind.build();
        for shown in [0, 1, 2, 16] {
            let allocations = count(|| {
                for key in 0..1000 {
                    let mut occasion = Occasion { now, key: Some(key), rng: &mut rng };
                    black_box(policy.pick(&fleet[..shown], &mut occasion));
                }
            });
            assert_eq!(allocations, 0, "{kind:?} among {shown}");
        }
    }
}
