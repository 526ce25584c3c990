//! One history: machines, requests and faults, driven by a queue of events.

mod requests;
mod trouble;

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Wake;
use std::time::Duration;

use fleet::policy::Kind;
use fleet::{
    Changes, Endpoint, EndpointId, Failure, Fault, Fleet, Hedging, Limits, Pool, RetryBudget,
    Settings, View,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;
use wire::ModelIndexEntry;

use crate::checks;
use crate::machine::{Machine, Mode, Outcome};
use crate::request::{Held, Request, VirtualTime};

/// When faults and arrivals end.
const TROUBLE: Duration = Duration::from_secs(6);
/// How long after that all endpoints are available again: the longest ejection, and the probes of
/// an endpoint that was down.
const AFTERMATH: Duration = Duration::from_secs(4);
/// Percentage of the requests that may be in a retry concurrently.
pub(crate) const RETRY_PERCENT: u32 = 20;
const MODELS: [&str; 3] = ["mnist", "mobilenet_v2", "oracle"];

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    /// The connection of an attempt is established, or fails.
    Connect {
        request: usize,
        attempt: u32,
    },
    /// The outcome of an attempt that was sent.
    Answer {
        request: usize,
        attempt: u32,
        life: u32,
        outcome: Outcome,
    },
    /// The rest of an answer that the client has begun to read.
    Rest {
        stream: usize,
        is_cut: bool,
    },
    /// Connecting takes long, or too long.
    SlowConnect {
        request: usize,
        attempt: u32,
    },
    NoConnection {
        request: usize,
        attempt: u32,
    },
    Hedge {
        request: usize,
        attempt: u32,
    },
    Deadline {
        request: usize,
    },
    GiveUp {
        request: usize,
        wait: u64,
    },
    Leave {
        request: usize,
    },
    Trouble,
    Probe,
    Tick,
    Sweep,
    EndOfTrouble,
}

/// A history.
pub(crate) struct World {
    rng: SmallRng,
    time: VirtualTime,
    start: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    planned: u64,
    pub(crate) view: View<SmallRng, VirtualTime>,
    machines: Vec<Machine>,
    /// Whether only operators act.
    pub(crate) is_calm: bool,
    pub(crate) requests: BTreeMap<usize, Request>,
    arrivals: usize,
    arrived: usize,
    attempts: u32,
    waits: u64,
    /// Answers that clients read.
    streams: HashMap<usize, Held>,
    /// Every endpoint there ever was, and the attempts on it.
    pub(crate) endpoints: BTreeMap<EndpointId, (Arc<Endpoint>, Rc<Cell<u32>>)>,
    called: Arc<Called>,
    /// When the trouble ended.
    over_since: Option<Instant>,
    /// Since when requests have been waiting: at the latest, and at the earliest.
    pub(crate) stands_since: Option<Instant>,
    pub(crate) stands_since_at_most: Option<Instant>,
    /// Failures of each endpoint since it last answered well or was ejected.
    pub(crate) failures: HashMap<EndpointId, u32>,
    /// Requests that could be hedged, and those that were.
    hedgeable: usize,
    hedges: usize,
    /// Whether a request whose turn has come is being continued.
    pub(crate) is_turn: bool,
    log: Option<Vec<String>>,
    /// Whether the history is printed as it happens.
    pub(crate) prints: bool,
}

impl World {
    pub(crate) fn new(seed: u64, logs: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let start = Instant::now();
        let time = VirtualTime(Rc::new(Cell::new(start)));
        let settings = settings(&mut rng);
        let pool = Arc::new(Pool::new(settings, start));
        let policy = Kind::ALL[rng.random_range(0..Kind::ALL.len())];
        let hedging = rng.random::<bool>().then(Hedging::default);
        let fleet = Fleet { hedging, ..Fleet::new(pool, policy, RetryBudget::new(RETRY_PERCENT)) };
        let view = View::new(Arc::new(fleet), SmallRng::seed_from_u64(seed ^ 1), time.clone());
        let told = rng.random_range(1..=MODELS.len());
        let machines = (0..rng.random_range(1..6)).map(|number: usize| Machine {
            name: format!("worker{number}"),
            models: MODELS[..told].iter().copied().filter(|_| rng.random_bool(0.7)).collect(),
            mode: Mode::Well,
            life: 0,
            is_listed: true,
            is_drained: false,
            was_always_well: true,
        });
        let machines = machines.collect();
        let (is_calm, arrivals) = (seed.is_multiple_of(4), rng.random_range(20..120));
        let mut world = Self {
            rng,
            time,
            start,
            events: BinaryHeap::new(),
            planned: 0,
            view,
            machines,
            is_calm,
            requests: BTreeMap::new(),
            arrivals,
            arrived: 0,
            attempts: 0,
            waits: 0,
            streams: HashMap::new(),
            endpoints: BTreeMap::new(),
            called: Arc::default(),
            over_since: None,
            stands_since: None,
            stands_since_at_most: None,
            failures: HashMap::new(),
            hedgeable: 0,
            hedges: 0,
            is_turn: false,
            log: logs.then(Vec::new),
            prints: false,
        };
        world.list();
        for (after, event) in [
            (20, Event::Arrive),
            (0, Event::Probe),
            (250, Event::Tick),
            (50, Event::Sweep),
            (300, Event::Trouble),
        ] {
            world.plan(Duration::from_millis(after), event);
        }
        world.plan(TROUBLE, Event::EndOfTrouble);
        world
    }

    /// Runs to the end; returns what happened, if it was logged.
    pub(crate) fn run(mut self) -> Vec<String> {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            // Events that are overdue after a pause of the clock happen now.
            self.time.0.set(at.max(self.now()));
            self.note(|| format!("{event:?}"));
            let generation = self.pool().snapshot().generation();
            self.happen(event);
            self.go_on();
            if self.pool().snapshot().generation() != generation {
                // As the balancer does now and then.
                self.view.serve_waiting(self.now());
                self.go_on();
                checks::when_the_pool_has_changed(&self);
            }
            checks::after_every_step(&self);
            if event == Event::Sweep {
                checks::after_a_sweep(&self);
            }
            if self.pool().queue().waiting() == 0 {
                (self.stands_since, self.stands_since_at_most) = (None, None);
            }
            if self.over_since.is_some_and(|since| self.now() >= since + AFTERMATH) {
                break;
            }
        }
        assert!(self.requests.is_empty(), "{:?} have no end", self.requests.keys());
        assert!(self.streams.is_empty());
        checks::in_the_end(&self);
        self.log.unwrap_or_default()
    }

    pub(crate) fn now(&self) -> Instant {
        self.time.0.get()
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let after = self.time.0.get().duration_since(self.start);
            let line = format!("{:9.3} ms {}", after.as_secs_f64() * 1e3, text());
            if self.prints {
                eprintln!("{line}");
            }
            log.push(line);
        }
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((self.now() + after, self.planned, event)));
    }

    fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.view.fleet().pool)
    }

    fn tell(&mut self, changes: &Changes) {
        for change in changes.iter() {
            checks::after_a_change(self, change);
            self.note(|| format!("  {change:?}"));
        }
    }

    /// Replaces the pool's list by the listed machines.
    fn list(&mut self) {
        let address = |number: usize| {
            SocketAddr::from(([10, 0, 0, 1], u16::try_from(number + 1).expect("few")))
        };
        let listed = self.machines.iter().enumerate().filter(|(_, machine)| machine.is_listed);
        let list: Vec<_> = listed.map(|(n, one)| (one.name.clone(), address(n))).collect();
        let changes = self.pool().replace(&list, self.now());
        self.tell(&changes);
        for endpoint in self.pool().snapshot().all() {
            if !self.endpoints.contains_key(&endpoint.id()) {
                let limit = self.rng.random_range(1..5);
                endpoint.set_limit(limit);
                self.endpoints.insert(endpoint.id(), (Arc::clone(endpoint), Rc::default()));
            }
        }
        self.view.serve_waiting(self.now());
    }

    fn endpoint_of(&self, machine: usize) -> Option<Arc<Endpoint>> {
        let name = &self.machines[machine].name;
        self.pool().snapshot().all().iter().find(|one| one.name() == name).map(Arc::clone)
    }

    pub(crate) fn machine_named(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == name)
    }

    fn machine_of(&self, endpoint: &Endpoint) -> usize {
        let found = self.machines.iter().position(|machine| machine.name == endpoint.name());
        found.expect("every endpoint is a machine")
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Connect { request, attempt } => self.connect(request, attempt),
            Event::Answer { request, attempt, life, outcome } => {
                self.answer(request, attempt, life, outcome);
            }
            Event::Rest { stream, is_cut } => self.rest(stream, is_cut),
            Event::SlowConnect { request, attempt } => self.detour(request, attempt),
            Event::NoConnection { request, attempt } => {
                if let Some(it) = self.requests.get(&request) {
                    it.dispatch.has_connected();
                }
                self.fail(request, attempt, Failure::Unreached(Fault::ConnectTimedOut));
            }
            Event::Hedge { request, attempt } => self.hedge(request, attempt),
            Event::Deadline { request } => self.deadline(request),
            Event::GiveUp { request, wait } => self.give_up(request, wait),
            Event::Leave { request } => self.leave(request),
            Event::Trouble => self.trouble(),
            Event::Probe => self.probe(),
            Event::Tick => {
                let changes = self.pool().tick(self.now());
                self.tell(&changes);
                checks::after_a_tick(self);
                self.plan(Duration::from_millis(250), Event::Tick);
            }
            Event::Sweep => self.sweep(),
            Event::EndOfTrouble => self.end_of_trouble(),
        }
    }
}

/// The settings of the pool: all its times are short.
fn settings(rng: &mut SmallRng) -> Settings {
    Settings {
        limits: Limits {
            ejection: Duration::from_millis(500),
            max_ejection: Duration::from_secs(2),
            forgive_after: Duration::from_secs(3),
            ..Limits::default()
        },
        is_probed: rng.random(),
        slow_start: Duration::from_secs(rng.random_range(0..3)),
        queue: rng.random_range(0..40),
        queue_time: Duration::from_millis(rng.random_range(50..2000)),
        ..Settings::default()
    }
}

fn entries(models: &[&str]) -> Vec<ModelIndexEntry> {
    let entry = |name: &&str| ModelIndexEntry {
        name: (*name).to_owned(),
        version: "1".to_owned(),
        state: "READY".to_owned(),
        reason: String::new(),
        labels: Vec::new(),
        takes_images: true,
    };
    models.iter().map(entry).collect()
}

/// Requests that were woken.
#[derive(Debug, Default)]
struct Called(Mutex<Vec<usize>>);

impl Called {
    fn call(&self, request: usize) {
        self.0.lock().expect("no panic meanwhile").push(request);
    }

    fn take(&self) -> Vec<usize> {
        std::mem::take(&mut self.0.lock().expect("no panic meanwhile"))
    }
}

/// Wakes a waiting request.
struct Call {
    request: usize,
    called: Arc<Called>,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.called.call(self.request);
    }
}
