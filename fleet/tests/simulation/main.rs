//! Thousands of seeded histories of the dispatcher, each with faults of its own, in virtual time.
//!
//! A seed determines the endpoints, the models, the requests and the faults: refused and broken
//! connections, stalls, slow and busy workers, restarts, drains, changes of the pool, lost probes,
//! a clock that pauses, clients that leave at any moment. After every step the [`checks`] compare
//! what happened with the rules. A seed that fails is printed with the command that replays it,
//! event by event.

#![expect(
    clippy::struct_excessive_bools,
    clippy::type_complexity,
    reason = "a history is a list of facts, and nothing outside of it has its types"
)]

mod checks;
mod machine;
mod request;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// Number of histories that are tried.
const SEEDS: u64 = 10_000;

/// Tries every fourth seed, beginning with this one.
#[track_caller]
fn try_seeds(first: u64) {
    for seed in (first..SEEDS).step_by(4) {
        let run = || World::new(seed, false).run();
        assert!(
            catch_unwind(AssertUnwindSafe(run)).is_ok(),
            "seed {seed} breaks a rule; replay it with\n  \
             FLEET_SEED={seed} cargo test -p fleet --test simulation replay -- --nocapture"
        );
    }
}

#[test]
fn no_history_breaks_a_rule_1() {
    try_seeds(0);
}

#[test]
fn no_history_breaks_a_rule_2() {
    try_seeds(1);
}

#[test]
fn no_history_breaks_a_rule_3() {
    try_seeds(2);
}

#[test]
fn no_history_breaks_a_rule_4() {
    try_seeds(3);
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [3, 4, 5, 6] {
        let [one, other] = [(), ()].map(|()| World::new(seed, true).run());
        assert_eq!(one, other);
        assert!(one.len() > 100, "something happened");
    }
}

#[test]
fn replay() {
    let seed = std::env::var_os("FLEET_SEED").and_then(|seed| seed.to_str()?.parse().ok());
    if let Some(seed) = seed {
        let mut world = World::new(seed, true);
        world.prints = true;
        world.run();
    }
}
