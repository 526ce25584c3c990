//! Local workers: started, watched and restarted.
//!
//! This makes one command enough: `balancer --spawn 2` starts two `worker serve` processes and
//! restarts them when they exit. A worker prints its address and keeps it across restarts, unless
//! another program has taken the port. As soon as a process exits, its endpoint is marked as
//! absent, so that no request waits for a probe to find out, and no probe mistakes another program
//! at that address for the worker.
//!
//! With a range (`--spawn 1..4`), there are as many workers as the load needs: [`elastic`] gets the
//! number from the [`fleet`]. A worker that is no longer needed gets no new requests, finishes its
//! pending ones, leaves the list, and is then stopped.
//!
//! Nothing that a worker does blocks the balancer: its output is always read, and its start and end
//! have time limits. The end of its standard input and SIGTERM tell a worker to finish, and it
//! never outlives the balancer.

mod child;
mod elastic;
mod output;
mod slot;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use child::Worker;
pub use child::{Children, launch};
use elastic::Course;
pub use elastic::Elasticity;
use fleet::{Endpoint, Event, Pool};
use slot::{Slots, WorkerState};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Spawn;
use crate::log::changes::tell;

/// Pause before a worker that has settled is restarted. One that fails immediately waits twice as
/// long, then four times, and so on.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Maximum pause for a worker that belongs to the minimum number.
const MAX_PAUSE: Duration = Duration::from_secs(4);
/// Maximum pause for a worker above the minimum number.
const MAX_EXTRA_PAUSE: Duration = Duration::from_mins(1);
/// A worker that ran for this long did not fail immediately.
const SETTLED: Duration = Duration::from_secs(10);
/// Time limit for a model to load.
const START_LIMIT: Duration = Duration::from_mins(2);
/// A start that takes longer is reported.
const LONG_START: Duration = Duration::from_secs(10);
/// How long requests may wait for a worker that is starting, unless it fails before; each of them
/// waits no longer than allowed in the queue.
const EXPECTED: Duration = Duration::from_secs(30);
/// Interval of checks whether a worker that is to stop has requests left.
const DRAIN_PERIOD: Duration = Duration::from_millis(50);
/// The kernel chooses the port.
const ANY: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0));

/// Tells the workers' tasks to stop, and by when.
type Stop = watch::Receiver<Option<Instant>>;

/// State shared by the workers' tasks.
#[derive(Debug)]
pub struct Supervisor {
    spawn: Spawn,
    pool: Arc<Pool>,
    children: Arc<Children>,
    /// Indexed by number; the other sources come first in the list.
    slots: Mutex<Slots>,
    changed: Notify,
    /// Indexed by number: tells the task of a worker to stop it, because it is no longer needed.
    leaves: Vec<Notify>,
    hurry: Arc<Notify>,
    course: Mutex<Course>,
}

/// The result of an order to kill a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// Its process was killed.
    Done,
    /// It has no process: the last one has ended, and the next is not yet started.
    NoProcess,
    /// No worker of that name was started here.
    Unknown,
}

/// How a worker's process ended.
#[derive(Debug)]
struct Ended {
    /// The reason, in words for the log.
    reason: String,
    /// Where it listened, if it ever did.
    address: Option<SocketAddr>,
}

impl Supervisor {
    /// A supervisor that has not started anything; requests already wait for its workers.
    pub fn new(spawn: Spawn, pool: Arc<Pool>, hurry: Arc<Notify>, children: Arc<Children>) -> Self {
        for number in 0..spawn.range.min {
            pool.expect(&name(number), Some(Instant::now() + EXPECTED));
        }
        let max = spawn.range.max;
        Self {
            slots: Mutex::new(Slots::new(max)),
            leaves: (0..max).map(|_| Notify::new()).collect(),
            course: Mutex::default(),
            changed: Notify::new(),
            spawn,
            pool,
            children,
            hurry,
        }
    }

    /// Names and addresses of the workers that have reported their address.
    pub fn endpoints(&self) -> Vec<(String, SocketAddr)> {
        let listed = self.slots().listed();
        listed.into_iter().map(|(number, address)| (name(number), address)).collect()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_place(&self, number: usize, place: WorkerState) {
        self.slots().set_place(number, place, Instant::now());
        if place == WorkerState::Vacant {
            self.pool.expect(&name(number), None);
        }
        self.changed.notify_one();
    }

    /// Kills a worker, whatever it is doing. It is then restarted, unless it was about to stop.
    pub fn kill(&self, wanted: &str) -> Kill {
        if self.children.kill_worker(wanted) {
            tracing::warn!(worker = wanted, "worker killed by an operator");
            return Kill::Done;
        }
        let is_known = self.slots().known().any(|number| name(number) == wanted);
        if is_known { Kill::NoProcess } else { Kill::Unknown }
    }

    /// Waits for a change of [`Self::endpoints`].
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Keeps the workers running until `stop` sets a deadline, then stops them by then.
    pub async fn run(self: Arc<Self>, mut stop: Stop) {
        let mut workers = JoinSet::new();
        for number in 0..self.spawn.range.min {
            self.set_place(number, WorkerState::Awaited);
            workers.spawn(Arc::clone(&self).keep_alive(number, stop.clone()));
        }
        if !self.spawn.range.is_fixed() {
            elastic::follow_load(&self, &mut workers, &mut stop).await;
        }
        while workers.join_next().await.is_some() {}
    }

    async fn keep_alive(self: Arc<Self>, number: usize, mut stop: Stop) {
        let name = name(number);
        let max_pause = if number < self.spawn.range.min { MAX_PAUSE } else { MAX_EXTRA_PAUSE };
        let (mut pause, mut listen) = (FIRST_PAUSE, ANY);
        loop {
            let started = Instant::now();
            let ended = match Worker::start(&self.spawn, &name, listen, &self.children) {
                Err(error) => {
                    Ended { reason: format!("cannot be started: {error}"), address: None }
                }
                Ok(mut worker) => {
                    self.expect(number);
                    tokio::select! {
                        ended = self.attend(number, &mut worker, started) => ended,
                        deadline = stopped(&mut stop) => return worker.finish(deadline).await,
                        () = self.leaves[number].notified() => {
                            self.leave(worker, number, &mut stop).await;
                            return self.set_place(number, WorkerState::Vacant);
                        }
                    }
                }
            };
            if ended.address.is_none() {
                self.note_failure(number);
            }
            pause = if has_settled(started) { FIRST_PAUSE } else { (pause * 2).min(max_pause) };
            // If a worker did not even listen, its port may be taken.
            listen = ended.address.unwrap_or(ANY);
            let (program, restart_in) =
                (self.spawn.program.display(), humantime::format_duration(pause));
            let reason = ended.reason;
            tracing::warn!(worker = name, reason, %program, %restart_in, "worker exited");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopped(&mut stop) => return,
                () = self.leaves[number].notified() => {
                    return self.set_place(number, WorkerState::Vacant);
                }
            }
        }
    }

    /// A worker is starting. Requests wait for it if there is no other, unless it failed before.
    fn expect(&self, number: usize) {
        if !self.slots().has_failed(number) {
            self.pool.expect(&name(number), Some(Instant::now() + EXPECTED));
        }
    }

    /// A worker could not be started. Requests wait for the others, but not for it.
    fn note_failure(&self, number: usize) {
        self.pool.expect(&name(number), None);
        if self.slots().note_failure(number) {
            self.changed.notify_one();
        }
    }

    /// The process of a worker that listened has ended and is restarted soon. One that had run for
    /// a while is waited for, and this is set before it leaves the fleet.
    fn note_crash(&self, number: usize, started: Instant) {
        let name = name(number);
        self.pool.expect(&name, has_settled(started).then(|| Instant::now() + EXPECTED));
        self.set_present(&name, false);
    }

    /// Waits until a worker reports where it listens, and then for its end.
    async fn attend(&self, number: usize, worker: &mut Worker, started: Instant) -> Ended {
        let address = match self.wait_for_address(number, worker).await {
            Ok(address) => address,
            Err(reason) => return Ended { reason, address: None },
        };
        tracing::info!(worker = worker.name(), %address, pid = worker.pid(), "worker started");
        self.set_present(worker.name(), true);
        self.set_place(number, WorkerState::At(address));
        self.hurry.notify_waiters();
        let reason = worker.exited().await;
        self.note_crash(number, started);
        Ended { reason, address: Some(address) }
    }

    async fn wait_for_address(
        &self,
        number: usize,
        worker: &mut Worker,
    ) -> Result<SocketAddr, String> {
        let limit = tokio::time::sleep(START_LIMIT);
        let patience = tokio::time::sleep(LONG_START);
        tokio::pin!(limit, patience);
        let mut is_told = false;
        loop {
            tokio::select! {
                told = worker.address() => match told {
                    Some(address) => return Ok(address),
                    None => return Err(worker.killed("closed its output before it said where it listens").await),
                },
                () = &mut patience, if !is_told => {
                    is_told = true;
                    if self.slots().note_late(number) {
                        self.changed.notify_one();
                    }
                    tracing::warn!(worker = worker.name(), "worker has not reported its address yet");
                }
                () = &mut limit => {
                    return Err(worker.killed("did not report its address in time").await);
                }
            }
        }
    }

    /// Stops a worker that is no longer needed: it gets no new requests, finishes its pending ones,
    /// and leaves the list before its process is told to end.
    async fn leave(&self, mut worker: Worker, number: usize, stop: &mut Stop) {
        let limit = self.spawn.drain;
        if let Some(endpoint) = self.endpoint(worker.name()) {
            tell(&self.pool.apply(&endpoint, Event::Leave, Instant::now()));
            tokio::select! {
                result = timeout(limit, until_idle(&endpoint)) => if result.is_err() {
                    let left = endpoint.in_flight();
                    tracing::warn!(worker = worker.name(), left, "worker is stopped with requests in flight: drain-timeout is over");
                },
                deadline = stopped(stop) => return worker.finish(deadline).await,
                // Its requests are lost, as in any crash; all that remains is to remove it.
                reason = worker.exited() => {
                    self.set_present(worker.name(), false);
                    return tracing::warn!(worker = worker.name(), reason, "worker exited before it was stopped");
                }
            }
        }
        self.set_place(number, WorkerState::Ending);
        let mut finish = pin!(worker.finish(Instant::now() + limit));
        tokio::select! {
            () = &mut finish => {}
            deadline = stopped(stop) => drop(timeout_at(deadline, finish).await),
        }
    }

    fn endpoint(&self, name: &str) -> Option<Arc<Endpoint>> {
        self.pool.snapshot().all().iter().find(|one| one.name() == name).cloned()
    }

    fn set_present(&self, name: &str, is_present: bool) {
        for endpoint in self.pool.snapshot().all().iter().filter(|one| one.name() == name) {
            endpoint.set_absent(!is_present);
            let event = match (is_present, self.pool.settings().is_probed) {
                (false, _) => Event::Gone,
                // No probe will detect that it is back.
                (true, false) => Event::ProbePassed,
                (true, true) => continue,
            };
            tell(&self.pool.apply(endpoint, event, Instant::now()));
        }
    }
}

/// Whether a worker that was started at this time did not fail immediately.
fn has_settled(started: Instant) -> bool {
    started.elapsed() > SETTLED
}

/// Waits until an endpoint that gets no new requests has answered its pending ones. One may have
/// just been assigned to it, so it is checked twice.
async fn until_idle(endpoint: &Endpoint) {
    let mut looks = 0;
    while looks < 2 {
        tokio::time::sleep(DRAIN_PERIOD).await;
        looks = if endpoint.in_flight() == 0 { looks + 1 } else { 0 };
    }
}

/// Waits for the order to stop; returns its deadline.
async fn stopped(stop: &mut Stop) -> Instant {
    let order = stop.wait_for(Option::is_some).await;
    // A dropped sender means the same.
    order.ok().and_then(|deadline| *deadline).unwrap_or_else(Instant::now)
}

/// The name of a spawned worker; names count from 1, as in the slice.
fn name(number: usize) -> String {
    format!("worker{}", number + 1)
}

#[cfg(test)]
mod tests;
