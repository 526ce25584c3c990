//! The path of a request: carries out the dispatcher's decisions in virtual time.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use fleet::{
    Attempt, Availability, Dispatch, Endpoint, EndpointId, Failure, Fault, Lost, MAX_TRIES, Permit,
    Refusal, Scope, State, Step, Verdict, Waiter, Why,
};
use http::StatusCode;
use rand::RngExt;
use tokio::time::Instant;

use super::{Call, Event, MODELS, World};
use crate::checks;
use crate::machine::{Mode, Outcome};
use crate::request::{Answer, Held, Request, Running, Waiting};

/// Connecting takes this long.
const CONNECT: Duration = Duration::from_micros(300);
/// A connection that takes longer fails.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

impl World {
    pub(super) fn arrive(&mut self) {
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
            had_untried: false,
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

    /// Carries out the decision about a request.
    pub(super) fn go(&mut self, request: usize, step: Step<Answer>) {
        self.note(|| format!("  {request}: {}", shown(&step)));
        match step {
            Step::Send(permit, why) => self.begin(request, permit, why),
            Step::Wait(waiter, until) => self.wait(request, waiter, until),
            Step::Pending => checks::something_goes_on(&self.requests[&request]),
            Step::End(result) => self.end(request, &result),
        }
    }

    pub(super) fn begin(&mut self, number: usize, permit: Permit, why: Why) {
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
        let connecting = if was_idle { Duration::ZERO } else { CONNECT };
        if !was_idle {
            it.dispatch.connects(&endpoint, now);
            checks::when_it_connects(it, now);
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
            // The delay without the hundred answers that an estimate would take.
            let delay = hedging.begin().unwrap_or(Duration::from_millis(60));
            self.hedgeable += 1;
            self.plan(delay, Event::Hedge { request: number, attempt });
        }
    }

    /// The position of a running attempt among those of its request.
    pub(super) fn running(&self, request: usize, attempt: u32) -> Option<usize> {
        let it = self.requests.get(&request)?;
        it.running.iter().position(|running| running.number == attempt)
    }

    pub(super) fn connect(&mut self, request: usize, attempt: u32) {
        let Some(place) = self.running(request, attempt) else { return };
        let now = self.now();
        let it = self.requests.get_mut(&request).expect("it is alive");
        let Running { machine, was_idle, endpoint, .. } = it.running[place];
        it.dispatch.has_connected();
        if !was_idle {
            self.endpoints[&endpoint].0.observe_connect(CONNECT);
        }
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
    pub(super) fn broken(&mut self, request: usize, attempt: u32, fault: Fault) {
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

    pub(super) fn answer(&mut self, request: usize, attempt: u32, life: u32, outcome: Outcome) {
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
        let endpoint = Arc::clone(running.held.attempt().endpoint());
        let before = endpoint.state();
        let (verdict, changes) = running.held.attempt().answered(&pool, code, now);
        if status == 500 {
            self.count_failure(&endpoint, before);
        } else {
            assert_eq!(endpoint.state(), before, "status {status} is no fault");
        }
        let mut on_its_way = Some(running.held);
        if is_short && let Some(mut held) = on_its_way.take() {
            let completed = held.attempt().completed(&pool, now);
            self.tell(&completed);
            if status != 500 {
                self.failures.remove(&endpoint.id());
            }
        }
        self.tell(&changes);
        let answer = Answer { status, on_its_way };
        if verdict == Verdict::Good {
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

    /// Continues after an attempt ended with this result.
    pub(super) fn ended(
        &mut self,
        request: usize,
        endpoint: EndpointId,
        mut result: Result<Answer, Failure<Answer>>,
        is_cut: bool,
    ) -> Step<Answer> {
        let active = self.requests.len() as u64;
        let is_stale = matches!(result, Err(Failure::Stale { place: Some(_), .. }));
        let stream = self.attempts as usize;
        if let Ok(answer) = &mut result
            && let Some(held) = answer.on_its_way.take()
        {
            // From now on the client reads it, and no more decisions are made about it.
            self.streams.insert(stream, held);
            let rest = Duration::from_millis(self.rng.random_range(1..50));
            self.plan(rest, Event::Rest { stream, is_cut });
            self.attempts += 1;
        }
        let it = self.requests.get_mut(&request).expect("it is alive");
        let left_no_work = match &result {
            Err(Failure::Unreached(_) | Failure::Stale { .. }) => true,
            Err(Failure::Broken { is_gone, .. }) => *is_gone,
            // A worker that is not ready.
            Err(Failure::Status(answer)) => answer.status == 503,
            _ => false,
        };
        let is_spent = matches!(result, Err(Failure::Spent));
        let has_failed = result.is_err() && !is_spent;
        it.is_paid = false;
        it.has_detour &= !it.running.is_empty();
        let it = &self.requests[&request];
        let (wanted, now, was_denied) = (it.wanted(), self.now(), it.dispatch.was_denied());
        let step = it.dispatch.ended(&self.view, &wanted, Some(endpoint), result, active, now);
        if it.dispatch.was_denied() && !was_denied {
            checks::when_a_retry_is_denied(self, request);
        }
        if is_stale && let Step::Send(permit, Why::Reconnect) = &step {
            checks::before_a_reconnect(self, it, endpoint, permit);
        } else if has_failed {
            self.requests.get_mut(&request).expect("it is alive").failed_on.push(endpoint);
        }
        let had_untried = checks::has_untried(self, &self.requests[&request]);
        self.requests.get_mut(&request).expect("it is alive").had_untried = had_untried;
        if matches!(step, Step::Send(_, Why::Retry)) && !left_no_work && !is_spent {
            checks::before_a_paid_retry(self, request);
            self.requests.get_mut(&request).expect("it is alive").is_paid = true;
        }
        step
    }

    pub(super) fn fail(&mut self, request: usize, attempt: u32, failure: Failure<Answer>) {
        let Some(place) = self.running(request, attempt) else { return };
        let (pool, now) = (self.pool(), self.now());
        let it = self.requests.get_mut(&request).expect("it is alive");
        let mut running = it.running.remove(place);
        let endpoint = Arc::clone(running.held.attempt().endpoint());
        let before = endpoint.state();
        let notice = running.held.attempt().failed(&pool, &failure, now);
        match &failure {
            Failure::Unreached(_) | Failure::Broken { .. } => self.count_failure(&endpoint, before),
            // It counts only if no deadline is a client's own.
            Failure::Deadline if self.is_calm => {}
            Failure::Stale { .. }
            | Failure::Deadline
            | Failure::Exhausted
            | Failure::NoRoom(_)
            | Failure::Spent
            | Failure::Status(_) => {
                assert_eq!(endpoint.state(), before, "{failure:?} says nothing about it");
            }
        }
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

    pub(super) fn rest(&mut self, stream: usize, is_cut: bool) {
        let Some(mut held) = self.streams.remove(&stream) else { return };
        let (pool, now) = (self.pool(), self.now());
        let endpoint = Arc::clone(held.attempt().endpoint());
        let before = endpoint.state();
        if !self.is_calm && self.rng.random_bool(0.1) {
            // The client does not read to the end.
            return;
        }
        let changes = if is_cut {
            let failure = Failure::<Answer>::Broken { fault: Fault::Cut, is_gone: false };
            let notice = held.attempt().failed(&pool, &failure, now);
            self.count_failure(&endpoint, before);
            notice.map(|it| it.changes).unwrap_or_default()
        } else {
            self.failures.remove(&endpoint.id());
            held.attempt().completed(&pool, now)
        };
        drop(held);
        self.tell(&changes);
    }

    /// Counts a failed request that is the fault of an endpoint, which was in this state before.
    fn count_failure(&mut self, endpoint: &Endpoint, before: State) {
        *self.failures.entry(endpoint.id()).or_default() += 1;
        checks::after_a_failure(self, endpoint, before);
        if endpoint.state().availability() == Availability::Ejected {
            self.failures.remove(&endpoint.id());
        }
    }

    pub(super) fn wait(&mut self, request: usize, waiter: Waiter, until: Instant) {
        self.waits += 1;
        let (wait, now) = (self.waits, self.now());
        checks::before_a_wait(self, &self.requests[&request], until);
        let it = self.requests.get_mut(&request).expect("it is alive");
        // A rescue or a first attempt avoids nothing; a retry avoids what it tried, if others
        // exist.
        let avoided = it.failed_on.clone();
        it.has_waited = true;
        it.waiting = Some(Waiting { waiter, joined: now, number: wait, avoided });
        if self.pool().queue().waiting() > 0 {
            let is_alone = self.pool().queue().waiting() == 1;
            let since = self.stands_since.filter(|_| !is_alone);
            self.stands_since = since.or(Some(now));
        }
        self.stands_since_at_most.get_or_insert(now);
        self.plan(until.saturating_duration_since(now), Event::GiveUp { request, wait });
        self.called.call(request);
    }

    /// Continues the requests whose turn has come, in the order of their arrival.
    pub(super) fn go_on(&mut self) {
        let mut called = self.called.take();
        while !called.is_empty() {
            let place = |world: &Self, request: &usize| {
                let waiting = world.requests.get(request).and_then(|it| it.waiting.as_ref());
                waiting.map_or(0, |waiting| waiting.number)
            };
            called.sort_by_key(|request| place(self, request));
            for request in called {
                if !self.is_calm && self.rng.random_bool(0.02) {
                    // Its client leaves at this very moment.
                    self.leave(request);
                }
                let Some(it) = self.requests.get(&request) else { continue };
                let Some(waiting) = &it.waiting else { continue };
                let call = Call { request, called: Arc::clone(&self.called) };
                let turn = waiting.waiter.take_turn(&Waker::from(Arc::new(call)));
                if let Some(Err(why)) = &turn {
                    checks::when_it_is_turned_away(self, request, *why);
                }
                if let Some(turn) = turn {
                    self.admitted(request, turn);
                }
            }
            called = self.called.take();
        }
    }

    pub(super) fn admitted(&mut self, request: usize, turn: Result<Permit, Refusal>) {
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

    pub(super) fn give_up(&mut self, request: usize, wait: u64) {
        let waiting = self.requests.get(&request).and_then(|it| it.waiting.as_ref());
        if waiting.is_some_and(|waiting| waiting.number == wait) {
            self.admitted(request, Err(Refusal::Overloaded));
        }
    }

    /// Tries another endpoint as well, because connecting takes long.
    pub(super) fn detour(&mut self, request: usize, attempt: u32) {
        let Some(place) = self.running(request, attempt) else { return };
        let (now, it) = (self.now(), &self.requests[&request]);
        if it.dispatch.connect_due().is_none() || it.has_second {
            return;
        }
        let first = it.running[place].endpoint;
        let permit = it.dispatch.detour(&self.view, &it.wanted(), first, now);
        checks::when_connecting_takes_long(self, it, first, permit.as_ref());
        if let Some(permit) = permit {
            let it = self.requests.get_mut(&request).expect("it is alive");
            (it.has_second, it.has_detour) = (true, true);
            self.go(request, Step::Send(permit, Why::Detour));
        }
    }

    pub(super) fn hedge(&mut self, request: usize, attempt: u32) {
        let Some(place) = self.running(request, attempt) else { return };
        let now = self.now();
        let it = &self.requests[&request];
        if it.has_second {
            return;
        }
        let first = it.running[place].endpoint;
        let permit = it.dispatch.hedge(&self.view, &it.wanted(), first, now);
        if let Some(permit) = permit {
            self.hedges += 1;
            assert!(self.hedges * 20 <= self.hedgeable, "more than one in twenty is hedged");
            self.requests.get_mut(&request).expect("it is alive").has_second = true;
            self.go(request, Step::Send(permit, Why::Hedge));
        }
    }

    /// Requests whose endpoint has fallen silent look for another.
    pub(super) fn sweep(&mut self) {
        while self.view.serve_waiting(self.now()) {}
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
            let step = it.dispatch.rescue(&self.view, &it.wanted(), now);
            checks::when_its_endpoint_is_silent(it, now, step.is_some());
            if let Some(step) = step {
                it.has_second = true;
                self.go(request, step);
            }
        }
        self.plan(Duration::from_millis(50), Event::Sweep);
    }

    pub(super) fn deadline(&mut self, request: usize) {
        while let Some(attempt) =
            self.requests.get(&request).and_then(|it| it.running.first()).map(|it| it.number)
        {
            self.fail(request, attempt, Failure::Deadline);
        }
    }

    /// The client stops waiting: its request is dropped with everything that belongs to it.
    pub(super) fn leave(&mut self, request: usize) {
        drop(self.requests.remove(&request));
    }

    pub(super) fn end(&mut self, number: usize, result: &Result<Answer, Lost>) {
        let request = self.requests.remove(&number).expect("a request ends once");
        checks::in_the_end_of_a_request(self, &request, result);
    }
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
