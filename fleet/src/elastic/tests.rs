//! Scaling decisions under all kinds of load, on a model of the processes that they start and stop.

use proptest::prelude::*;

use super::*;

const PERIOD: Duration = Duration::from_millis(500);
const SHRINK_AFTER: Duration = Duration::from_secs(30);
/// Answers per second of one worker.
const RATE: f64 = 50.0;

fn rules(min: usize, max: usize) -> Rules {
    let range = WorkerRange { min, max };
    Rules { range, threads: 1, shrink_after: SHRINK_AFTER, latency: None }
}

/// A fleet of single-threaded workers, and the requests that wait for them.
struct Model {
    rules: Rules,
    scaler: Scaler,
    now: Instant,
    /// How long a worker takes to start; `None` if it never does.
    start: Option<Duration>,
    /// When each worker starts to take requests.
    ready: Vec<Option<Instant>>,
    /// When the stopping workers end.
    stopping: Vec<Instant>,
    waiting: f64,
    last: Observation,
}

impl Model {
    fn new(rules: Rules, start: Duration) -> Self {
        let now = Instant::now();
        let ready = vec![Some(now); rules.range.min];
        let (scaler, last) = (Scaler::default(), Observation::default());
        let (stopping, waiting) = (Vec::new(), 0.0);
        Self { rules, scaler, now, start: Some(start), ready, stopping, waiting, last }
    }

    /// Advances by one period and observes the fleet under a load, given as the number of workers
    /// that it keeps busy.
    fn observe(&mut self, load: f64) -> Observation {
        self.now += PERIOD;
        self.stopping.retain(|end| *end > self.now);
        let available = self.ready.iter().flatten().filter(|ready| **ready <= self.now).count();
        let capacity = available as f64;
        let seconds = PERIOD.as_secs_f64();
        let before = self.waiting / (RATE * seconds);
        let busy = (load + before).min(capacity);
        self.waiting = ((load + before - busy) * RATE * seconds).min(1000.0);
        Observation {
            available,
            starting: self.ready.iter().flatten().count() - available,
            failing: self.ready.iter().filter(|ready| ready.is_none()).count(),
            stopping: self.stopping.len(),
            busy,
            waiting: self.waiting,
            ..Observation::default()
        }
    }

    /// Simulates half a second under a load.
    fn step(&mut self, load: f64) -> Decision {
        let seen = self.observe(load);
        let (scaler, decision) = self.scaler.next(&seen, &self.rules, self.now);
        (self.scaler, self.last) = (scaler, seen);
        match decision {
            Decision::Keep(_) => {}
            Decision::Grow(count, _) => {
                let ready = self.start.map(|start| self.now + start);
                self.ready.extend(vec![ready; count]);
            }
            Decision::Shrink(_) => {
                let idle = self.ready.iter().position(Option::is_none);
                let gone = self.ready.remove(idle.unwrap_or(self.ready.len() - 1));
                self.stopping.extend(gone.map(|_| self.now + Duration::from_secs(1)));
            }
        }
        decision
    }

    /// Runs for this long under a load; returns the decisions that changed something.
    fn run(&mut self, time: Duration, load: f64) -> Vec<Decision> {
        let steps = time.as_millis() / PERIOD.as_millis();
        let all = (0..steps).map(|_| self.step(load));
        all.filter(|decision| !matches!(decision, Decision::Keep(_))).collect()
    }

    /// Number of steps until a decision changes something.
    fn steps_until_change(&mut self, load: f64, most: usize) -> usize {
        (1..=most)
            .find(|_| !matches!(self.step(load), Decision::Keep(_)))
            .expect("something is done in time")
    }
}

fn check(model: &Model, decision: Decision, before: &Observation) {
    let (range, seen) = (model.rules.range, &model.last);
    let processes = model.ready.len() + model.stopping.len();
    assert!(processes <= range.max, "{processes} of at most {}: {decision:?}", range.max);
    assert!(model.ready.len() >= range.min, "{} workers: {decision:?}", model.ready.len());
    match decision {
        Decision::Keep(_) => {}
        Decision::Grow(_, Reason::BelowMinimum) => assert!(seen.size() < range.min),
        Decision::Grow(count, _) => {
            assert!(seen.failing == 0, "another one although one does not start");
            assert!(count <= seen.available, "more than doubled: {seen:?}");
        }
        Decision::Shrink(_) => {
            let takes_requests = seen.failing + seen.out == 0;
            let left = seen.available - usize::from(takes_requests);
            assert!(left >= 1, "the last one that takes requests: {seen:?} after {before:?}");
            assert!(seen.starting + seen.stopping == 0, "while others come or go: {seen:?}");
        }
    }
}

/// Loads in sequence: for how many seconds each lasts, and how many workers it keeps busy.
fn histories() -> impl Strategy<Value = Vec<(u64, f64)>> {
    prop::collection::vec((1..90_u64, 0.0..12.0), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn there_are_never_too_few_workers_nor_too_many_and_the_last_one_stays(
        history in histories(),
        min in 1..4_usize,
        more in 0..8_usize,
        start in 0..8_000_u64,
        fails in prop::collection::vec(any::<bool>(), 12),
    ) {
        let mut model = Model::new(rules(min, min + more), Duration::from_millis(start));
        for ((seconds, load), fails) in history.into_iter().zip(fails) {
            // Workers that fail to start in one part of the history start in another.
            model.start = (!fails).then(|| Duration::from_millis(start));
            if !fails {
                let ready = model.now + Duration::from_millis(start);
                model.ready.iter_mut().for_each(|worker| *worker = worker.or(Some(ready)));
            }
            for _ in 0..2 * seconds {
                let before = model.last;
                let decision = model.step(load);
                check(&model, decision, &before);
            }
        }
    }

    #[test]
    fn a_load_that_stays_the_same_ends_in_one_size(
        history in histories(),
        load in 0.0..12.0,
        max in 1..12_usize,
        start in 0..8_000_u64,
    ) {
        let mut model = Model::new(rules(1, max), Duration::from_millis(start));
        for (seconds, load) in history {
            model.run(Duration::from_secs(seconds), load);
        }
        // The longest calm time, and as long again for each further one.
        model.run(SHRINK_AFTER * 16 * 6, load);
        let changes = model.run(Duration::from_hours(2), load);
        prop_assert!(changes.is_empty(), "{changes:?} of {} workers", model.ready.len());
        let size = model.ready.len() as f64;
        prop_assert!(size >= load.min(max as f64) - 1e-9, "{size} workers for {load}");
        prop_assert!(size <= (load / LOW).ceil() + 1.0, "{size} workers for {load}");
    }

    #[test]
    fn a_sudden_load_is_met_within_two_seconds_and_the_time_of_a_start(
        load in 1.0..8.0,
        start in 0..5_000_u64,
    ) {
        let mut model = Model::new(rules(1, 16), Duration::from_millis(start));
        prop_assert!(model.run(Duration::from_mins(2), 0.05).is_empty());
        let until_started = model.steps_until_change(load, 1000);
        prop_assert!(PERIOD * u32::try_from(until_started).expect("few") <= Duration::from_secs(2));
        // Doubled each time, and seen to be full again each time.
        let growth = Duration::from_millis(start) + Duration::from_secs(4);
        model.run(growth * 4, load);
        prop_assert!(model.last.available as f64 >= load, "{:?}", model.last);
    }

    #[test]
    fn a_worker_goes_only_after_the_calm_time(load in 2.0..8.0, rest in 0.0..0.3) {
        let mut model = Model::new(rules(1, 16), Duration::from_millis(200));
        model.run(Duration::from_mins(2), load);
        prop_assert!(model.ready.len() > 2);
        let calm = 2 * usize::try_from(SHRINK_AFTER.as_secs()).expect("small");
        let until_stopped = model.steps_until_change(rest, 10 * calm);
        prop_assert!(until_stopped > calm, "after {until_stopped} half seconds");
        model.run(SHRINK_AFTER * 10, rest);
        prop_assert_eq!(model.ready.len(), 1);
    }
}

#[test]
fn a_worker_that_does_not_start_counts_and_no_other_is_tried_meanwhile() {
    let mut model = Model::new(rules(1, 8), Duration::ZERO);
    model.start = None;
    let changes = model.run(Duration::from_mins(10), 4.0);
    assert!(matches!(changes[..], [Decision::Grow(1, _)]), "{changes:?}");
    assert_eq!(model.step(4.0), Decision::Keep(Reason::NoStart));
    // Without load, the failing worker is stopped first.
    model.waiting = 0.0;
    let changes = model.run(Duration::from_mins(2), 0.1);
    assert!(matches!(changes[..], [Decision::Shrink(_)]), "{changes:?}");
    assert_eq!(model.ready.len(), 1);
    assert!(model.ready[0].is_some(), "the one that takes requests stays");
}

#[test]
fn a_worker_that_was_missed_stays_longer_the_next_time() {
    let mut model = Model::new(rules(1, 4), Duration::from_millis(200));
    let mut gone = Vec::new();
    for _ in 0..40 {
        model.run(Duration::from_secs(45), 1.5);
        let changes = model.run(Duration::from_secs(45), 0.2);
        gone.push(changes.iter().filter(|it| matches!(it, Decision::Shrink(_))).count());
    }
    assert!(gone[0] > 0, "{gone:?}");
    assert_eq!(gone[5..], [0; 35], "waves of 90 s start and stop no workers in the end: {gone:?}");
}

#[test]
fn a_long_queue_grows_the_fleet_sooner_than_a_high_utilisation() {
    let mut full = Model::new(rules(1, 8), Duration::ZERO);
    assert_eq!(full.steps_until_change(0.9, 100), 4, "after a second and a half");
    let mut queue = Model::new(rules(1, 8), Duration::ZERO);
    assert_eq!(queue.steps_until_change(3.0, 100), 2, "after half a second");
}

#[test]
fn a_queue_that_is_worked_off_is_no_reason_for_more_workers() {
    let rules = rules(1, 8);
    let (mut scaler, mut now) = (Scaler::default(), Instant::now());
    let mut decide = |waiting: f64| {
        now += PERIOD;
        let seen = Observation { available: 2, busy: 1.4, waiting, ..Observation::default() };
        let (next, decision) = scaler.next(&seen, &rules, now);
        scaler = next;
        decision
    };
    decide(100.0);
    for waiting in [90.0, 80.0, 70.0, 60.0, 50.0] {
        assert!(matches!(decide(waiting), Decision::Keep(_)), "{waiting} wait");
    }
    decide(51.0);
    assert!(matches!(decide(60.0), Decision::Grow(2, Reason::Queue(_))));
}

#[test]
fn slow_answers_grow_the_fleet_only_while_workers_have_something_to_do() {
    let latency = Some(Duration::from_millis(100));
    let rules = Rules { latency, ..rules(1, 8) };
    let decide = |busy: f64, latency: u64| {
        let latency = Some(Duration::from_millis(latency));
        let seen = Observation { available: 2, busy, latency, ..Observation::default() };
        let (mut scaler, mut now, mut last) = (Scaler::default(), Instant::now(), None);
        for _ in 0..6 {
            now += PERIOD;
            let (next, decision) = scaler.next(&seen, &rules, now);
            (scaler, last) = (next, Some(decision));
        }
        last.expect("six decisions")
    };
    let Decision::Grow(1, reason) = decide(0.8, 150) else { panic!("no growth") };
    assert_eq!(reason.to_string(), "95 % of the requests take up to 150 ms");
    assert!(
        matches!(decide(0.2, 150), Decision::Keep(_)),
        "two idle workers are slow: a third too"
    );
    assert!(matches!(decide(0.8, 90), Decision::Keep(_)));
}

#[test]
fn a_crashed_worker_is_made_up_for_while_there_is_more_to_do_than_the_others_can() {
    let rules = rules(2, 4);
    let (mut scaler, mut now) = (Scaler::default(), Instant::now());
    let seen = Observation { available: 1, out: 1, busy: 1.0, ..Observation::default() };
    let decisions: Vec<Decision> = (0..5)
        .map(|_| {
            now += PERIOD;
            let (next, decision) = scaler.next(&seen, &rules, now);
            scaler = next;
            decision
        })
        .collect();
    assert!(matches!(decisions[3], Decision::Grow(1, _)), "{decisions:?}");
}

#[test]
fn nothing_is_concluded_from_a_time_that_was_not_seen() {
    let mut model = Model::new(rules(1, 4), Duration::ZERO);
    model.run(Duration::from_mins(1), 1.8);
    assert!(model.ready.len() > 1);
    model.run(SHRINK_AFTER / 2, 0.1);
    model.now += Duration::from_mins(10);
    let changes = model.run(SHRINK_AFTER / 2, 0.1);
    assert!(changes.is_empty(), "{changes:?}");
    model.step(0.9);
    model.now += Duration::from_mins(10);
    assert!(matches!(model.step(3.0), Decision::Keep(_)));
}

#[test]
fn ranges_are_read_as_they_are_written() {
    for (text, min, max) in [("4", 4, 4), ("1..8", 1, 8), (" 2 .. 2 ", 2, 2), ("0", 0, 0)] {
        assert_eq!(text.parse(), Ok(WorkerRange { min, max }), "{text}");
    }
    for text in ["", "x", "1..", "..4", "3..2", "0..4", "1..2..3", "-1..2", "1.5..2"] {
        let error = text.parse::<WorkerRange>().expect_err(text);
        assert!(error.starts_with(&format!("{text:?}")), "{error}");
    }
    assert_eq!(WorkerRange { min: 1, max: 8 }.to_string(), "1..8");
    assert_eq!(WorkerRange::fixed(3).to_string(), "3");
}
