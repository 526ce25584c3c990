//! The simulator against queueing theory, against common sense, and against itself.
//!
//! Where the order of service is known, every time is compared with a second simulation of a few
//! lines. What is drawn is held against theory, which is exact, so agreement within 2 % is demanded
//! of the mean and of every quantile; the seeds are fixed, so a failure is a change of the simulator
//! and never bad luck.

use std::time::Duration;

use client::plan;
use client::simulate::quota::Quota;
use client::simulate::scenario::{Batch, Crashes, Elastic, Limits, Scaling};
use client::simulate::theory::MarkovQueue;
use client::simulate::{Scenario, ServiceTime, SimulatedRun, simulate};
use fleet::policy::Kind;
use proptest::prelude::*;

const MEAN: Duration = Duration::from_millis(10);
const SERVICE_RATE: f64 = 100.0;

fn fleet(workers: usize, utilisation: f64) -> Scenario {
    let rate = SERVICE_RATE * workers as f64 * utilisation;
    Scenario::new(workers, rate, ServiceTime::Exponential(MEAN))
}

fn run(scenario: &Scenario) -> SimulatedRun {
    simulate(scenario).expect("a sound scenario")
}

#[track_caller]
fn agrees(outcome: &SimulatedRun, queue: MarkovQueue) {
    let pairs = [
        ("mean", outcome.mean, queue.mean()),
        ("p50", outcome.p50, queue.quantile(0.5)),
        ("p95", outcome.p95, queue.quantile(0.95)),
        ("p99", outcome.p99, queue.quantile(0.99)),
        ("utilisation", outcome.utilisation, queue.utilisation()),
    ];
    for (what, found, exact) in pairs {
        let error = (found / exact - 1.0).abs();
        assert!(error < 0.02, "{what}: {found} instead of {exact}, {:.2} % off", error * 100.0);
    }
}

/// Busier queues remember longer and need more requests for the same precision.
const LOADS: [(f64, u64); 4] =
    [(0.3, 1_000_000), (0.6, 2_000_000), (0.8, 6_000_000), (0.9, 16_000_000)];

/// One worker with `servers` executors.
#[track_caller]
fn is_m_m_c(servers: usize, loads: &[(f64, u64)]) {
    for &(utilisation, requests) in loads {
        let base = Scenario { requests, ..fleet(servers, utilisation) };
        let arrival_rate = base.rate;
        let queue = MarkovQueue { arrival_rate, service_rate: SERVICE_RATE, servers };
        agrees(&run(&Scenario { workers: 1, threads: servers, ..base }), queue);
    }
}

#[test]
fn what_is_drawn_makes_m_m_c_queues() {
    is_m_m_c(1, &LOADS[..2]);
    is_m_m_c(4, &LOADS[..1]);
}

#[test]
#[ignore = "minutes without optimisation; the exact comparison below sees the same faults"]
fn every_number_of_executors_is_an_m_m_c_queue_at_every_load() {
    for servers in [1, 2, 4, 16] {
        is_m_m_c(servers, &LOADS);
    }
}

/// Arrivals and costs of requests, in whole microseconds.
struct Drawn {
    instants: Vec<u64>,
    costs: Vec<u64>,
}

impl Drawn {
    /// Independent exponential gaps and costs that keep `servers` busy to a share of `utilisation`.
    fn new(servers: usize, utilisation: f64) -> Self {
        const COUNT: usize = 40_000;
        let mut rng: rand::rngs::ChaCha12Rng = rand::SeedableRng::seed_from_u64(servers as u64);
        let mut micros = |mean: f64| {
            let unit: f64 = rand_distr::Distribution::sample(&rand_distr::Exp1, &mut rng);
            let time = Duration::from_secs_f64((mean * unit).max(1e-6));
            u64::try_from(time.as_micros()).expect("some seconds at most")
        };
        let gap = 1.0 / (SERVICE_RATE * servers as f64 * utilisation);
        let mut now = 0;
        let instant = |gap: u64| {
            now += gap;
            now
        };
        let instants = (0..COUNT).map(|_| micros(gap)).collect::<Vec<_>>();
        let instants = instants.into_iter().map(instant).collect();
        Self { instants, costs: (0..COUNT).map(|_| micros(1.0 / SERVICE_RATE)).collect() }
    }

    /// How long each takes where the first of `servers` that is free serves the first that came:
    /// Kiefer and Wolfowitz, "On the Theory of Queues with Many Servers" (1955).
    fn latencies(&self, servers: usize) -> Vec<u64> {
        let mut free = vec![0; servers];
        let latency = |(&arrived, &cost): (&u64, &u64)| {
            let first = free.iter_mut().min().expect("there is a server");
            *first = arrived.max(*first) + cost;
            *first - arrived
        };
        self.instants.iter().zip(&self.costs).map(latency).collect()
    }

    /// The same requests for the simulator.
    fn scenario(&self, servers: usize) -> Scenario {
        Scenario {
            requests: self.instants.len() as u64,
            warm_up: 0.0,
            instants: Some(self.instants.iter().map(|micros| micros * 1000).collect()),
            costs: Some(self.costs.iter().map(|micros| *micros as f64 / 1e6).collect()),
            ..fleet(servers, 0.5)
        }
    }
}

/// Request by request what another, simpler simulation finds: no queue of theory is needed to be
/// sure of the order and of the last nanosecond.
#[track_caller]
fn is_first_come_first_served(servers: usize, change: impl Fn(Scenario) -> Scenario) {
    for (utilisation, _) in LOADS {
        let drawn = Drawn::new(servers, utilisation);
        let mut latencies = drawn.latencies(servers);
        let outcome = run(&change(drawn.scenario(servers)));
        assert_eq!(outcome.answered, latencies.len() as u64);
        latencies.sort_unstable();
        let seconds = |micros: u64| micros as f64 / 1e6;
        let at = |thousandth: usize| {
            seconds(latencies[(latencies.len() * thousandth).div_ceil(1000) - 1])
        };
        let mean = seconds(latencies.iter().sum::<u64>()) / latencies.len() as f64;
        // Means and longest times are kept as they are, quantiles with three digits.
        for (what, found, exact, error) in [
            ("mean", outcome.mean, mean, 1e-6),
            ("max", outcome.max, at(1000), 1e-6),
            ("p50", outcome.p50, at(500), 1e-3),
            ("p95", outcome.p95, at(950), 1e-3),
            ("p99", outcome.p99, at(990), 1e-3),
        ] {
            let off = (found / exact - 1.0).abs();
            assert!(off <= error, "{what} at {utilisation}: {found} instead of {exact}");
        }
    }
}

#[test]
fn executors_of_a_worker_serve_the_first_that_came() {
    for servers in [1, 2, 4, 16] {
        is_first_come_first_served(servers, |scenario| Scenario {
            workers: 1,
            threads: servers,
            ..scenario
        });
    }
}

#[test]
fn workers_behind_one_queue_serve_the_first_that_came() {
    let limits = Limits { in_flight: 1, ..Limits::default() };
    for servers in [2, 4, 16] {
        is_first_come_first_served(servers, |scenario| Scenario { limits, ..scenario });
    }
}

#[test]
fn workers_under_the_random_policy_are_m_m_1_queues_each() {
    let scenario = Scenario { requests: 4_000_000, ..fleet(4, 0.7) };
    let arrival_rate = scenario.rate / 4.0;
    agrees(&run(&scenario), MarkovQueue { arrival_rate, service_rate: SERVICE_RATE, servers: 1 });
}

#[test]
fn a_schedule_that_is_met_again_gives_the_same_run() {
    let base = Scenario { requests: 5000, uniform: true, ..fleet(2, 0.5) };
    // The gaps of a uniform schedule are whole nanoseconds: 10 ms of work at 100 a second.
    let instants = (1..=5000).map(|number| number * 10_000_000).collect();
    let again = Scenario { instants: Some(instants), uniform: false, ..base.clone() };
    let (one, other) = (run(&base), run(&again));
    assert!((one.p99 - other.p99).abs() < 1e-12 && one.answered == other.answered);
    let short = Scenario { instants: Some([1, 2].into()), ..base };
    assert!(simulate(&short).is_err());
}

#[test]
fn a_quota_makes_a_worker_as_slow_as_its_share_and_not_slower() {
    let millis = Duration::from_millis;
    let quota = Quota { quota: millis(2), period: millis(10), tick: millis(4) };
    // 50 ms of quota time for 10 ms of CPU, on average.
    let slow = Scenario {
        quota: Some(quota),
        rate: 100.0 * 0.2 * 3.0,
        requests: 20_000,
        service: ServiceTime::Constant(MEAN),
        limits: Limits { worker_queue: 10, ..Limits::default() },
        ..fleet(1, 0.5)
    };
    let outcome = run(&slow);
    assert!((outcome.throughput / 20.0 - 1.0).abs() < 0.03, "{}", outcome.throughput);
    assert!((slow.offered_utilisation() - 3.0).abs() < 1e-9);
    let idle = run(&Scenario { rate: 1.0, ..slow });
    assert!((0.03..0.06).contains(&idle.p50), "{}", idle.p50);
}

#[test]
fn the_network_adds_its_way_there_and_back() {
    let near = Scenario { requests: 100_000, ..fleet(2, 0.5) };
    let far = Scenario { network: Duration::from_millis(7), ..near.clone() };
    let added = run(&far).mean - run(&near).mean;
    assert!((added - 0.014).abs() < 1e-9, "{added}");
}

#[test]
fn the_same_seed_gives_the_same_run_bit_for_bit() {
    let scenario = Scenario {
        requests: 50_000,
        policy: Kind::P2c,
        crashes: Some(Crashes { every: Duration::from_mins(1), repair: Duration::from_secs(2) }),
        ..fleet(8, 0.8)
    };
    let text = |scenario: &Scenario| serde_json::to_string(&run(scenario)).expect("JSON");
    assert_eq!(text(&scenario), text(&scenario));
    assert_ne!(text(&scenario), text(&Scenario { seed: 2, ..scenario.clone() }));
}

#[test]
fn two_choices_beat_chance_by_half_at_80_percent_on_four_workers() {
    let p99 = |policy| run(&Scenario { policy, requests: 300_000, ..fleet(4, 0.8) }).p99;
    let ratio = p99(Kind::Random) / p99(Kind::P2c);
    eprintln!("p99 of random is {ratio:.2} times that of p2c");
    assert!(ratio >= 1.5, "{ratio}");
}

#[test]
fn policies_that_measure_avoid_a_slow_worker() {
    let p99 = |policy| {
        let slow = Some((1, 4.0));
        run(&Scenario { policy, slow, requests: 300_000, ..fleet(8, 0.5) }).p99
    };
    let (random, measuring) = (p99(Kind::Random), p99(Kind::Inference));
    assert!(measuring * 3.0 < random, "inference {measuring}, random {random}");
}

#[test]
fn a_retry_hides_every_crash() {
    let run = |attempts| {
        let limits = Limits { attempts, ..Limits::default() };
        let crashes =
            Some(Crashes { every: Duration::from_mins(2), repair: Duration::from_secs(5) });
        let outcome = run(&Scenario { limits, crashes, requests: 400_000, ..fleet(10, 0.4) });
        assert!(outcome.ejections > 0);
        outcome
    };
    let (once, twice) = (run(1), run(2));
    eprintln!("{} and {} failed, {} denied", once.failed, twice.failed, twice.retries_denied);
    // A crash fails what is on the worker at once. That leaves no work behind, so trying it again needs
    // no budget, and only a second crash on the way is not hidden.
    assert!(once.failed > 20 && once.retries_denied == 0, "{}", once.failed);
    assert!(twice.failed * 10 < once.failed && twice.retries_denied == 0, "{}", twice.failed);
}

#[test]
fn a_worker_that_says_that_it_is_busy_is_tried_elsewhere() {
    let shed = |attempts| {
        let limits = Limits { attempts, worker_queue: 1, ..Limits::default() };
        run(&Scenario { limits, requests: 200_000, ..fleet(8, 0.4) }).shed
    };
    let (once, twice) = (shed(1), shed(2));
    eprintln!("{once} and {twice} shed");
    assert!(once > 1000 && twice * 2 < once, "{twice} of {once}");
}

#[test]
fn a_queue_that_stands_is_kept_short() {
    let queue_time = Duration::from_secs(1);
    let limits = Limits { in_flight: 1, queue_time, ..Limits::default() };
    let outcome = run(&Scenario { limits, requests: 100_000, warm_up: 0.1, ..fleet(4, 1.5) });
    assert!(outcome.shed > 20_000, "{} shed", outcome.shed);
    // A tenth of the time in the queue, and the work.
    assert!(outcome.p95 < 0.17, "{}", outcome.p95);
    assert!((outcome.throughput / (4.0 * SERVICE_RATE) - 1.0).abs() < 0.02);
}

#[test]
fn overload_is_shed_and_the_rest_still_served() {
    let limits = Limits { worker_queue: 10, ..Limits::default() };
    let outcome = run(&Scenario { limits, requests: 200_000, ..fleet(4, 3.0) });
    assert!((outcome.throughput / (4.0 * SERVICE_RATE) - 1.0).abs() < 0.02);
    let share = outcome.shed as f64 / 180_000.0;
    assert!((share - 2.0 / 3.0).abs() < 0.02, "{share} was shed");
    let limits = Limits { deadline: Duration::from_millis(100), ..Limits::default() };
    let outcome = run(&Scenario { limits, requests: 200_000, ..fleet(4, 3.0) });
    assert!(outcome.late > 0 && outcome.max <= 0.1, "nothing late counts as answered");
}

#[test]
fn batches_that_cost_little_raise_the_capacity() {
    let batch = Batch { max: 8, delay: Duration::from_millis(2), marginal: 0.1 };
    let service = ServiceTime::Constant(MEAN);
    let scenario = Scenario { batch, service, requests: 100_000, ..fleet(2, 3.0) };
    let outcome = run(&scenario);
    assert_eq!(outcome.errors(), 0);
    assert!(outcome.p99 < 0.1, "p99 {}", outcome.p99);
    assert!(outcome.utilisation < 1.0);
}

#[test]
fn a_lone_request_waits_for_company_exactly_as_long_as_allowed() {
    let batch = Batch { max: 8, delay: Duration::from_millis(5), marginal: 1.0 };
    let service = ServiceTime::Constant(MEAN);
    let scenario = Scenario { batch, service, requests: 1000, uniform: true, ..fleet(1, 0.1) };
    let outcome = run(&scenario);
    assert!((outcome.mean - 0.015).abs() < 1e-6, "{}", outcome.mean);
}

/// Equal gaps at a number of workers' worth of work, one part after another: seconds, workers.
fn staged(parts: &[(u64, f64)]) -> Vec<u64> {
    let (mut start, mut instants) = (0.0, Vec::new());
    for (seconds, workers) in parts {
        let end = start + *seconds as f64;
        let gap = 1.0 / (workers * SERVICE_RATE);
        let mut at = start;
        while at < end {
            instants.push(Duration::from_secs_f64(at));
            at += gap;
        }
        start = end;
    }
    let nanos = |at: Duration| u64::try_from(at.as_nanos()).expect("minutes");
    instants.into_iter().map(nanos).collect()
}

#[test]
fn a_balancer_that_follows_its_load_starts_workers_for_a_step_and_stops_them_after_it() {
    let instants = staged(&[(60, 0.2), (60, 3.0), (180, 0.2)]);
    let range = "1..8".parse().expect("a range");
    let elastic = Elastic {
        range,
        start_up: Duration::from_secs(1),
        shrink_after: Duration::from_secs(30),
        latency: None,
    };
    let scenario = Scenario {
        elastic: Some(elastic),
        requests: instants.len() as u64,
        instants: Some(instants.into()),
        lasts: Duration::from_mins(5),
        warm_up: 0.0,
        policy: Kind::P2c,
        ..fleet(1, 0.2)
    };
    let outcome = run(&scenario);
    assert_eq!(outcome.errors(), 0);
    let changes = &outcome.changes;
    let grown: Vec<_> = changes.iter().filter(|change| change.to > change.from).collect();
    assert!((60.5..62.5).contains(&grown[0].at), "{grown:?}");
    assert!(grown.iter().all(|change| (60.0..75.0).contains(&change.at)), "{grown:?}");
    let most = changes.iter().map(|change| change.to).max();
    assert!((4..=8).contains(&most.unwrap_or_default()), "{changes:?}");
    let stopped: Vec<_> = changes.iter().filter(|change| change.to < change.from).collect();
    // What it had started too many goes after the calm time, and never what the load needs.
    assert!(stopped.iter().all(|change| change.at >= 90.0), "{stopped:?}");
    let mut under_load = stopped.iter().filter(|change| change.at < 120.0);
    assert!(under_load.all(|change| change.to >= 5), "{stopped:?}");
    assert_eq!(stopped.last().map(|change| change.to), Some(1), "{changes:?}");
    assert!((1.2..5.0).contains(&outcome.mean_workers), "{}", outcome.mean_workers);
    assert_eq!(&run(&scenario).changes, changes, "the same seed, the same run");
}

#[test]
fn a_fleet_that_scales_grows_to_what_its_load_needs() {
    let scaling = Scaling {
        min: 2,
        max: 40,
        target: 0.6,
        every: Duration::from_secs(15),
        boot: Duration::from_mins(1),
    };
    // 12 workers' worth of work arrives at 2 workers: 20 are right at 60 %.
    let rate = 12.0 * SERVICE_RATE;
    let scenario = Scenario {
        scaling: Some(scaling),
        rate,
        policy: Kind::P2c,
        warm_up: 0.8,
        requests: 2_000_000,
        ..fleet(2, 0.5)
    };
    let outcome = run(&scenario);
    assert!((15.0..30.0).contains(&outcome.mean_workers), "{}", outcome.mean_workers);
    assert!(outcome.p99 < 0.2, "calm in the end: {}", outcome.p99);
}

#[test]
fn a_plan_agrees_with_theory_where_theory_has_an_answer() {
    // Random over n workers is n M/M/1 queues: p99 = ln(100) / (mu - rate / n).
    let (rate, p99) = (500.0, 0.1);
    let exact = rate / (SERVICE_RATE - 100.0_f64.ln() / p99);
    let args = plan::Args {
        rate,
        p99: Duration::from_secs_f64(p99),
        policy: vec![Kind::Random, Kind::P2c],
        service: ServiceTime::Exponential(MEAN),
        service_from: None,
        threads: 1,
        network: Duration::ZERO,
        seed: 1,
        json: true,
    };
    let mut out = Vec::new();
    plan::run(&args, &mut out).expect("planned");
    let needs: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    let workers = |i: usize| needs[i]["workers"].as_f64().expect("an answer");
    for need in needs.as_array().expect("one for each policy") {
        let tried = need["tried"].as_array().expect("tries");
        let answer =
            tried.iter().find(|it| it["workers"] == need["workers"]).expect("it was tried");
        assert!(answer["doubt"].is_null(), "no answer of a run that is too short: {answer}");
    }
    assert!((workers(0) - exact.ceil()).abs() < 0.5, "{} instead of {exact}", workers(0));
    assert!(workers(1) < workers(0) * 0.8, "p2c needs far fewer: {}", workers(1));
}

#[test]
fn an_overloaded_fleet_answers_no_more_than_it_can_and_has_no_steady_state() {
    let outcome = run(&Scenario { requests: 100_000, ..fleet(2, 1.5) });
    assert!((outcome.throughput / 200.0 - 1.0).abs() < 0.02, "{}", outcome.throughput);
    assert!(outcome.is_overloaded && outcome.doubt.as_ref().unwrap().contains("150 %"));
    let calm = run(&Scenario { requests: 400_000, ..fleet(2, 0.5) });
    assert_eq!((calm.is_overloaded, calm.doubt), (false, None));
}

#[test]
fn a_run_that_is_too_short_for_its_load_says_so() {
    // At 99 % an empty queue takes some 40,000 services to be full, and 1,000 of them take turns.
    let outcome = run(&Scenario { requests: 1_000_000, warm_up: 0.1, ..fleet(1, 0.99) });
    assert!(outcome.is_too_short(), "the mean is off by {:?}", outcome.mean_error);
    let scenario = Scenario { requests: 500_000, warm_up: 0.0, ..fleet(1000, 0.95) };
    let outcome = run(&Scenario { removes_transient: true, ..scenario });
    assert!(outcome.is_too_short(), "{} left out, {:?}", outcome.left_out, outcome.mean_error);
}

#[test]
fn what_is_left_out_at_the_start_is_what_was_on_its_way() {
    // From empty to steady takes some 20,000 of these requests.
    let short = Scenario { warm_up: 0.0, requests: 400_000, ..fleet(200, 0.8) };
    let outcome = run(&Scenario { removes_transient: true, ..short.clone() });
    assert!(outcome.left_out > 0 && outcome.doubt.is_none(), "{:?}", outcome.doubt);
    let exact =
        MarkovQueue { arrival_rate: short.rate / 200.0, service_rate: SERVICE_RATE, servers: 1 };
    let error = |outcome: &SimulatedRun| (outcome.mean / exact.mean() - 1.0).abs();
    assert!(error(&outcome) < 0.03 && error(&outcome) < error(&run(&short)), "{}", outcome.mean);
}

#[test]
fn what_cannot_be_simulated_is_refused() {
    for wrong in [
        fleet(10_001, 0.5),
        Scenario { rate: f64::NAN, ..fleet(1, 0.5) },
        Scenario { warm_up: 1.0, ..fleet(1, 0.5) },
        Scenario { threads: 0, ..fleet(1, 0.5) },
        Scenario { slow: Some((2, 1.0)), ..fleet(1, 0.5) },
    ] {
        assert!(simulate(&wrong).is_err(), "{wrong:?}");
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_request_ends_exactly_once_whatever_happens(
        (workers, threads, policy) in (1..6_usize, 1..3_usize, kind()),
        (utilisation, seed, network) in (0.1..2.5_f64, any::<u64>(), 0..20_u64),
        (max, delay, marginal) in (1..5_usize, 0..20_u64, 0.0..1.5_f64),
        (worker_queue, in_flight, balancer_queue) in (0..8_usize, 1..6_u32, 0..8_usize),
        (deadline, attempts) in (5..200_u64, 1..4_u8),
        crashes in prop::option::of((100..5000_u64, 0..3000_u64)),
        scales in any::<bool>(),
    ) {
        let millis = Duration::from_millis;
        let scaling = Scaling { min: 1, max: 8, target: 0.5, every: millis(500), boot: millis(700) };
        let crash = |(every, repair)| Crashes { every: millis(every), repair: millis(repair) };
        let scenario = Scenario {
            threads, policy, seed,
            network: millis(network),
            requests: 2000,
            warm_up: 0.0,
            batch: Batch { max, delay: millis(delay), marginal },
            limits: Limits {
                worker_queue, in_flight, balancer_queue, attempts,
                deadline: millis(deadline),
                queue_time: millis(100),
                slow_start: millis(300),
            },
            crashes: crashes.map(crash),
            scaling: scales.then_some(scaling),
            ..fleet(workers, utilisation)
        };
        let outcome = run(&scenario);
        prop_assert_eq!(outcome.answered + outcome.errors(), 2000);
        prop_assert!(outcome.max <= millis(deadline).as_secs_f64());
        prop_assert!(outcome.utilisation <= 1.0 + 1e-6, "{}", outcome.utilisation);
        prop_assert!(crashes.is_some() || outcome.failed == 0);
    }
}

/// A run of one worker, whose gaps and costs are spread evenly: 88 % busy.
fn recorded_run() -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "warm_up,scheduled_us,sent_us,done_us,latency_ms,service_time_ms,outcome,endpoint,worker_ms,queue_ms\n",
    );
    let (mut now, mut free) = (0, 0);
    for number in 0..2000_u32 {
        now += number * 7919 % 25_000;
        let cost = 2000 + number * 104_729 % 18_000;
        let begins = free.max(now);
        free = begins + cost;
        let [latency, cost, queue] =
            [free - now, cost, begins - now].map(|micros| f64::from(micros) / 1e3);
        writeln!(text, "false,{now},{now},{free},{latency},{latency},200,w1,{cost},{queue}")
            .expect("a string takes any text");
    }
    text
}

#[test]
fn a_run_of_one_worker_is_found_again_when_it_is_held_against_itself() {
    use clap::Parser as _;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("samples.csv"), recorded_run()).unwrap();
    let path = folder.path().to_str().unwrap();
    let words = ["client", "simulate", "--workers", "1", "--policy", "p2c", "--json", "--against"];
    let cli = client::cli::Cli::try_parse_from(words.into_iter().chain([path])).unwrap();
    let mut out = Vec::new();
    client::run(&cli, &mut out).unwrap();
    let held: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let lines = held.as_array().unwrap();
    assert_eq!(lines.len(), 3);
    for line in lines {
        assert!(line["error"].as_f64().unwrap().abs() < 0.01, "{line}");
        assert!((line["busy"].as_f64().unwrap() - 0.88).abs() < 0.03, "{line}");
    }
}

/// How fast worker `number` works in the two seconds of number `part`: in a quarter of them at a quarter
/// of its speed.
fn speed(number: u64, part: u64) -> f64 {
    let draw = (part * 4 + number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    if draw.is_multiple_of(4) { 0.25 } else { 1.0 }
}

/// When a worker is done with `work` that it begins at `now`.
fn done(number: u64, mut now: f64, mut work: f64) -> f64 {
    loop {
        let part = Duration::from_secs_f64(now).as_secs() / 2;
        let (speed, end) = (speed(number, part), (part + 1) as f64 * 2.0);
        if work <= speed * (end - now) {
            return now + work / speed;
        }
        work -= speed * (end - now);
        now = end;
    }
}

/// A run of four workers, each of which is slow for a while now and then, with picks as `policy` makes
/// them.
fn run_with_slow_moments(policy: Kind) -> String {
    use rand::{RngExt as _, SeedableRng as _};
    use std::fmt::Write as _;
    let mut text = String::from(
        "warm_up,scheduled_us,sent_us,done_us,latency_ms,service_time_ms,outcome,endpoint,worker_ms,queue_ms\n",
    );
    let mut rng = rand::rngs::ChaCha12Rng::seed_from_u64(5);
    let mut ends: [Vec<f64>; 4] = Default::default();
    let mut now = 0.0_f64;
    for _ in 0..5000 {
        now += -(1.0 - rng.random::<f64>()).ln() / 60.0;
        for ends in &mut ends {
            ends.retain(|end| *end > now);
        }
        let one = rng.random_range(0..4_usize);
        let other = (one + rng.random_range(1..4_usize)) % 4;
        let is_longer = ends[one].len() > ends[other].len();
        let picked = if policy == Kind::P2c && is_longer { other } else { one };
        let begins = ends[picked].last().copied().unwrap_or(now);
        let end = done(picked as u64, begins, rng.random_range(0.018..0.022));
        ends[picked].push(end);
        let [at, end_us] = [now, end].map(|it| (it * 1e6).round());
        let [latency, cost, queue] = [end - now, end - begins, begins - now].map(|it| it * 1e3);
        writeln!(text, "false,{at},{at},{end_us},{latency},{latency},200,w{picked},{cost},{queue}")
            .expect("a string takes any text");
    }
    text
}

#[test]
fn a_prediction_says_how_far_off_it_is_for_the_run_that_it_is_made_of() {
    use clap::Parser as _;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("samples.csv"), run_with_slow_moments(Kind::P2c)).unwrap();
    let path = folder.path().to_str().unwrap();
    let words = ["simulate", "--requests", "20000", "--policy", "p2c", "--service-from", path];
    let cli = client::cli::Cli::try_parse_from(["client"].into_iter().chain(words)).unwrap();
    let mut out = Vec::new();
    client::run(&cli, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("p2c of 4 workers, held against the run"), "{text}");
    assert!(["p50 ", "p95 ", "p99 "].iter().all(|it| text.contains(it)), "{text}");
}
