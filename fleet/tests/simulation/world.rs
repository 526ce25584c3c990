//! One history: machines, requests and faults, driven by a queue of events.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Duration;

use fleet::policy::Kind;
use fleet::{
    Attempt, Changes, Dispatch, Endpoint, EndpointId, Event as Happening, Failure, Fault, Fleet,
    Hedging, Limits, Lost, MAX_TRIES, Permit, Pool, Refusal, RetryBudget, Scope, Settings, Step,
    View, Waiter, Why,
};
use http::StatusCode;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;
use wire::ModelIndexEntry;

use crate::checks;
use crate::machine::{Machine, Mode, Outcome};
use crate::request::{Answer, Held, Request, Running, VirtualTime, Waiting};

/// A connection that takes longer fails.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Faults and arrivals end then.
const TROUBLE: Duration = Duration::from_secs(6);
/// So long after that all endpoints are available again: the longest ejection, and the probes of one
/// that was down.
const AFTERMATH: Duration = Duration::from_secs(4);
/// Share of the requests that may be retried at a time.
pub(crate) const RETRY_PERCENT: u32 = 20;
const MODELS: [&str; 3] = ["mnist", "mobilenet_v2", "oracle"];

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    /// The connection of an attempt is there, or not.
    Connect {
        request: usize,
        attempt: u32,
    },
    /// What became of an attempt that was sent.
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
    /// An attempt that is connecting takes long, or too long.
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
    /// Since when all is well.
    over_since: Option<Instant>,
    /// Whether a request goes on whose turn has come.
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

    /// Runs to the end, and tells what happened if that was asked for.
    pub(crate) fn run(mut self) -> Vec<String> {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            // What is overdue after the clock stood still happens now.
            self.time.0.set(at.max(self.now()));
            self.note(|| format!("{event:?}"));
            let generation = self.pool().snapshot().generation();
            self.happen(event);
            self.go_on();
            if self.pool().snapshot().generation() != generation {
                // As the balancer does now and then.
                self.view.serve_waiting(self.now());
                self.go_on();
            }
            checks::after_every_step(&self);
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

    /// Makes the machines that are listed the pool.
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
                self.plan(Duration::from_millis(250), Event::Tick);
            }
            Event::Sweep => self.sweep(),
            Event::EndOfTrouble => self.end_of_trouble(),
        }
    }

    fn arrive(&mut self) {
        let number = self.arrived;
        self.arrived += 1;
        if self.arrived < self.arrivals {
            let gap = if self.rng.random_bool(0.3) { 0 } else { self.rng.random_range(0..150) };
            self.plan(Duration::from_millis(gap), Event::Arrive);
        }
        let time = Duration::from_millis(self.rng.random_range(0..3000));
        let time = if self.is_calm { Duration::from_mins(1) } else { time };
        let model = match self.rng.random_range(0..6) {
            0..3 => None,
            3 => Some(""),
            4 => Some(MODELS[self.rng.random_range(0..MODELS.len())]),
            _ => Some(["mnist/1", "mnist/7", "unheard"][self.rng.random_range(0..3)]),
        };
        let count =
            if self.rng.random_bool(0.8) { usize::MAX } else { self.rng.random_range(1..4) };
        let deadline = self.now() + time;
        let request = Request {
            number,
            model,
            count,
            key: self.rng.random(),
            deadline,
            dispatch: Dispatch::new(deadline, MAX_TRIES),
            running: Vec::new(),
            waiting: None,
            sent_to: Vec::new(),
            failed_on: Vec::new(),
            is_paid: false,
            has_second: false,
            has_waited: false,
            has_detour: false,
        };
        self.plan(time, Event::Deadline { request: number });
        if !self.is_calm && self.rng.random_bool(0.1) {
            let patience = Duration::from_millis(self.rng.random_range(0..200));
            self.plan(patience, Event::Leave { request: number });
        }
        let step = request.dispatch.admit(&self.view, &request.wanted(), self.now());
        self.requests.insert(number, request);
        self.go(number, step);
    }

    /// Does what was decided about a request.
    fn go(&mut self, request: usize, step: Step<Answer>) {
        self.note(|| format!("  {request}: {}", shown(&step)));
        match step {
            Step::Send(permit, why) => self.begin(request, permit, why),
            Step::Wait(waiter, until) => self.wait(request, waiter, until),
            Step::Pending => checks::something_goes_on(&self.requests[&request]),
            Step::End(result) => self.end(request, &result),
        }
    }

    fn begin(&mut self, number: usize, permit: Permit, why: Why) {
        checks::before_an_attempt(self, number, &permit, why);
        self.attempts += 1;
        let (attempt, now) = (self.attempts, self.now());
        let endpoint = Arc::clone(permit.endpoint());
        let machine = self.machine_of(&endpoint);
        let was_idle = self.rng.random() && self.requests[&number].dispatch.may_use_idle();
        let scope = if self.is_calm { Scope::Everything } else { Scope::NotLateness };
        let (_, count) = &self.endpoints[&endpoint.id()];
        let held = Held::new(Attempt::new(permit, scope, now, self.time.clone()), count);
        let running = Running {
            number: attempt,
            held,
            endpoint: endpoint.id(),
            machine,
            began: now,
            was_idle,
            was_silent: endpoint.is_silent(),
            is_sent: false,
        };
        let it = self.requests.get_mut(&number).expect("it is alive");
        it.running.push(running);
        let connecting = Duration::from_micros(if was_idle { 0 } else { 300 });
        if !was_idle {
            it.dispatch.connects(&endpoint, now);
        }
        if !was_idle && self.machines[machine].mode == Mode::Vanished {
            let (request, patience) = (number, endpoint.connect_patience());
            self.plan(patience, Event::SlowConnect { request, attempt });
            self.plan(CONNECT_LIMIT, Event::NoConnection { request, attempt });
        } else {
            self.plan(connecting, Event::Connect { request: number, attempt });
        }
        if why == Why::First
            && let Some(hedging) = &self.view.fleet().hedging
        {
            // Without the hundred answers that it would take to know better.
            let delay = hedging.begin().unwrap_or(Duration::from_millis(60));
            self.plan(delay, Event::Hedge { request: number, attempt });
        }
    }

    /// The attempt of a request that goes on, with its place among them.
    fn running(&self, request: usize, attempt: u32) -> Option<usize> {
        let it = self.requests.get(&request)?;
        it.running.iter().position(|running| running.number == attempt)
    }

    fn connect(&mut self, request: usize, attempt: u32) {
        let Some(place) = self.running(request, attempt) else { return };
        let now = self.now();
        let it = self.requests.get_mut(&request).expect("it is alive");
        let Running { machine, was_idle, endpoint, .. } = it.running[place];
        it.dispatch.has_connected();
        let is_dead = self.machines[machine].mode == Mode::Dead;
        if is_dead && !was_idle {
            return self.fail(request, attempt, Failure::Unreached(Fault::Refused));
        }
        if let Err(failure) = it.dispatch.take_send(now) {
            return self.fail(request, attempt, failure);
        }
        it.running[place].is_sent = true;
        it.sent_to.push(endpoint);
        checks::when_it_is_sent(it, now);
        let life = self.machines[machine].life;
        // An idle connection may have been closed just now, by an endpoint that is well.
        if is_dead || was_idle && self.rng.random_bool(0.1) {
            return self.broken(request, attempt, Fault::Closed);
        }
        let (outcome, after) = self.machines[machine].mode.outcome(&mut self.rng);
        self.plan(after, Event::Answer { request, attempt, life, outcome });
    }

    /// The connection of an attempt broke.
    fn broken(&mut self, request: usize, attempt: u32, fault: Fault) {
        let Some(place) = self.running(request, attempt) else { return };
        let it = &self.requests[&request];
        let Running { machine, was_idle, .. } = it.running[place];
        let failure = if it.dispatch.broke(fault, was_idle) {
            Failure::Stale { fault, place: None }
        } else {
            Failure::Broken { fault, is_gone: self.machines[machine].mode == Mode::Dead }
        };
        self.fail(request, attempt, failure);
    }

    fn answer(&mut self, request: usize, attempt: u32, life: u32, outcome: Outcome) {
        let Some(place) = self.running(request, attempt) else { return };
        let machine = self.requests[&request].running[place].machine;
        let (status, is_short, is_cut) = match outcome {
            _ if self.machines[machine].life != life => {
                return self.broken(request, attempt, Fault::Reset);
            }
            Outcome::Silence => return,
            Outcome::Reset => return self.broken(request, attempt, Fault::Reset),
            Outcome::Status { status, is_short, is_cut } => (status, is_short, is_cut),
        };
        let (pool, now) = (self.pool(), self.now());
        let it = self.requests.get_mut(&request).expect("it is alive");
        let mut running = it.running.remove(place);
        let code = StatusCode::from_u16(status).expect("a status");
        let (_, changes) = running.held.attempt().answered(&pool, code, now);
        let mut on_its_way = Some(running.held);
        if is_short && let Some(mut held) = on_its_way.take() {
            let completed = held.attempt().completed(&pool, now);
            self.tell(&completed);
        }
        self.tell(&changes);
        let answer = Answer { status, on_its_way };
        if status == 200 {
            if let Some(hedging) = &self.view.fleet().hedging {
                hedging.observe(now.duration_since(running.began));
            }
            self.note(|| format!("  cut: {is_cut}"));
            let step = self.ended(request, running.endpoint, Ok(answer), is_cut);
            self.go(request, step);
        } else {
            let step = self.ended(request, running.endpoint, Err(Failure::Status(answer)), false);
            self.go(request, step);
        }
    }

    /// An attempt came to this end.
    fn ended(
        &mut self,
        request: usize,
        endpoint: EndpointId,
        mut result: Result<Answer, Failure<Answer>>,
        is_cut: bool,
    ) -> Step<Answer> {
        let active = self.requests.len() as u64;
        let stream = self.attempts as usize;
        if let Ok(answer) = &mut result
            && let Some(held) = answer.on_its_way.take()
        {
            // From now on the client reads it, and nothing is decided about it any more.
            self.streams.insert(stream, held);
            let rest = Duration::from_millis(self.rng.random_range(1..50));
            self.plan(rest, Event::Rest { stream, is_cut });
            self.attempts += 1;
        }
        let it = self.requests.get_mut(&request).expect("it is alive");
        let left_no_work = result.as_ref().err().is_some_and(Failure::left_no_work);
        let goes_back = matches!(result, Err(Failure::Stale { place: Some(_), .. }));
        let is_spent = matches!(result, Err(Failure::Spent));
        if result.is_err() && !goes_back && !is_spent {
            it.failed_on.push(endpoint);
        }
        it.is_paid = false;
        let it = &self.requests[&request];
        let (wanted, now) = (it.wanted(), self.now());
        let step = it.dispatch.ended(&self.view, &wanted, Some(endpoint), result, active, now);
        if matches!(step, Step::Send(_, Why::Retry)) && !left_no_work && !is_spent {
            checks::before_a_paid_retry(self, request);
            self.requests.get_mut(&request).expect("it is alive").is_paid = true;
        }
        step
    }

    fn fail(&mut self, request: usize, attempt: u32, failure: Failure<Answer>) {
        let Some(place) = self.running(request, attempt) else { return };
        let (pool, now) = (self.pool(), self.now());
        let it = self.requests.get_mut(&request).expect("it is alive");
        let mut running = it.running.remove(place);
        let notice = running.held.attempt().failed(&pool, &failure, now);
        self.note(|| format!("  {request} on {:?}: {}", running.endpoint, shown_failure(&failure)));
        let failure = if let Failure::Stale { fault, .. } = failure {
            Failure::Stale { fault, place: running.held.into_place() }
        } else {
            drop(running.held);
            failure
        };
        if let Some(notice) = notice {
            self.tell(&notice.changes);
        }
        let step = self.ended(request, running.endpoint, Err(failure), false);
        self.go(request, step);
    }

    fn rest(&mut self, stream: usize, is_cut: bool) {
        let Some(mut held) = self.streams.remove(&stream) else { return };
        let (pool, now) = (self.pool(), self.now());
        if !self.is_calm && self.rng.random_bool(0.1) {
            // The client does not read to the end.
            return;
        }
        let changes = if is_cut {
            let failure = Failure::<Answer>::Broken { fault: Fault::Cut, is_gone: false };
            held.attempt().failed(&pool, &failure, now).map(|it| it.changes).unwrap_or_default()
        } else {
            held.attempt().completed(&pool, now)
        };
        drop(held);
        self.tell(&changes);
    }

    fn wait(&mut self, request: usize, waiter: Waiter, until: Instant) {
        self.waits += 1;
        let (wait, now) = (self.waits, self.now());
        let it = self.requests.get_mut(&request).expect("it is alive");
        checks::before_a_wait(it, until);
        // A rescue or a first attempt avoids nothing; a retry what it has tried, if there is more.
        let avoided = it.failed_on.clone();
        it.has_waited = true;
        it.waiting = Some(Waiting { waiter, number: wait, avoided });
        self.plan(until.saturating_duration_since(now), Event::GiveUp { request, wait });
        self.called.call(request);
    }

    /// Goes on with the requests whose turn has come, in the order in which they came.
    fn go_on(&mut self) {
        let mut called = self.called.take();
        while !called.is_empty() {
            let place = |world: &Self, request: &usize| {
                let waiting = world.requests.get(request).and_then(|it| it.waiting.as_ref());
                waiting.map_or(0, |waiting| waiting.number)
            };
            called.sort_by_key(|request| place(self, request));
            for request in called {
                let Some(it) = self.requests.get(&request) else { continue };
                let Some(waiting) = &it.waiting else { continue };
                let call = Call { request, called: Arc::clone(&self.called) };
                if let Some(turn) = waiting.waiter.take_turn(&Waker::from(Arc::new(call))) {
                    self.admitted(request, turn);
                }
            }
            called = self.called.take();
        }
    }

    fn admitted(&mut self, request: usize, turn: Result<Permit, Refusal>) {
        checks::when_a_turn_comes(self, request, &turn);
        let now = self.now();
        let it = self.requests.get_mut(&request).expect("it is alive");
        it.waiting = None;
        let it = &self.requests[&request];
        let step = it.dispatch.admitted(&self.view, &it.wanted(), turn, now);
        self.is_turn = true;
        self.go(request, step);
        self.is_turn = false;
    }

    fn give_up(&mut self, request: usize, wait: u64) {
        let waiting = self.requests.get(&request).and_then(|it| it.waiting.as_ref());
        if waiting.is_some_and(|waiting| waiting.number == wait) {
            self.admitted(request, Err(Refusal::Overloaded));
        }
    }

    /// Connecting takes long: another endpoint is tried as well.
    fn detour(&mut self, request: usize, attempt: u32) {
        let Some(place) = self.running(request, attempt) else { return };
        let (now, it) = (self.now(), &self.requests[&request]);
        if it.dispatch.connect_due().is_none() || it.has_second {
            return;
        }
        let first = it.running[place].endpoint;
        if let Some(permit) = it.dispatch.detour(&self.view, &it.wanted(), first, now) {
            assert_ne!(permit.endpoint().id(), first, "a detour goes elsewhere");
            let it = self.requests.get_mut(&request).expect("it is alive");
            (it.has_second, it.has_detour) = (true, true);
            self.go(request, Step::Send(permit, Why::Detour));
        }
    }

    fn hedge(&mut self, request: usize, attempt: u32) {
        let Some(place) = self.running(request, attempt) else { return };
        let now = self.now();
        let it = &self.requests[&request];
        if it.has_second {
            return;
        }
        let first = it.running[place].endpoint;
        let permit = it.dispatch.hedge(&self.view, &it.wanted(), first, now);
        if let Some(permit) = permit {
            assert_ne!(permit.endpoint().id(), first, "a hedge goes elsewhere");
            self.requests.get_mut(&request).expect("it is alive").has_second = true;
            self.go(request, Step::Send(permit, Why::Hedge));
        }
    }

    /// Requests whose endpoint has fallen silent look for another.
    fn sweep(&mut self) {
        self.view.serve_waiting(self.now());
        let is_silent = |it: &&Request| {
            let running = it.running.first().filter(|_| !it.has_second && it.waiting.is_none());
            running.is_some_and(|running| {
                !running.was_silent && self.endpoints[&running.endpoint].0.is_silent()
            })
        };
        let silent: Vec<usize> =
            self.requests.values().filter(is_silent).map(|it| it.number).collect();
        for request in silent {
            let now = self.now();
            let it = self.requests.get_mut(&request).expect("it is alive");
            if let Some(step) = it.dispatch.rescue(&self.view, &it.wanted(), now) {
                it.has_second = true;
                self.go(request, step);
            }
        }
        self.plan(Duration::from_millis(50), Event::Sweep);
    }

    fn deadline(&mut self, request: usize) {
        while let Some(attempt) =
            self.requests.get(&request).and_then(|it| it.running.first()).map(|it| it.number)
        {
            self.fail(request, attempt, Failure::Deadline);
        }
    }

    /// The client does not wait any longer: everything of its request is dropped.
    fn leave(&mut self, request: usize) {
        drop(self.requests.remove(&request));
    }

    fn end(&mut self, number: usize, result: &Result<Answer, Lost>) {
        let request = self.requests.remove(&number).expect("a request ends once");
        checks::in_the_end_of_a_request(self, &request, result);
    }

    /// Something goes wrong, or an operator acts.
    fn trouble(&mut self) {
        if self.over_since.is_some() {
            return;
        }
        let gap = Duration::from_millis(self.rng.random_range(50..600));
        self.plan(gap, Event::Trouble);
        let machine = self.rng.random_range(0..self.machines.len());
        let kinds = if self.is_calm { 0..4 } else { 0..14 };
        match self.rng.random_range(kinds) {
            0 | 1 => self.set_drained(machine, !self.machines[machine].is_drained),
            2 => {
                if let Some(endpoint) = self.endpoint_of(machine) {
                    endpoint.set_limit(self.rng.random_range(1..5));
                    self.view.serve_waiting(self.now());
                }
            }
            3 => {
                self.machines[machine].is_listed ^= true;
                self.list();
            }
            4 => {
                // The whole machine stands still: what is due meanwhile happens too late.
                let pause = Duration::from_millis(self.rng.random_range(100..2500));
                self.time.0.set(self.now() + pause);
            }
            5 => {
                let weight = self.rng.random_range(0..3);
                if let Some(endpoint) = self.endpoint_of(machine) {
                    let changes = self.pool().set_weight(&endpoint, weight);
                    self.tell(&changes);
                    self.view.serve_waiting(self.now());
                }
            }
            6..10 => {
                let mode = Mode::any(&mut self.rng);
                self.set_mode(machine, mode);
            }
            _ => self.set_mode(machine, Mode::Well),
        }
    }

    fn set_mode(&mut self, machine: usize, mode: Mode) {
        self.note(|| format!("  machine {machine}: {mode:?}"));
        let it = &mut self.machines[machine];
        let is_restart = mode == Mode::Dead || it.mode == Mode::Dead || it.mode == Mode::Frozen;
        it.mode = mode;
        if !is_restart {
            return;
        }
        it.life += 1;
        let of_machine = |it: &Request| {
            let running = it.running.iter().filter(|one| one.machine == machine && one.is_sent);
            running.map(|one| (it.number, one.number)).collect::<Vec<_>>()
        };
        let lost: Vec<_> = self.requests.values().flat_map(of_machine).collect();
        for (request, attempt) in lost {
            let (life, outcome) = (u32::MAX, Outcome::Reset);
            self.plan(Duration::ZERO, Event::Answer { request, attempt, life, outcome });
        }
    }

    fn set_drained(&mut self, machine: usize, is_drained: bool) {
        self.machines[machine].is_drained = is_drained;
        if let Some(endpoint) = self.endpoint_of(machine) {
            let event = if is_drained { Happening::Drain } else { Happening::Undrain };
            let changes = self.pool().apply(&endpoint, event, self.now());
            self.tell(&changes);
            self.view.serve_waiting(self.now());
        }
    }

    /// Every machine is probed, and tells its models if it is well.
    fn probe(&mut self) {
        for machine in 0..self.machines.len() {
            let Some(endpoint) = self.endpoint_of(machine) else { continue };
            let (pool, now) = (self.pool(), self.now());
            let sign = self.machines[machine].mode.probe();
            endpoint.set_mute(sign.is_none());
            let changes = if sign == Some(true) {
                if endpoint.learn_models(entries(&self.machines[machine].models)) {
                    let changes = pool.refresh();
                    self.tell(&changes);
                }
                pool.apply(&endpoint, Happening::ProbePassed, now)
            } else {
                pool.record_failed_probe(&endpoint, false, "no answer", now)
            };
            self.tell(&changes);
        }
        self.view.serve_waiting(self.now());
        self.plan(Duration::from_millis(200), Event::Probe);
    }

    /// From now on all is well.
    fn end_of_trouble(&mut self) {
        self.over_since = Some(self.now());
        self.arrivals = self.arrived;
        for machine in 0..self.machines.len() {
            self.machines[machine].is_listed = true;
            self.set_mode(machine, Mode::Well);
        }
        self.list();
        for machine in 0..self.machines.len() {
            self.set_drained(machine, false);
            if let Some(endpoint) = self.endpoint_of(machine) {
                let changes = self.pool().set_weight(&endpoint, 1);
                self.tell(&changes);
            }
        }
        self.view.serve_waiting(self.now());
    }
}

/// What the pool works by: everything is over soon.
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

fn shown(step: &Step<Answer>) -> String {
    match step {
        Step::Send(permit, why) => format!("{why:?} on {}", permit.endpoint().name()),
        Step::Wait(..) => "waits".to_owned(),
        Step::Pending => "has another attempt".to_owned(),
        Step::End(Ok(answer)) => format!("answered {}", answer.status),
        Step::End(Err(lost)) => format!("lost: {lost:?}"),
    }
}

fn shown_failure(failure: &Failure<Answer>) -> String {
    if let Failure::Status(answer) = failure {
        return format!("status {}", answer.status);
    }
    if let Failure::Stale { fault, .. } = failure {
        return format!("stale: {fault}");
    }
    format!("{failure:?}")
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

/// What wakes a request that waits.
struct Call {
    request: usize,
    called: Arc<Called>,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.called.call(self.request);
    }
}
