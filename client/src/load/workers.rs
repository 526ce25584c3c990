//! How many workers a balancer reports while it is under load.
//!
//! The status is polled twice per second over separate connections, but only in a run whose rate
//! changes, and only if the service answers like a balancer that shows its fleet.

use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use wire::{health, path};

use crate::driver::Destination;
use crate::schedule::Arrivals;

/// Time between two polls.
const PERIOD: Duration = Duration::from_millis(500);

/// Workers at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WorkerCount {
    /// Seconds since the start.
    pub seconds: f64,
    /// Those in the balancer's list.
    pub workers: u64,
    /// Of these, the ones that took requests.
    pub available: u64,
}

/// The status that a balancer reports.
#[derive(Debug, Deserialize)]
struct Told {
    workers: u64,
    available: u64,
}

/// A thread that polls until it is read.
#[derive(Debug)]
pub(super) struct Watch {
    stop: mpsc::Sender<()>,
    asking: JoinHandle<Vec<WorkerCount>>,
}

impl Watch {
    /// Starts polling, if that is of any use.
    pub(super) fn start(arrivals: &Arrivals, destination: &Destination) -> Option<Self> {
        let changes = matches!(arrivals, Arrivals::Staged { .. });
        let address = *destination.addresses.first()?;
        if !changes || destination.tls.is_some() || ask(address).is_none() {
            return None;
        }
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("workers".to_owned());
        let asking = thread.spawn(move || watch(address, &stopped)).ok()?;
        Some(Self { stop, asking })
    }

    /// Stops polling and returns the counts.
    pub(super) fn read(self) -> Vec<WorkerCount> {
        drop(self.stop);
        self.asking.join().unwrap_or_default()
    }
}

fn watch(address: SocketAddr, stopped: &mpsc::Receiver<()>) -> Vec<WorkerCount> {
    let (start, mut counts) = (Instant::now(), Vec::new());
    loop {
        if let Some(Told { workers, available }) = ask(address) {
            let seconds = start.elapsed().as_secs_f64();
            counts.push(WorkerCount { seconds, workers, available });
        }
        if stopped.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout) {
            return counts;
        }
    }
}

fn ask(address: SocketAddr) -> Option<Told> {
    let told = health::ask(address, path::STATUS).ok()??;
    serde_json::from_str(&told.body).ok()
}
