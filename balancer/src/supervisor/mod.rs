//! Local workers: started, watched and restarted.
//!
//! The default of one command for everything: `balancer --spawn 2` starts two `worker serve`
//! processes and restarts them when they exit. A worker prints its address and keeps it when it is
//! restarted, unless another program has taken the port. The moment a process exits
//! its endpoint is marked as absent, so that no request waits for a probe to find out, and no probe
//! takes what answers there meanwhile for the worker.
//!
//! Whatever a worker does, it does not hold up the balancer: its output is always read, a start has
//! a limit, and so has the end. A worker is told to finish by the end of its standard input and by
//! SIGTERM, and never outlives the balancer.

mod child;
mod output;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet::{Event, Pool};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::Spawn;
use crate::log::changes::tell;

use child::Worker;
pub use child::{Children, launch};

/// A worker that fails at once is started again after this long, then twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No pause is longer.
const MAX_PAUSE: Duration = Duration::from_secs(4);
/// A worker that lived this long is not failing at once.
const SETTLED: Duration = Duration::from_secs(10);
/// A model may take long to load, but not for ever.
const START_LIMIT: Duration = Duration::from_mins(2);
/// When it is said that a start takes long.
const LONG_START: Duration = Duration::from_secs(10);
/// Where the kernel chooses the port.
const ANY: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0));

/// What tells the workers' tasks to stop, and until when.
type Stop = watch::Receiver<Option<Instant>>;

/// What the workers' tasks share.
#[derive(Debug)]
pub struct Supervisor {
    spawn: Spawn,
    pool: Arc<Pool>,
    children: Arc<Children>,
    /// By number; the sources of the rest of the list come first.
    places: Mutex<Vec<Place>>,
    changed: Notify,
    /// By number too: tells the task of a worker to kill it.
    kills: Vec<Notify>,
    hurry: Arc<Notify>,
}

/// Where a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Its first start is not over.
    Awaited,
    /// It could not be started so far, or takes long.
    Late,
    /// It listens here, or did before it ended.
    At(SocketAddr),
}

/// How a worker's process ended.
#[derive(Debug)]
struct Ended {
    /// In words.
    reason: String,
    /// Where it listened, if it got that far.
    address: Option<SocketAddr>,
}

impl Supervisor {
    /// A supervisor that has started nothing yet.
    pub fn new(spawn: Spawn, pool: Arc<Pool>, hurry: Arc<Notify>, children: Arc<Children>) -> Self {
        let places = Mutex::new(vec![Place::Awaited; spawn.count]);
        let kills = (0..spawn.count).map(|_| Notify::new()).collect();
        Self { spawn, pool, children, places, changed: Notify::new(), kills, hurry }
    }

    /// Names and addresses of the workers that have told theirs. The place of a worker in the list
    /// must not depend on which starts fastest, so it ends before the first that is still awaited;
    /// but one that cannot be started, or takes long, does not keep the others from their work.
    pub fn endpoints(&self) -> Vec<(String, SocketAddr)> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = places.iter().take_while(|place| **place != Place::Awaited);
        let known = settled.enumerate().filter_map(|(number, place)| match place {
            Place::At(address) => Some((name(number), *address)),
            Place::Awaited | Place::Late => None,
        });
        known.collect()
    }

    fn set_place(&self, number: usize, place: Place) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)[number] = place;
        self.changed.notify_one();
    }

    /// Notes that the others need not wait for a worker.
    fn set_late(&self, number: usize) {
        let place = self.places.lock().unwrap_or_else(PoisonError::into_inner)[number];
        if place == Place::Awaited {
            self.set_place(number, Place::Late);
        }
    }

    /// Kills a worker, which is then started again; false if no worker of that name runs.
    pub fn kill(&self, wanted: &str) -> bool {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |number: &usize| name(*number) == wanted;
        let number = (0..places.len()).find(is_it);
        let Some(number) = number.filter(|number| matches!(places[*number], Place::At(_))) else {
            return false;
        };
        // Only a task that has a process to kill waits for this.
        self.kills[number].notify_waiters();
        true
    }

    /// Waits for a change of [`Self::endpoints`].
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Keeps the workers alive until `stop` names a time, then stops them by then.
    pub async fn run(self: Arc<Self>, stop: Stop) {
        let mut workers = JoinSet::new();
        for number in 0..self.spawn.count {
            workers.spawn(Arc::clone(&self).keep_alive(number, stop.clone()));
        }
        while workers.join_next().await.is_some() {}
    }

    async fn keep_alive(self: Arc<Self>, number: usize, mut stop: Stop) {
        let name = name(number);
        let (mut pause, mut listen) = (FIRST_PAUSE, ANY);
        loop {
            let started = Instant::now();
            let ended = match Worker::start(&self.spawn, &name, listen, &self.children) {
                Err(error) => {
                    Ended { reason: format!("cannot be started: {error}"), address: None }
                }
                Ok(mut worker) => {
                    tokio::select! {
                        ended = self.attend(number, &mut worker) => ended,
                        deadline = stopped(&mut stop) => return worker.finish(deadline).await,
                    }
                }
            };
            self.set_late(number);
            let has_settled = started.elapsed() > SETTLED;
            pause = if has_settled { FIRST_PAUSE } else { (pause * 2).min(MAX_PAUSE) };
            // A worker that did not even listen may have found its port taken.
            listen = ended.address.unwrap_or(ANY);
            let (program, restart_in) =
                (self.spawn.program.display(), humantime::format_duration(pause));
            let reason = ended.reason;
            tracing::warn!(worker = name, reason, %program, %restart_in, "worker exited");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopped(&mut stop) => return,
            }
        }
    }

    /// Waits until a worker says where it listens, and then for its end.
    async fn attend(&self, number: usize, worker: &mut Worker) -> Ended {
        let address = match self.wait_for_address(number, worker).await {
            Ok(address) => address,
            Err(reason) => return Ended { reason, address: None },
        };
        tracing::info!(worker = worker.name(), %address, pid = worker.pid(), "worker started");
        self.set_present(worker.name(), true);
        self.set_place(number, Place::At(address));
        self.hurry.notify_waiters();
        let reason = loop {
            tokio::select! {
                reason = worker.exited() => break reason,
                () = self.kills[number].notified() => {
                    tracing::warn!(worker = worker.name(), "worker killed by an operator");
                    worker.crash();
                }
            }
        };
        self.set_present(worker.name(), false);
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
                    self.set_late(number);
                    tracing::warn!(worker = worker.name(), "worker has not reported its address yet");
                }
                () = &mut limit => {
                    return Err(worker.killed("did not report its address in time").await);
                }
            }
        }
    }

    fn set_present(&self, name: &str, is_present: bool) {
        for endpoint in self.pool.snapshot().all().iter().filter(|one| one.name() == name) {
            endpoint.set_absent(!is_present);
            if !is_present {
                tell(&self.pool.apply(endpoint, Event::Gone, Instant::now()));
            }
        }
    }
}

/// Waits for the order to stop; returns until when that must have happened.
async fn stopped(stop: &mut Stop) -> Instant {
    let order = stop.wait_for(Option::is_some).await;
    // The sender going away means the same.
    order.ok().and_then(|deadline| *deadline).unwrap_or_else(Instant::now)
}

/// The name of a spawned worker; as in the slice they count from 1.
fn name(number: usize) -> String {
    format!("worker{}", number + 1)
}
