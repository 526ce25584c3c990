//! One sender thread: waits for the next arrival, dispatches it, and never waits for an answer.
//!
//! [`SenderState`] is the state of the thread. It is touched by the loop and by the exchanges that
//! it started, all on this thread; no borrow is held across an await.
//!
//! The time limit of a request counts from the instant at which it was due, wherever it waits, so
//! everything that was sent or queued has ended one time limit after the last arrival, however the
//! service behaves.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context;
use slab::Slab;
use tokio::runtime::LocalOptions;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::arrivals::{self, Arrival, Next};
use super::busy::Busy;
use super::connection::{Acquired, Connection, Pool};
use super::exchange::{self, InFlight};
use super::sieve::Sieve;
use super::timer::Timer;
use super::transport::Destination;
use super::{Measured, Progress, Tally};
use crate::experiment::Trial;
use crate::sample::{Failure, Sample};
use crate::workload::{WireRequest, Workload};

/// Arrivals that are dispatched before the exchanges get a turn, when the schedule is behind.
const BURST: usize = 64;
/// How long before a request is due the thread wakes up.
const AWAKE: Duration = Duration::from_micros(100);
/// A shorter sleep costs about as much processor time as staying awake, with its timer, the switch
/// to the idle task and the wake-up (measured on a virtual machine, where each is expensive).
const NAP: Duration = Duration::from_micros(50);
/// How long a request to stop may go unnoticed.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Number of endpoint names that are told apart: more than any fleet has.
const MAX_NAMES: usize = 10_000;

/// The work of one thread.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) trial: Trial,
    pub(crate) thread: usize,
    pub(crate) destination: Destination,
    pub(crate) workload: Arc<Workload>,
    /// Every item of the workload as sent over HTTP/1.1; empty if the trial does not use that.
    pub(crate) over_http1: Arc<[WireRequest]>,
    pub(crate) progress: Arc<Progress>,
    /// Receives every sample as soon as it is kept, even one that has to make room later.
    pub(crate) kept: Option<mpsc::Sender<Sample>>,
    pub(crate) start: Instant,
}

/// Runs the thread's share of the trial to its end.
pub(crate) fn send_share(assignment: Assignment) -> anyhow::Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .context("starting an event loop")?;
    let state = Rc::new(SenderState::try_new(assignment)?);
    runtime.block_on(dispatch_all(&state))?;
    Ok(Measured { tally: state.tally.take(), sieve: state.sieve.take() })
}

async fn dispatch_all(state: &Rc<SenderState>) -> anyhow::Result<()> {
    let timer = Timer::try_new().context("making a timer")?;
    let (mut burst, mut busy) = (0, Busy::default());
    loop {
        if !busy.has_begun() && state.now() > state.assignment.trial.warm_up {
            busy.begin();
        }
        if let Some(stop) = state.assignment.progress.stopped() {
            let stop = stop.saturating_duration_since(state.assignment.start);
            state.arrivals.borrow_mut().end_at(stop);
        }
        let next = state.arrivals.borrow().peek();
        match next {
            Next::End => break,
            // A user that is busy now is not due again before the end.
            Next::Busy if state.is_over() => break,
            Next::Busy => state.poll().await,
            Next::Due(at) => {
                let now = state.now();
                if at > now {
                    burst = 0;
                    state.expire();
                    busy.rested(state.wait_until(at, &timer).await?);
                    continue;
                }
                let arrival = state.arrivals.borrow_mut().take(now);
                state.dispatch(arrival, now);
                burst += 1;
                if burst % BURST == 0 {
                    state.expire();
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    state.tally.borrow_mut().sender_busy = busy.share();
    state.tally.borrow_mut().close(state.arrivals.borrow().end());
    state.drain().await;
    Ok(())
}

/// The state of a sender thread.
#[derive(Debug)]
pub(crate) struct SenderState {
    pub(crate) assignment: Assignment,
    pub(crate) pool: RefCell<Pool>,
    arrivals: RefCell<arrivals::Share>,
    /// Every request that has not ended.
    in_flight: RefCell<Slab<InFlight>>,
    /// Keys of the requests that wait for a connection.
    backlog: RefCell<VecDeque<usize>>,
    /// Maximum length of the backlog.
    backlog_limit: usize,
    tally: RefCell<Tally>,
    sieve: RefCell<Sieve>,
    names: RefCell<HashSet<Arc<str>>>,
    is_draining: Cell<bool>,
    /// How often a request was sent or ended, which is the real work of this thread.
    steps: Cell<u64>,
    freed: Notify,
}

impl SenderState {
    fn try_new(assignment: Assignment) -> anyhow::Result<Self> {
        let trial = &assignment.trial;
        let threads = trial.threads.get();
        // Shares differ by one at most and sum to the whole.
        let share =
            |whole: usize| whole / threads + usize::from(assignment.thread < whole % threads);
        let (cap, backlog_limit) = (share(trial.connections.get()), share(trial.backlog));
        let destination = assignment.destination.clone();
        Ok(Self {
            pool: RefCell::new(Pool::new(cap, destination, assignment.thread, trial.reuse)),
            arrivals: RefCell::new(arrivals::Share::try_new(trial, assignment.thread)?),
            in_flight: RefCell::default(),
            backlog: RefCell::default(),
            backlog_limit,
            tally: RefCell::new(Tally::of(trial)),
            sieve: RefCell::new(Sieve::new(trial.keep_samples / threads, trial.keep_every)),
            names: RefCell::default(),
            is_draining: Cell::new(false),
            steps: Cell::new(0),
            freed: Notify::new(),
            assignment,
        })
    }

    /// Time since the start of the trial; zero before it.
    pub(crate) fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.assignment.start)
    }

    /// Request number `item` over HTTP/1.1.
    pub(crate) fn over_http1(&self, item: usize) -> WireRequest {
        self.assignment.over_http1[item].clone()
    }

    /// When a request that was due at `scheduled` times out.
    pub(crate) fn deadline(&self, scheduled: Duration) -> Instant {
        let Assignment { start, trial, .. } = &self.assignment;
        let far = || *start + Duration::from_hours(24 * 365);
        start.checked_add(scheduled.saturating_add(trial.timeout)).unwrap_or_else(far)
    }

    /// Records that the request with this key is now handed to a connection, and returns the time.
    pub(crate) fn sent(&self, key: usize) -> Duration {
        let now = self.now();
        self.steps.set(self.steps.get() + 1);
        if let Some(in_flight) = self.in_flight.borrow_mut().get_mut(key) {
            in_flight.sent = Some(now);
        }
        now
    }

    /// The sample of a request that ends now without an answer.
    pub(crate) fn unanswered(&self, key: usize, failure: Failure) -> Sample {
        exchange::unanswered(self, self.in_flight(key), self.now(), failure)
    }

    /// The request with this key.
    pub(crate) fn in_flight(&self, key: usize) -> InFlight {
        self.in_flight.borrow()[key]
    }

    /// Starts an exchange, queues the request, or counts it as unsent. Never waits.
    fn dispatch(self: &Rc<Self>, arrival: Arrival, now: Duration) {
        let in_flight = InFlight { arrival, dispatched: now, ready: None, sent: None };
        let key = self.in_flight.borrow_mut().insert(in_flight);
        let is_full = self.backlog.borrow().len() >= self.backlog_limit;
        let acquired = self.pool.borrow_mut().acquire();
        match acquired {
            Some(acquired) => self.start(acquired, key, now),
            None if is_full => self.finish(key, self.unanswered(key, Failure::Unsent)),
            None => self.backlog.borrow_mut().push_back(key),
        }
    }

    /// Takes a connection back and starts requests that were waiting for one.
    pub(crate) fn give_back(self: &Rc<Self>, connection: Option<Connection>) {
        if let Some(connection) = connection {
            self.pool.borrow_mut().keep(connection);
        }
        self.start_waiting();
    }

    /// Starts waiting requests as long as a connection is available.
    pub(crate) fn start_waiting(self: &Rc<Self>) {
        self.expire();
        while !self.backlog.borrow().is_empty() {
            let Some(acquired) = self.pool.borrow_mut().acquire() else { break };
            let Some(key) = self.backlog.borrow_mut().pop_front() else { break };
            self.start(acquired, key, self.now());
        }
    }

    /// Starts the request with this key, which can be sent as of `now`.
    fn start(self: &Rc<Self>, acquired: Acquired, key: usize, now: Duration) {
        if let Some(in_flight) = self.in_flight.borrow_mut().get_mut(key) {
            in_flight.ready = Some(now);
        }
        tokio::task::spawn_local(exchange::run(Rc::clone(self), acquired, key));
    }

    /// Gives up requests whose time ran out while they waited for a connection. They wait in the
    /// order in which they were due, so the first one with time left ends the search.
    fn expire(&self) {
        loop {
            let Some(key) = self.backlog.borrow().front().copied() else { return };
            let scheduled = self.in_flight.borrow()[key].arrival.scheduled;
            if Instant::now() < self.deadline(scheduled) {
                return;
            }
            self.backlog.borrow_mut().pop_front();
            self.finish(key, self.unanswered(key, Failure::Unsent));
        }
    }

    /// Whether the time for sending is over.
    fn is_over(&self) -> bool {
        self.arrivals.borrow().end().is_some_and(|end| self.now() >= end)
    }

    /// Waits for requests without an answer. Every request ends within its time limit, so this does
    /// as well, or sooner if the user does not want to wait.
    async fn drain(&self) {
        let progress = &self.assignment.progress;
        progress.waiting.fetch_add(self.in_flight.borrow().len() as u64, Ordering::Relaxed);
        progress.draining.fetch_add(1, Ordering::Relaxed);
        self.is_draining.set(true);
        while !self.in_flight.borrow().is_empty() && !progress.is_abandoned() {
            self.expire();
            self.poll().await;
        }
        let rest: Vec<usize> = self.in_flight.borrow().iter().map(|(key, _)| key).collect();
        for key in rest {
            self.finish(key, self.unanswered(key, Failure::Unfinished));
        }
    }

    /// Records the end of a request.
    pub(crate) fn finish(&self, key: usize, sample: Sample) {
        let progress = &self.assignment.progress;
        let ended =
            if sample.outcome.is_success() { &progress.succeeded } else { &progress.failed };
        ended.fetch_add(1, Ordering::Relaxed);
        if self.is_draining.get() {
            progress.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.steps.set(self.steps.get() + 1);
        self.in_flight.borrow_mut().remove(key);
        self.arrivals.borrow_mut().ended(sample.done, sample.outcome);
        self.tally.borrow_mut().record(&sample);
        let mut sieve = self.sieve.borrow_mut();
        if sieve.wants(sample.index) {
            if let Some(kept) = &self.assignment.kept {
                // A receiver that is gone does not want it.
                let _unwanted = kept.send(sample.clone());
            }
            sieve.add(sample);
        }
        self.freed.notify_one();
    }

    /// One shared string for every answer of the same endpoint.
    pub(crate) fn name(&self, endpoint: &str) -> Option<Arc<str>> {
        let mut names = self.names.borrow_mut();
        if let Some(name) = names.get(endpoint) {
            return Some(Arc::clone(name));
        }
        if names.len() >= MAX_NAMES {
            return None;
        }
        let name: Arc<str> = Arc::from(endpoint);
        names.insert(Arc::clone(&name));
        Some(name)
    }

    /// Sleeps until shortly before `at` and then stays awake, since a sleeping thread wakes up some
    /// tens of microseconds late, and later still on a busy machine. The exchanges continue
    /// meanwhile. When requests follow each other more closely, the processor's time is better
    /// spent on sending, and when there is hardly a pause between them, it stays awake. Returns how
    /// long it was awake without work.
    async fn wait_until(&self, at: Duration, timer: &Timer) -> anyhow::Result<Duration> {
        let mut now = self.now();
        let wait = at.saturating_sub(now);
        if self.arrivals.borrow().is_closed() || NAP < wait && wait < AWAKE * 4 {
            self.sleep(timer, wait).await?;
            return Ok(Duration::ZERO);
        }
        if wait > NAP {
            self.sleep(timer, wait.saturating_sub(AWAKE)).await?;
            now = self.now();
        }
        let mut rested = Duration::ZERO;
        let is_near = at.saturating_sub(now) <= AWAKE;
        while is_near && now < at {
            let steps = self.steps.get();
            tokio::task::yield_now().await;
            let before = std::mem::replace(&mut now, self.now());
            let turn = now.saturating_sub(before);
            // In a longer turn, another thread had the processor.
            if self.steps.get() == steps && turn < NAP {
                rested += turn;
            }
        }
        Ok(rested)
    }

    /// Sleeps for `wait`, or less if an answer may change what is due, or to check the stop flag.
    async fn sleep(&self, timer: &Timer, wait: Duration) -> anyhow::Result<()> {
        let wait = wait.min(POLL_INTERVAL);
        let slept = if self.arrivals.borrow().is_closed() {
            tokio::select! {
                slept = timer.sleep(wait) => slept,
                () = self.freed.notified() => Ok(()),
            }
        } else {
            timer.sleep(wait).await
        };
        slept.context("waiting for the next arrival")
    }

    /// Waits for an answer, but not longer than the poll interval.
    async fn poll(&self) {
        // Either way the loop checks again.
        let _timed_out = tokio::time::timeout(POLL_INTERVAL, self.freed.notified()).await;
    }
}
