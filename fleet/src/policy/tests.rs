//! Properties of every policy, and those that distinguish each of them.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::{Availability, Candidates, Cause, EndpointId, Event, Pool, Settings, State};

fn fleet(count: usize, now: Instant) -> Vec<Arc<Endpoint>> {
    (0..count)
        .map(|number| {
            let id = EndpointId(u32::try_from(number).expect("few"));
            let port = u16::try_from(number + 1).expect("few");
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            Arc::new(Endpoint::new(id, &format!("worker{port}"), address, State::up(), now))
        })
        .collect()
}

/// How often each endpoint is picked in `picks` picks without any load.
fn shares(kind: Kind, fleet: &[Arc<Endpoint>], picks: u64, seed: u64) -> Vec<u64> {
    let policy = kind.build();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut shares = vec![0; fleet.len()];
    let now = Instant::now();
    for key in 0..picks {
        let mut occasion = Occasion { now, key: Some(policy_key(key)), rng: &mut rng };
        shares[policy.pick(fleet, &mut occasion).expect("not empty")] += 1;
    }
    shares
}

fn policy_key(number: u64) -> u64 {
    key_of(&number.to_le_bytes())
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::ProbePassed),
        1 => Just(Event::ProbeFailed),
        1 => Just(Event::Gone),
        1 => Just(Event::Succeeded),
        3 => Just(Event::Failed { cause: Cause::Request, may_eject: true }),
        1 => Just(Event::Drain),
        1 => Just(Event::Undrain),
    ]
}

proptest! {
    #[test]
    fn no_policy_ever_picks_an_endpoint_that_is_not_available(
        events in prop::collection::vec((0_usize..5, event()), 1..60),
        seed: u64,
    ) {
        let pool = Pool::new(Settings::default(), Instant::now());
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let list: Vec<_> = (1..=5).map(|port| (format!("worker{port}"), address(port))).collect();
        pool.replace(&list, Instant::now()).ignore();
        let mut rng = SmallRng::seed_from_u64(seed);
        for (number, event) in events {
            let endpoint = Arc::clone(&pool.snapshot().all()[number]);
            if matches!(event, Event::Failed { .. }) {
                pool.record_failure(&endpoint, Cause::Request, "status 500", Instant::now()).ignore();
            } else {
                pool.apply(&endpoint, event, Instant::now()).ignore();
            }
            let snapshot = pool.snapshot();
            let Candidates::Some(_, candidates) = snapshot.candidates(None, 5) else {
                prop_assert!(snapshot.all().iter().all(|one| !one.state().is_available()));
                continue;
            };
            for kind in Kind::ALL {
                let mut occasion = Occasion { now: Instant::now(), key: Some(seed), rng: &mut rng };
                let picked = kind.build().pick(candidates, &mut occasion).expect("not empty");
                match candidates[picked].state().availability() {
                    Availability::Available => {}
                    // Too many others are out: better a doubtful endpoint than none.
                    Availability::Ejected => prop_assert!(snapshot.is_panicking(), "{:?}", kind),
                    out @ (Availability::New | Availability::Down | Availability::Draining) => {
                        prop_assert!(false, "{:?} picked one that is {:?}", kind, out);
                    }
                }
            }
        }
    }

    #[test]
    fn every_policy_picks_one_of_the_endpoints_it_is_shown(
        count in 0_usize..12,
        loads in prop::collection::vec(0_usize..5, 12),
        weights in prop::collection::vec(0_u32..4, 12),
        key: u64,
        seed: u64,
    ) {
        let now = Instant::now();
        let fleet = fleet(count, now);
        let mut guards = Vec::new();
        for (endpoint, (load, weight)) in fleet.iter().zip(loads.iter().zip(&weights)) {
            guards.extend((0..*load).map(|_| endpoint.begin(now)));
            endpoint.set_weight(*weight);
        }
        let mut rng = SmallRng::seed_from_u64(seed);
        for kind in Kind::ALL {
            let mut occasion = Occasion { now, key: Some(key), rng: &mut rng };
            let picked = kind.build().pick(&fleet, &mut occasion);
            match picked {
                None => prop_assert_eq!(count, 0, "{:?}", kind),
                Some(position) => prop_assert!(position < count, "{:?}", kind),
            }
        }
    }

    #[test]
    fn without_load_every_policy_shares_evenly(count in 2_usize..9, seed: u64) {
        let fleet = fleet(count, Instant::now());
        let picks = 2000 * count as u64;
        for kind in Kind::ALL {
            for share in shares(kind, &fleet, picks, seed) {
                // Six standard deviations of a fair draw: 2000 plus or minus 6 x sqrt(2000).
                prop_assert!((1732..=2268).contains(&share), "{:?}: {}", kind, share);
            }
        }
    }

    #[test]
    fn least_requests_is_never_beaten(loads in prop::collection::vec(0_usize..9, 1..9), seed: u64) {
        let now = Instant::now();
        let fleet = fleet(loads.len(), now);
        let guards: Vec<_> = fleet
            .iter()
            .zip(&loads)
            .flat_map(|(endpoint, load)| (0..*load).map(|_| endpoint.begin(now)))
            .collect();
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut occasion = Occasion { now, key: None, rng: &mut rng };
        let picked = LeastRequests.pick(&fleet, &mut occasion).expect("not empty");
        prop_assert_eq!(Some(&loads[picked]), loads.iter().min());
        drop(guards);
    }

    #[test]
    fn p2c_and_peak_ewma_never_take_the_worst(loads in prop::collection::hash_set(0_usize..50, 2..9), seed: u64) {
        let now = Instant::now();
        let loads: Vec<usize> = loads.into_iter().collect();
        let fleet = fleet(loads.len(), now);
        let guards: Vec<_> = fleet
            .iter()
            .zip(&loads)
            .flat_map(|(endpoint, load)| (0..*load).map(|_| endpoint.begin(now)))
            .collect();
        let mut rng = SmallRng::seed_from_u64(seed);
        for kind in [Kind::P2c, Kind::PeakEwma] {
            for _ in 0..50 {
                let mut occasion = Occasion { now, key: None, rng: &mut rng };
                let picked = kind.build().pick(&fleet, &mut occasion).expect("not empty");
                prop_assert_ne!(Some(&loads[picked]), loads.iter().max(), "{:?}", kind);
            }
        }
        drop(guards);
    }

    #[test]
    fn when_an_endpoint_goes_only_its_own_keys_move(count in 2_usize..9, gone: prop::sample::Index, seed: u64) {
        let now = Instant::now();
        let fleet = fleet(count, now);
        let gone = gone.index(count);
        let mut rest = fleet.clone();
        let removed = rest.remove(gone);
        let mut rng = SmallRng::seed_from_u64(seed);
        for key in 0..200 {
            let mut occasion = Occasion { now, key: Some(policy_key(key)), rng: &mut rng };
            let before = &fleet[Hash.pick(&fleet, &mut occasion).expect("not empty")];
            let after = &rest[Hash.pick(&rest, &mut occasion).expect("not empty")];
            prop_assert!(before.id() == removed.id() || before.id() == after.id());
        }
    }
}

#[test]
fn round_robin_shares_differ_by_at_most_one() {
    let fleet = fleet(3, Instant::now());
    assert_eq!(shares(Kind::RoundRobin, &fleet, 100, 0).iter().max(), Some(&34));
    assert_eq!(shares(Kind::RoundRobin, &fleet, 100, 0).iter().min(), Some(&33));
}

#[test]
fn weights_are_proportions() {
    let fleet = fleet(3, Instant::now());
    for (endpoint, weight) in fleet.iter().zip([0, 1, 3]) {
        endpoint.set_weight(weight);
    }
    let shares = shares(Kind::Weighted, &fleet, 8000, 1);
    assert_eq!(shares[0], 0);
    assert!((1800..2200).contains(&shares[1]), "{shares:?}");
}

#[test]
fn an_endpoint_that_fails_fast_attracts_nothing() {
    let now = Instant::now();
    let fleet = fleet(2, now);
    for _ in 0..100 {
        fleet[0].observe_failure(Duration::from_micros(10), now);
        fleet[1].observe(Duration::from_millis(50), now);
    }
    let mut rng = SmallRng::seed_from_u64(1);
    for kind in [Kind::PeakEwma, Kind::Inference] {
        let mut occasion = Occasion { now, key: None, rng: &mut rng };
        assert_eq!(kind.build().pick(&fleet, &mut occasion), Some(1), "{kind:?}");
    }
}

#[test]
fn inference_counts_the_queue_that_a_worker_reports_beyond_our_own() {
    let now = Instant::now();
    let fleet = fleet(2, now);
    let _two = (fleet[1].begin(now), fleet[1].begin(now));
    fleet[1].report_queue(2, now);
    fleet[0].report_queue(5, now);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut occasion = Occasion { now, key: None, rng: &mut rng };
    assert_eq!(Inference.pick(&fleet, &mut occasion), Some(1));
}

#[test]
fn every_policy_has_the_name_that_flags_know() {
    for kind in Kind::ALL {
        let parsed = <Kind as clap::ValueEnum>::from_str(kind.as_str(), false);
        assert_eq!(parsed, Ok(kind));
    }
}
