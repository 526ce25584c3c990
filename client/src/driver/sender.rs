//! One sender thread: waits for the next arrival, dispatches it, and never waits for an answer.
//!
//! The lane below is the state of the thread. It is touched by the loop and by the exchanges that
//! it started, all on this thread; no borrow is held across an await.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::arrivals::{self, Arrival, Next};
use super::connection::{Lease, Pool};
use super::exchange::{self, Job};
use super::timer::Timer;
use super::{Progress, Run, Tally};
use crate::experiment::Trial;
use crate::sample::{Failure, Sample};
use crate::workload::Workload;

/// Arrivals that are dispatched before the exchanges get a turn, when the schedule is behind.
const BURST: usize = 64;
/// Awake for so long before a request is due.
const AWAKE: Duration = Duration::from_micros(100);
/// How long a wish to stop may go unnoticed.
const GLANCE: Duration = Duration::from_millis(200);
/// More different endpoint names than any fleet has are not told apart.
const MAX_NAMES: usize = 10_000;

/// What one thread is to do.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) trial: Trial,
    pub(crate) thread: usize,
    pub(crate) address: SocketAddr,
    pub(crate) workload: Arc<Workload>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) start: Instant,
}

/// Runs the thread's share of the trial to its end.
pub(crate) fn send_share(assignment: Assignment) -> anyhow::Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting an event loop")?;
    let lane = Rc::new(Lane::try_new(assignment)?);
    LocalSet::new().block_on(&runtime, dispatch_all(&lane))?;
    Ok(Run { tally: lane.tally.take(), samples: lane.samples.take() })
}

async fn dispatch_all(lane: &Rc<Lane>) -> anyhow::Result<()> {
    let timer = Timer::try_new().context("making a timer")?;
    let mut burst = 0;
    while !lane.assignment.progress.stop.load(Ordering::Relaxed) {
        let next = lane.arrivals.borrow().peek();
        match next {
            Next::End => break,
            Next::Busy => lane.glance().await,
            Next::Due(at) if at > lane.now() => {
                burst = 0;
                lane.wait_until(at, &timer).await?;
            }
            Next::Due(_) => {
                let now = lane.now();
                let arrival = lane.arrivals.borrow_mut().take(now);
                lane.dispatch(arrival, now);
                burst += 1;
                if burst % BURST == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    while lane.in_flight.get() > 0 {
        lane.freed.notified().await; // every exchange ends within its timeout
    }
    Ok(())
}

/// The state of a sender thread.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) assignment: Assignment,
    pub(crate) pool: RefCell<Pool>,
    arrivals: RefCell<arrivals::Share>,
    backlog: RefCell<VecDeque<Job>>,
    tally: RefCell<Tally>,
    samples: RefCell<Vec<Sample>>,
    keep: usize,
    names: RefCell<HashSet<Arc<str>>>,
    in_flight: Cell<usize>,
    freed: Notify,
}

impl Lane {
    fn try_new(assignment: Assignment) -> anyhow::Result<Self> {
        let trial = &assignment.trial;
        let threads = trial.threads.get();
        // Shares differ by one at most and sum to the cap.
        let cap = (trial.connections.get() + threads - 1 - assignment.thread) / threads;
        Ok(Self {
            pool: RefCell::new(Pool::new(cap)),
            arrivals: RefCell::new(arrivals::Share::try_new(trial, assignment.thread)?),
            backlog: RefCell::default(),
            tally: RefCell::new(Tally::of(trial)),
            samples: RefCell::default(),
            keep: trial.keep_samples / threads,
            names: RefCell::default(),
            in_flight: Cell::new(0),
            freed: Notify::new(),
            assignment,
        })
    }

    /// Time since the start of the trial; zero before it.
    pub(crate) fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.assignment.start)
    }

    /// Starts an exchange, or queues the request, or counts it as unsent: never waits.
    fn dispatch(self: &Rc<Self>, arrival: Arrival, now: Duration) {
        let job = Job { arrival, dispatched: now };
        self.in_flight.set(self.in_flight.get() + 1);
        let is_full = self.backlog.borrow().len() >= self.assignment.trial.backlog;
        let way = self.pool.borrow_mut().way();
        match way {
            Some(way) => {
                tokio::task::spawn_local(exchange::run(Rc::clone(self), way, job));
            }
            None if is_full => self.finish(exchange::failed(self, job, Failure::Unsent)),
            None => self.backlog.borrow_mut().push_back(job),
        }
    }

    /// Takes a connection back and starts what waited for one.
    pub(crate) fn give_back(self: &Rc<Self>, leases: impl IntoIterator<Item = Lease>) {
        for lease in leases {
            self.pool.borrow_mut().keep(lease);
        }
        while !self.backlog.borrow().is_empty() {
            let Some(way) = self.pool.borrow_mut().way() else { break };
            let Some(job) = self.backlog.borrow_mut().pop_front() else { break };
            tokio::task::spawn_local(exchange::run(Rc::clone(self), way, job));
        }
    }

    /// Records the end of a request.
    pub(crate) fn finish(&self, sample: Sample) {
        let progress = &self.assignment.progress;
        let ended =
            if sample.outcome.is_success() { &progress.succeeded } else { &progress.failed };
        ended.fetch_add(1, Ordering::Relaxed);
        self.tally.borrow_mut().record(&sample);
        self.arrivals.borrow_mut().answered(sample.done);
        let mut samples = self.samples.borrow_mut();
        let is_kept = sample.index.is_multiple_of(self.assignment.trial.keep_every.get());
        if is_kept && samples.len() < self.keep {
            samples.push(sample);
        }
        self.in_flight.set(self.in_flight.get() - 1);
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

    /// Sleeps until shortly before `at`, and then stays awake: a sleeper comes back some tens of
    /// microseconds late, and later on a busy machine. The exchanges go on meanwhile. When requests
    /// follow each other more closely, this processor's time is better spent on sending.
    async fn wait_until(&self, at: Duration, timer: &Timer) -> anyhow::Result<()> {
        let wait = at.saturating_sub(self.now());
        if wait < AWAKE * 4 || self.arrivals.borrow().is_closed() {
            return self.sleep(timer, wait).await;
        }
        self.sleep(timer, wait.saturating_sub(AWAKE)).await?;
        let is_near = at.saturating_sub(self.now()) <= AWAKE;
        while is_near && self.now() < at {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Sleeps for `wait`, less if an answer may change what is due, or to look at the stop flag.
    async fn sleep(&self, timer: &Timer, wait: Duration) -> anyhow::Result<()> {
        let wait = wait.min(GLANCE);
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

    /// Waits for an answer, but not longer than a glance.
    async fn glance(&self) {
        // Either way the loop looks again.
        let _timed_out = tokio::time::timeout(GLANCE, self.freed.notified()).await;
    }
}
