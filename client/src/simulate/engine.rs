//! The simulation itself: requests arrive, are placed, computed on and answered, in virtual time.
//!
//! Arrivals, service times, picks and crashes each have their own random stream, so that two
//! policies under the same seed see the same requests at the same times. A request draws its
//! service time when it arrives, for the same reason.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use fleet::elastic::SAMPLE;
use fleet::{
    Attempt, Changes, Dispatch, Failure, Fault, Lost, Permit, Refusal, Scope, Step, Waiter, Wanted,
    Why,
};
use http::StatusCode;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Distribution, Exp1};
use tokio::time::Instant;

use super::clock::{Clock, Event, Nanos, Verdict, VirtualTime, nanos, nanos_of};
use super::elastic::Elasticity;
use super::fleet::{Fleet, has_ejected};
use super::outcome::{Ending, SimulatedRun, Tally};
use super::requests::{Request, Requests, StatusReply};
use super::scenario::Scenario;
use super::service::Sampler;
use super::worker::Worker;

/// Time between two probes of the balancer.
const PROBE_EVERY: Nanos = 2_000_000_000;
/// The balancer notices within this time that an ejection is over.
const TICK: Nanos = 250_000_000;

/// Runs a scenario to the end of its last request.
pub fn simulate(scenario: &Scenario) -> anyhow::Result<SimulatedRun> {
    scenario.check()?;
    let mut world = World::new(scenario);
    world.run();
    Ok(world.into_outcome())
}

struct World<'a> {
    scenario: &'a Scenario,
    clock: Clock,
    fleet: Fleet,
    workers: Vec<Worker>,
    requests: Requests,
    /// Requests that waited in the balancer and whose turn has come.
    called: Arc<Called>,
    /// Number of requests that wait there, and number of waits so far.
    waiting: usize,
    waits: u32,
    is_tick_planned: bool,
    tally: Tally,
    sampler: Sampler,
    network: Nanos,
    deadline: Nanos,
    arrivals: Xoshiro256PlusPlus,
    services: Xoshiro256PlusPlus,
    faults: Xoshiro256PlusPlus,
    scaler: super::scaler::Scaler,
    elasticity: Option<Elasticity>,
    scratch: Vec<u32>,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let stream = |number: u64| {
            Xoshiro256PlusPlus::seed_from_u64(
                scenario.seed.wrapping_mul(0x9e37_79b9).wrapping_add(number),
            )
        };
        let clock = Clock::new();
        let mut world = Self {
            scenario,
            fleet: Fleet::new(scenario, stream(3), clock.time()),
            clock,
            workers: Vec::with_capacity(scenario.workers),
            requests: Requests::default(),
            called: Arc::default(),
            waiting: 0,
            waits: 0,
            is_tick_planned: false,
            tally: Tally::new(scenario),
            sampler: scenario.service.sampler(),
            network: nanos_of(scenario.network),
            deadline: nanos_of(scenario.limits.deadline),
            arrivals: stream(1),
            services: stream(2),
            faults: stream(4),
            scaler: super::scaler::Scaler::new(scenario.workers),
            elasticity: scenario.elastic.map(|elastic| Elasticity::new(elastic, scenario.threads)),
            scratch: Vec::new(),
        };
        for _ in 0..scenario.workers {
            world.add_worker();
        }
        world.fleet_changed();
        if scenario.crashes.is_some() {
            world.clock.after(PROBE_EVERY, Event::Probe);
        }
        if let Some(scaling) = scenario.scaling {
            world.clock.after(nanos_of(scaling.every), Event::Scale);
        }
        if world.elasticity.is_some() {
            world.clock.after(nanos_of(SAMPLE), Event::Sample);
        }
        world
    }

    /// Adds the next worker.
    fn add_worker(&mut self) {
        let number = u32::try_from(self.workers.len()).expect("at most MAX_WORKERS");
        self.workers.push(Worker::new(number, self.scenario));
        self.plan_crash(number);
    }

    fn fleet_changed(&mut self) {
        self.tally.fleet_size(self.clock.now(), self.fleet.active());
    }

    fn plan_crash(&mut self, worker: u32) {
        if let Some(crashes) = self.scenario.crashes {
            let unit: f64 = Exp1.sample(&mut self.faults);
            self.clock.after(nanos(crashes.every.as_secs_f64() * unit), Event::Crash { worker });
        }
    }

    fn run(&mut self) {
        let mut next_arrival = self.due(0);
        for number in 0..self.scenario.requests {
            while let Some(event) = self.clock.advance(next_arrival) {
                self.handle(event);
            }
            next_arrival = self.due(number + 1);
            self.arrive(number);
        }
        let end = nanos_of(self.scenario.lasts);
        while let Some(event) = self.clock.advance(end) {
            self.handle(event);
        }
        self.tally.stop_counting(self.clock.now(), self.worked());
        // Only until no request is in flight: crashes and probes would continue for ever.
        while self.requests.len() > 0 {
            let Some(due) = self.clock.next_due() else { break };
            if let Some(event) = self.clock.advance(due) {
                self.handle(event);
            }
        }
    }

    /// When request `number` arrives, given that its predecessor arrives now.
    fn due(&mut self, number: u64) -> Nanos {
        let Some(instants) = &self.scenario.instants else { return self.clock.now() + self.gap() };
        usize::try_from(number).ok().and_then(|n| instants.get(n)).copied().unwrap_or(Nanos::MAX)
    }

    fn gap(&mut self) -> Nanos {
        let mean = 1.0 / self.scenario.rate;
        if self.scenario.uniform {
            return nanos(mean);
        }
        let unit: f64 = Exp1.sample(&mut self.arrivals);
        nanos(mean * unit)
    }

    fn handle(&mut self, event: Event) {
        self.happen(event);
        self.go_on();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Reach { request } => self.reach(request),
            Event::Finish { worker, executor, life } => self.finish(worker, executor, life),
            Event::Close { worker, life } => {
                if self.workers[worker as usize].life == life {
                    self.workers[worker as usize].closed();
                    self.start(worker);
                }
            }
            Event::Answer { request, verdict } => self.answer(request, verdict),
            Event::Crash { worker } => self.crash(worker),
            Event::Repair { worker } => self.repair(worker),
            Event::GiveUp { request, wait } => self.give_up(request, wait),
            Event::Probe => self.probe(),
            Event::Tick => self.tick(),
            Event::Scale => self.scale(),
            Event::Sample => self.sample(),
            Event::Join => {
                match &mut self.elasticity {
                    Some(elasticity) => elasticity.joined(),
                    None => self.scaler.joined(),
                }
                self.add_worker();
                self.fleet.add(self.clock.instant());
                self.fleet_changed();
                self.fleet.view.serve_waiting(self.clock.instant());
            }
        }
    }

    fn arrive(&mut self, number: u64) {
        if self.tally.begins_with(number) {
            self.tally.begin(self.clock.now(), self.worked());
        }
        let cost = self.scenario.cost_of(number);
        let demand = cost.unwrap_or_else(|| self.sampler.draw(&mut self.services));
        let now = self.clock.now();
        let left = Duration::from_nanos(self.deadline);
        let max_tries = u32::from(self.scenario.limits.attempts);
        let dispatch = Dispatch::new(self.clock.instant() + left, max_tries);
        let request = self.requests.insert(Request {
            number,
            key: self.fleet.key(),
            arrived: now,
            queued: now,
            demand,
            dispatch,
            attempt: None,
            waiter: None,
            wait: 0,
            reported: 0,
        });
        let it = &self.requests[request];
        let step = it.dispatch.admit(&self.fleet.view, &wanted(it), self.clock.instant());
        self.go(request, step);
        self.go_on();
    }

    /// Carries out what was decided about a request.
    fn go(&mut self, request: u32, step: Step<StatusReply>) {
        match step {
            Step::Send(permit, why) => {
                if why != Why::First {
                    self.tally.retried();
                }
                self.send(request, permit);
            }
            Step::Wait(waiter, until) => self.wait(request, waiter, until),
            Step::Pending => unreachable!("there is one attempt at a time"),
            Step::End(result) => self.end(request, ending(&result)),
        }
    }

    fn send(&mut self, request: u32, permit: Permit) {
        let (now, time) = (self.clock.instant(), self.clock.time());
        let spent = self.clock.now() - self.requests[request].arrived;
        let left = Duration::from_nanos(self.deadline.saturating_sub(spent));
        let scope = Scope::Everything.within(left, Duration::from_nanos(self.deadline));
        self.requests[request].attempt = Some(Attempt::new(permit, scope, now, time));
        if self.network == 0 {
            self.reach(request);
        } else {
            self.clock.after(self.network, Event::Reach { request });
        }
    }

    fn wait(&mut self, request: u32, waiter: Waiter, until: Instant) {
        self.waits = self.waits.wrapping_add(1);
        self.waiting += 1;
        let it = &mut self.requests[request];
        (it.waiter, it.wait) = (Some(waiter), self.waits);
        let left = self.clock.nanos_at(until).saturating_sub(self.clock.now());
        self.clock.after(left, Event::GiveUp { request, wait: self.waits });
        // Its turn may have come already.
        self.called.call(request);
    }

    /// Continues with the waiting requests whose turn has come.
    fn go_on(&mut self) {
        while self.waiting > 0
            && let Some(request) = self.called.next()
        {
            let it = &mut self.requests[request];
            let Some(waiter) = &it.waiter else { continue };
            let waker = Waker::from(Arc::new(Call { request, called: Arc::clone(&self.called) }));
            if let Some(turn) = waiter.take_turn(&waker) {
                self.admitted(request, turn);
            }
        }
    }

    /// Ends the wait of a request that has waited for as long as it may.
    fn give_up(&mut self, request: u32, wait: u32) {
        let it = &self.requests[request];
        if it.waiter.is_some() && it.wait == wait {
            self.admitted(request, Err(Refusal::Overloaded));
        }
    }

    fn admitted(&mut self, request: u32, turn: Result<Permit, Refusal>) {
        self.waiting -= 1;
        self.requests[request].waiter = None;
        let it = &self.requests[request];
        let step = it.dispatch.admitted(&self.fleet.view, &wanted(it), turn, self.clock.instant());
        self.go(request, step);
    }

    fn reach(&mut self, request: u32) {
        let worker = self.worker_of(request);
        self.requests[request].queued = self.clock.now();
        let it = &mut self.workers[worker as usize];
        if !it.is_alive {
            self.reply(request, Verdict::Refused);
        } else if it.queued() >= self.scenario.limits.worker_queue {
            self.reply(request, Verdict::Busy);
        } else if self.requests[request].dispatch.take_send(self.clock.instant()).is_ok() {
            it.push(request);
            self.start(worker);
        } else {
            self.reply(request, Verdict::Late);
        }
    }

    fn worker_of(&self, request: u32) -> u32 {
        let attempt = self.requests[request].attempt.as_ref();
        attempt.expect("a request that was sent has an endpoint").endpoint().id().0
    }

    /// Starts batches on a worker for as long as it can take any.
    fn start(&mut self, worker: u32) {
        let deadline = self.deadline;
        loop {
            let it = &mut self.workers[worker as usize];
            if !it.can_start(&self.requests, &mut self.clock) {
                return;
            }
            let Some(first) = it.pop() else { return };
            if self.clock.now() - self.requests[first].arrived > deadline {
                self.reply(first, Verdict::Late);
                continue;
            }
            it.start(first, &self.requests, &mut self.clock);
        }
    }

    fn finish(&mut self, worker: u32, executor: u32, life: u32) {
        let it = &mut self.workers[worker as usize];
        if it.life != life {
            return;
        }
        let mut done = std::mem::take(&mut self.scratch);
        it.finish(executor, &mut done);
        self.start(worker);
        for request in done.drain(..) {
            self.reply(request, Verdict::Good);
        }
        self.scratch = done;
    }

    /// Sends an answer back to the balancer. A refusal always goes through the clock; otherwise a
    /// fleet of dead workers would be tried in an endless recursion.
    fn reply(&mut self, request: u32, verdict: Verdict) {
        if self.fleet.wants_reports() {
            let worker = self.worker_of(request);
            let queued = self.workers[worker as usize].queued();
            self.requests[request].reported = u32::try_from(queued).unwrap_or(u32::MAX);
        }
        if self.network == 0 && verdict == Verdict::Good {
            self.answer(request, verdict);
        } else {
            self.clock.after(self.network, Event::Answer { request, verdict });
        }
    }

    fn answer(&mut self, request: u32, verdict: Verdict) {
        let now = self.clock.instant();
        let it = &mut self.requests[request];
        let is_late = self.clock.now() - it.arrived > self.deadline;
        let mut attempt = it.attempt.take().expect("a request that was sent has an endpoint");
        let worker = attempt.endpoint().id();
        let is_gone = !self.workers[worker.0 as usize].is_alive;
        let result = match verdict {
            Verdict::Good if is_late => Err(Failure::Deadline),
            Verdict::Good => Ok(StatusReply(StatusCode::OK)),
            Verdict::Busy => Err(Failure::Status(StatusReply(StatusCode::SERVICE_UNAVAILABLE))),
            Verdict::Refused => Err(Failure::Unreached(Fault::Refused)),
            Verdict::Broken => Err(Failure::Broken { fault: Fault::Reset, is_gone }),
            Verdict::Late => Err(Failure::Deadline),
        };
        if self.fleet.wants_reports() && matches!(verdict, Verdict::Good | Verdict::Busy) {
            attempt.endpoint().report_queue(it.reported, now);
        }
        let changes = self.note(&mut attempt, &result);
        // Frees its place for the next request before anything else is decided about this one.
        drop(attempt);
        if has_ejected(&changes) {
            self.plan_tick();
        }
        let active = self.requests.len() as u64;
        let it = &self.requests[request];
        let view = &self.fleet.view;
        let step = it.dispatch.ended(view, &wanted(it), Some(worker), result, active, now);
        self.go(request, step);
    }

    /// Records what an attempt reveals about its endpoint.
    fn note(
        &self,
        attempt: &mut Attempt<VirtualTime>,
        result: &Result<StatusReply, Failure<StatusReply>>,
    ) -> Changes {
        let (pool, now) = (self.fleet.pool(), self.clock.instant());
        match result {
            Ok(StatusReply(status)) | Err(Failure::Status(StatusReply(status))) => {
                attempt.answered(pool, *status, now).1.ignore();
                attempt.completed(pool, now)
            }
            Err(failure) => {
                attempt.failed(pool, failure, now).map(|it| it.changes).unwrap_or_default()
            }
        }
    }

    fn plan_tick(&mut self) {
        if !std::mem::replace(&mut self.is_tick_planned, true) {
            self.clock.after(TICK, Event::Tick);
        }
    }

    fn tick(&mut self) {
        self.is_tick_planned = false;
        if self.fleet.tick(self.clock.instant()) {
            self.plan_tick();
        }
        self.fleet.view.serve_waiting(self.clock.instant());
    }

    fn end(&mut self, request: u32, ending: Ending) {
        let it = &self.requests[request];
        if it.dispatch.was_denied() {
            self.tally.retry_denied(it.number);
        }
        self.tally.ended(it.number, it.arrived, self.clock.now(), ending);
        self.requests.remove(request);
    }

    fn crash(&mut self, worker: u32) {
        let Some(crashes) = self.scenario.crashes else { return };
        let mut lost = Vec::new();
        self.workers[worker as usize].crash(self.clock.now(), &mut lost);
        self.clock.after(nanos_of(crashes.repair), Event::Repair { worker });
        for request in lost {
            self.reply(request, Verdict::Broken);
        }
    }

    /// Brings a crashed worker back; from now on it may crash again.
    fn repair(&mut self, worker: u32) {
        self.workers[worker as usize].is_alive = true;
        self.plan_crash(worker);
    }

    fn probe(&mut self) {
        let now = self.clock.instant();
        for (number, worker) in self.workers.iter().enumerate() {
            self.fleet.probed(number, worker.is_alive, now);
        }
        self.clock.after(PROBE_EVERY, Event::Probe);
        self.fleet.view.serve_waiting(now);
    }

    fn scale(&mut self) {
        let Some(scaling) = self.scenario.scaling else { return };
        let change = self.scaler.decide(&scaling, self.worked(), self.scenario.threads);
        for _ in 0..change.start {
            self.clock.after(nanos_of(scaling.boot), Event::Join);
        }
        for _ in 0..change.stop {
            self.fleet.drain_last(self.clock.instant());
        }
        self.fleet_changed();
        self.clock.after(nanos_of(scaling.every), Event::Scale);
    }

    /// Samples the fleet as the balancer does, and starts or stops workers when that is due.
    fn sample(&mut self) {
        let Some(elasticity) = &mut self.elasticity else { return };
        let now = self.clock.instant();
        let change = elasticity.sample(&self.fleet, self.clock.now(), now);
        for _ in 0..change.start {
            self.clock.after(elasticity.start_up(), Event::Join);
        }
        for _ in 0..change.stop {
            self.fleet.drain_last(now);
        }
        if change.stop > 0 {
            self.fleet_changed();
        }
        self.clock.after(nanos_of(SAMPLE), Event::Sample);
    }

    /// Nanoseconds that the fleet has computed so far.
    fn worked(&self) -> Nanos {
        self.workers.iter().map(|worker| worker.worked(self.clock.now())).sum()
    }

    fn into_outcome(self) -> SimulatedRun {
        let changes = self.elasticity.map(Elasticity::into_changes).unwrap_or_default();
        let outcome = self.tally.into_outcome(self.scenario.threads, self.fleet.ejections());
        // A load in stages has no steady state against which to judge the figures.
        let has_steady_state = self.scenario.lasts.is_zero();
        let doubt = outcome.doubt.filter(|_| has_steady_state || outcome.is_overloaded);
        SimulatedRun { changes, doubt, ..outcome }
    }
}

/// What a request needs of an endpoint: any will do.
fn wanted(request: &Request) -> Wanted<'static> {
    Wanted { model: None, count: usize::MAX, key: Some(request.key), avoided: &[] }
}

fn ending(result: &Result<StatusReply, Lost>) -> Ending {
    match result {
        Ok(StatusReply(StatusCode::OK)) => Ending::Answered,
        // Refused by a worker that was too busy, or by the balancer on its behalf.
        Ok(_) | Err(Lost::Refused(Refusal::Busy | Refusal::Overloaded)) => Ending::Shed,
        Err(Lost::Deadline) => Ending::Late,
        Err(Lost::Refused(_) | Lost::Upstream(_) | Lost::Exhausted) => Ending::Failed,
    }
}

/// Requests that waited and whose turn has come.
#[derive(Debug, Default)]
struct Called(Mutex<Vec<u32>>);

impl Called {
    fn call(&self, request: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }

    fn next(&self) -> Option<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// Wakes a waiting request.
#[derive(Debug)]
struct Call {
    request: u32,
    called: Arc<Called>,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.called.call(self.request);
    }
}
