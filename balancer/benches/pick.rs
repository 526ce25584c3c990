//! Measures the cost of a pick, by policy and number of endpoints: nanoseconds, best of ten rounds.
//!
//! `cargo bench --workspace --bench pick`. The best round is the one least disturbed by other
//! programs; a pick has no input that could make it luckier.

use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use fleet::policy::{Kind, Occasion};
use fleet::{Endpoint, EndpointId, Permit, State};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

const SIZES: [usize; 4] = [2, 8, 32, 128];
const ROUNDS: u32 = 10;
const PICKS: u32 = 20_000;

fn fleet(count: usize, now: Instant) -> Vec<Arc<Endpoint>> {
    (0..count)
        .map(|number| {
            let port = u16::try_from(number + 1).expect("few");
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let id = EndpointId(u32::from(port));
            Arc::new(Endpoint::new(id, "worker", address, State::up(), now))
        })
        .collect()
}

fn nanoseconds(kind: Kind, fleet: &[Arc<Endpoint>], now: Instant) -> f64 {
    let policy = kind.build();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for key in 0..u64::from(PICKS) {
            let mut occasion = Occasion { now, key: Some(key), rng: &mut rng };
            black_box(policy.pick(black_box(fleet), &mut occasion));
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(PICKS));
    }
    best
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    write!(out, "{:<16}", "ns per pick")?;
    for size in SIZES {
        write!(out, "{size:>8}")?;
    }
    writeln!(out)?;
    let now = Instant::now();
    let mut rng = SmallRng::seed_from_u64(2);
    for kind in Kind::ALL {
        write!(out, "{:<16}", kind.as_str())?;
        for size in SIZES {
            let fleet = fleet(size, now);
            let loads: Vec<Permit> =
                (0..4 * size).map(|_| fleet[rng.random_range(0..size)].begin(now)).collect();
            write!(out, "{:>8.1}", nanoseconds(kind, &fleet, now))?;
            drop(loads);
        }
        writeln!(out)?;
    }
    Ok(())
}
