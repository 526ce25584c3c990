//! The simulation itself: requests arrive, are placed, computed on and answered, in virtual time.
//!
//! Arrivals, service times, picks and crashes each have a random stream of their own, so that two
//! policies under the same seed meet the same requests at the same times. A request draws its
//! service time when it arrives, for the same reason.

use std::collections::VecDeque;

use balancer::upstream::{self, EndpointId};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Distribution, Exp1};

use super::clock::{Clock, Event, Nanos, Verdict, nanos, nanos_of};
use super::fleet::{Fleet, Pick};
use super::outcome::{Ending, Outcome, Tally};
use super::requests::{Request, Requests};
use super::scenario::Scenario;
use super::service::Sampler;
use super::worker::Worker;

/// Time between two probes of the balancer.
const PROBE_EVERY: Nanos = 2_000_000_000;
/// At most this share of the requests under way may be retries, and always a few.
const RETRY_SHARE: usize = 5;
const MIN_RETRIES: usize = 3;

/// Runs a scenario to the end of its last request.
pub fn simulate(scenario: &Scenario) -> anyhow::Result<Outcome> {
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
    /// Requests that wait in the balancer for an endpoint with room.
    waiting: VecDeque<u32>,
    tally: Tally,
    sampler: Sampler,
    network: Nanos,
    deadline: Nanos,
    arrivals: Xoshiro256PlusPlus,
    services: Xoshiro256PlusPlus,
    picks: Xoshiro256PlusPlus,
    faults: Xoshiro256PlusPlus,
    retrying: usize,
    scaler: super::scaler::Scaler,
    scratch: Vec<u32>,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let stream = |number: u64| {
            Xoshiro256PlusPlus::seed_from_u64(
                scenario.seed.wrapping_mul(0x9e37_79b9).wrapping_add(number),
            )
        };
        let limits = &scenario.limits;
        let mut world = Self {
            scenario,
            clock: Clock::new(),
            fleet: Fleet::new(scenario.policy, limits.slow_start, limits.in_flight),
            workers: Vec::with_capacity(scenario.workers),
            requests: Requests::default(),
            waiting: VecDeque::new(),
            tally: Tally::new(scenario),
            sampler: scenario.service.sampler(),
            network: nanos_of(scenario.network),
            deadline: nanos_of(limits.deadline),
            arrivals: stream(1),
            services: stream(2),
            picks: stream(3),
            faults: stream(4),
            retrying: 0,
            scaler: super::scaler::Scaler::new(scenario.workers),
            scratch: Vec::new(),
        };
        for _ in 0..scenario.workers {
            world.add_worker(false);
        }
        world.fleet_changed();
        if scenario.crashes.is_some() {
            world.clock.after(PROBE_EVERY, Event::Probe);
        }
        if let Some(scaling) = scenario.scaling {
            world.clock.after(nanos_of(scaling.every), Event::Scale);
        }
        world
    }

    /// Adds the next worker to the fleet.
    fn add_worker(&mut self, is_cold: bool) {
        let number = u32::try_from(self.workers.len()).expect("at most MAX_WORKERS");
        self.workers.push(Worker::new(number, self.scenario));
        self.fleet.add(self.clock.instant(), is_cold);
        self.plan_crash(number);
    }

    fn fleet_changed(&mut self) {
        self.fleet.refresh();
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
        self.tally.stop_counting(self.clock.now(), self.worked());
        // What is under way comes to its end; crashes and probes would go on for ever.
        while self.requests.len() > 0 {
            let Some(due) = self.clock.next_due() else { break };
            if let Some(event) = self.clock.advance(due) {
                self.handle(event);
            }
        }
    }

    /// When request `number` arrives, the one before it arriving now.
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
            Event::Repair { worker } => self.workers[worker as usize].is_alive = true,
            Event::Probe => self.probe(),
            Event::Scale => self.scale(),
            Event::Join => {
                self.scaler.joined();
                self.add_worker(true);
                self.fleet_changed();
                self.serve_waiting();
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
        let request = Request {
            number,
            arrived: now,
            began: now,
            queued: now,
            demand,
            attempts: 0,
            guard: None,
        };
        let request = self.requests.insert(request);
        self.place(request, None);
    }

    /// Gives a request to an endpoint, or lets it wait for one.
    fn place(&mut self, request: u32, avoided: Option<EndpointId>) {
        match self.fleet.pick(avoided, self.clock.instant(), &mut self.picks) {
            Pick::Taken(guard) => self.send(request, guard),
            Pick::Full
                if avoided.is_none()
                    && self.waiting.len() < self.scenario.limits.balancer_queue =>
            {
                self.waiting.push_back(request);
            }
            Pick::Full => self.end(request, Ending::Shed),
            Pick::Nobody => self.end(request, Ending::Failed),
        }
    }

    fn send(&mut self, request: u32, guard: upstream::InFlight) {
        let it = &mut self.requests[request];
        it.guard = Some(guard);
        it.attempts += 1;
        it.began = self.clock.now();
        if self.network == 0 {
            self.reach(request);
        } else {
            self.clock.after(self.network, Event::Reach { request });
        }
    }

    fn reach(&mut self, request: u32) {
        let worker = self.worker_of(request);
        self.requests[request].queued = self.clock.now();
        let it = &mut self.workers[worker as usize];
        if !it.is_alive {
            self.reply(request, Verdict::Broken);
        } else if it.queued() >= self.scenario.limits.worker_queue {
            self.reply(request, Verdict::Busy);
        } else {
            it.push(request);
            self.start(worker);
        }
    }

    fn worker_of(&self, request: u32) -> u32 {
        let guard = self.requests[request].guard.as_ref();
        guard.expect("a request that was sent has an endpoint").endpoint().id().0
    }

    /// Begins batches on a worker while it can.
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

    /// Sends an answer back to the balancer. A refusal always takes the way through the clock, or a
    /// fleet of dead workers would be tried in one endless recursion.
    fn reply(&mut self, request: u32, verdict: Verdict) {
        if self.network == 0 && verdict == Verdict::Good {
            self.answer(request, verdict);
        } else {
            self.clock.after(self.network, Event::Answer { request, verdict });
        }
    }

    fn answer(&mut self, request: u32, verdict: Verdict) {
        let it = &mut self.requests[request];
        let guard = it.guard.take().expect("a request that was sent has an endpoint");
        let (attempts, elapsed) = (it.attempts, self.clock.now() - it.began);
        let endpoint = std::sync::Arc::clone(guard.endpoint());
        drop(guard);
        if attempts > 1 {
            self.retrying -= 1;
        }
        let elapsed = std::time::Duration::from_nanos(elapsed);
        let (id, now) = (endpoint.id(), self.clock.instant());
        match verdict {
            Verdict::Good | Verdict::Late => {
                endpoint.observe(elapsed, now);
                if endpoint.is_troubled() {
                    self.fleet.apply(id.0, upstream::Event::Succeeded, now);
                }
                let late = self.clock.now() - self.requests[request].arrived > self.deadline;
                self.end(request, if late { Ending::Late } else { Ending::Answered });
            }
            Verdict::Busy => self.end(request, Ending::Shed),
            Verdict::Broken => {
                endpoint.observe_failure(elapsed, now);
                self.fleet.apply_failure(id.0, now);
                self.retry(request, id);
            }
        }
        self.serve_waiting();
    }

    fn retry(&mut self, request: u32, failed: EndpointId) {
        if self.requests[request].attempts >= self.scenario.limits.attempts {
            return self.end(request, Ending::Failed);
        }
        let budget = (self.requests.len() / RETRY_SHARE).max(MIN_RETRIES);
        if self.retrying >= budget {
            self.tally.retry_denied(self.requests[request].number);
            return self.end(request, Ending::Failed);
        }
        self.retrying += 1;
        self.tally.retried();
        let before = self.requests.len();
        self.place(request, Some(failed));
        // A retry that found no endpoint ended at once.
        self.retrying -= before - self.requests.len();
    }

    /// Places waiting requests while there is room.
    fn serve_waiting(&mut self) {
        while let Some(&request) = self.waiting.front() {
            if self.clock.now() - self.requests[request].arrived > self.deadline {
                self.waiting.pop_front();
                self.end(request, Ending::Late);
                continue;
            }
            match self.fleet.pick(None, self.clock.instant(), &mut self.picks) {
                Pick::Taken(guard) => {
                    self.waiting.pop_front();
                    self.send(request, guard);
                }
                Pick::Full | Pick::Nobody => return,
            }
        }
    }

    fn end(&mut self, request: u32, ending: Ending) {
        let it = &self.requests[request];
        self.tally.ended(it.number, it.arrived, self.clock.now(), ending);
        self.requests.remove(request);
    }

    fn crash(&mut self, worker: u32) {
        let Some(crashes) = self.scenario.crashes else { return };
        let mut lost = Vec::new();
        self.workers[worker as usize].crash(self.clock.now(), &mut lost);
        self.clock.after(nanos_of(crashes.repair), Event::Repair { worker });
        self.plan_crash(worker);
        for request in lost {
            self.reply(request, Verdict::Broken);
        }
    }

    fn probe(&mut self) {
        let now = self.clock.instant();
        for (number, worker) in (0..).zip(&self.workers) {
            let event = if worker.is_alive {
                upstream::Event::ProbePassed
            } else {
                upstream::Event::ProbeFailed
            };
            self.fleet.apply(number, event, now);
        }
        self.clock.after(PROBE_EVERY, Event::Probe);
        self.serve_waiting();
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

    /// Nanoseconds that the fleet has computed so far.
    fn worked(&self) -> Nanos {
        self.workers.iter().map(|worker| worker.worked(self.clock.now())).sum()
    }

    fn into_outcome(self) -> Outcome {
        self.tally.into_outcome(self.scenario.threads, self.fleet.ejections())
    }
}
