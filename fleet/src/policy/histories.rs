//! Policies over seeded histories, in virtual time: endpoints that hang, start and come back.
//!
//! Each of several clients sends its next request when the last one is answered, or after giving up
//! on it. All decisions are those of the real pool, endpoints and policy.

use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::{Candidates, Event, Permit, Pool, Settings};

/// Clients give up after this long.
const PATIENCE: Duration = Duration::from_millis(200);
/// The mean time of an answer; each takes 0.5 to 1.5 times as long.
const ANSWER: Duration = Duration::from_millis(20);
/// How often [`Pool::tick`] is called.
const TICK: Duration = Duration::from_millis(250);

/// A request in progress; the one that ends first compares greatest.
struct Request {
    ends: Instant,
    number: u64,
    began: Instant,
    in_flight: Permit,
    is_answered: bool,
}

struct World {
    pool: Pool,
    policy: Arc<dyn Policy>,
    rng: SmallRng,
    under_way: BinaryHeap<Request>,
    /// The endpoint that hangs, if any.
    hanging: Option<usize>,
    /// Requests that each endpoint got.
    picks: Vec<u64>,
    asked: u64,
    ticked: Instant,
}

impl World {
    fn new(kind: Kind, count: u16, clients: usize, seed: u64) -> Self {
        let pool = Pool::new(Settings { is_probed: false, ..Settings::default() }, Instant::now());
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let list: Vec<_> = (1..=count).map(|n| (format!("worker{n}"), address(n))).collect();
        pool.replace(&list, Instant::now()).ignore();
        let mut world = Self {
            pool,
            policy: kind.build(),
            rng: SmallRng::seed_from_u64(seed),
            under_way: BinaryHeap::new(),
            hanging: None,
            picks: vec![0; usize::from(count)],
            asked: 0,
            ticked: Instant::now(),
        };
        (0..clients).for_each(|_| world.ask());
        world
    }

    /// Sends a request of one client.
    fn ask(&mut self) {
        let now = Instant::now();
        let snapshot = self.pool.snapshot();
        let Candidates::Some(_, candidates) = snapshot.candidates(None, usize::MAX) else {
            panic!("there is always an endpoint");
        };
        self.asked += 1;
        let key = Some(key_of(&self.asked.to_le_bytes()));
        let mut occasion = Occasion { now, key, rng: &mut self.rng };
        let picked = &candidates[self.policy.pick(candidates, &mut occasion).expect("not empty")];
        assert!(picked.state().is_available() && picked.weight() > 0, "one that is not offered");
        let number = snapshot.all().iter().position(|one| one.id() == picked.id());
        let number = number.expect("one of the pool");
        self.picks[number] += 1;
        let is_answered = self.hanging != Some(number);
        let time = ANSWER.mul_f64(0.5 + unit(&mut self.rng));
        let ends = now + if is_answered { time } else { PATIENCE };
        let in_flight = picked.begin(now);
        let request = Request { ends, number: self.asked, began: now, in_flight, is_answered };
        self.under_way.push(request);
    }

    /// Advances time.
    async fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while self.under_way.peek().is_some_and(|request| request.ends <= end) {
            let Some(request) = self.under_way.pop() else { return };
            tokio::time::advance(request.ends.saturating_duration_since(Instant::now())).await;
            let now = Instant::now();
            let endpoint = Arc::clone(request.in_flight.endpoint());
            if request.is_answered {
                endpoint.observe(now - request.began, now);
                if endpoint.is_troubled() {
                    self.pool.apply(&endpoint, Event::Succeeded, Instant::now()).ignore();
                }
            } else {
                endpoint.observe_abandoned(request.began, now);
            }
            drop(request);
            if now.duration_since(self.ticked) >= TICK {
                self.ticked = now;
                self.pool.tick(Instant::now()).ignore();
            }
            self.ask();
        }
        tokio::time::advance(end.saturating_duration_since(Instant::now())).await;
    }

    /// The share of an endpoint in the picks of the next `time`.
    async fn share(&mut self, number: usize, time: Duration) -> f64 {
        self.picks.fill(0);
        self.run(time).await;
        self.picks[number] as f64 / self.picks.iter().sum::<u64>() as f64
    }
}

impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Request {}

impl Ord for Request {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.ends, other.number).cmp(&(self.ends, self.number))
    }
}

impl PartialOrd for Request {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

fn in_virtual_time<T>(history: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(history)
}

/// The share of all picks that an endpoint gets over its slow start beside `others`, if it takes
/// its share at each moment.
fn share_of_the_ramp(others: f64) -> f64 {
    let share = |step: i32| {
        let weight = (f64::from(step) / 1000.0).max(0.1);
        weight / (others + weight)
    };
    (0..1000).map(share).sum::<f64>() / 1000.0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn a_hanging_endpoint_gets_next_to_nothing_after_ten_requests(
        count in 2_u16..6,
        clients in 1_usize..4,
        seed: u64,
    ) {
        for kind in Kind::ALL {
            let share = in_virtual_time(async {
                let mut world = World::new(kind, count, clients, seed);
                world.hanging = Some(0);
                for _ in 0..1000 {
                    if world.picks[0] >= 10 {
                        break;
                    }
                    world.run(Duration::from_millis(20)).await;
                }
                world.share(0, Duration::from_mins(1)).await
            });
            prop_assert!(share < 0.05, "{:?}: {}", kind, share);
        }
    }

    #[test]
    fn a_cold_endpoint_gets_its_share_of_the_ramp_and_then_its_full_share(
        count in 2_u16..6,
        clients in 1_usize..20,
        is_crash: bool,
        seed: u64,
    ) {
        for kind in Kind::ALL {
            let (ramp, after) = in_virtual_time(async {
                let mut world = World::new(kind, count, clients, seed);
                world.run(Duration::from_secs(5)).await;
                let cold = Arc::clone(&world.pool.snapshot().all()[0]);
                world.pool.apply(&cold, if is_crash { Event::Gone } else { Event::Drain }, Instant::now()).ignore();
                world.run(Duration::from_secs(5)).await;
                world.pool.apply(&cold, if is_crash { Event::ProbePassed } else { Event::Undrain }, Instant::now()).ignore();
                let ramp = world.share(0, Settings::default().slow_start).await;
                (ramp, world.share(0, Duration::from_secs(20)).await)
            });
            let expected = share_of_the_ramp(f64::from(count) - 1.0);
            prop_assert!((ramp - expected).abs() < 0.1, "{:?}: {} instead of {}", kind, ramp, expected);
            let full = 1.0 / f64::from(count);
            prop_assert!((after - full).abs() < 0.1, "{:?}: {} instead of {}", kind, after, full);
        }
    }

    #[test]
    fn an_endpoint_that_hung_is_back_with_its_full_share(
        count in 2_u16..6,
        clients in 1_usize..8,
        seed: u64,
    ) {
        for kind in Kind::ALL {
            let (is_back, after) = in_virtual_time(async {
                let mut world = World::new(kind, count, clients, seed);
                world.hanging = Some(0);
                world.run(Duration::from_mins(1)).await;
                world.hanging = None;
                // Earlier requests to it are given up, which counts.
                world.run(PATIENCE * 2).await;
                let was_hung = Arc::clone(&world.pool.snapshot().all()[0]);
                // Ejections last longer each time, up to a limit.
                for _ in 0..600 {
                    if was_hung.state().is_available() {
                        break;
                    }
                    world.run(Duration::from_secs(1)).await;
                }
                world.run(Settings::default().slow_start * 2).await;
                (was_hung.state().is_available(), world.share(0, Duration::from_secs(20)).await)
            });
            prop_assert!(is_back, "{:?}", kind);
            let full = 1.0 / f64::from(count);
            prop_assert!((after - full).abs() < 0.1, "{:?}: {} instead of {}", kind, after, full);
        }
    }
}
