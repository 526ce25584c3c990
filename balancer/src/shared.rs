//! What all threads share: the configuration, the pool, the policy, counters and budgets.
//!
//! Everything here is immutable, atomic, or swapped as a whole; no request waits for a lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fleet::{Fleet, Hedging, Pool, RetryBudget};
use tokio::time::Instant;

use crate::config::Config;
use crate::history::History;
use crate::log::Logs;
use crate::metrics::Traffic;
use crate::page::{Live, Pages};
use crate::supervisor::Supervisor;

/// State of the whole balancer.
#[derive(Debug)]
pub struct Shared {
    /// What it works by.
    pub config: Config,
    /// The endpoints, and what is decided about them.
    pub fleet: Arc<Fleet>,
    /// The pages and their assets, compressed and ready to send.
    pub pages: Pages,
    /// What open pages are told.
    pub live: Live,
    /// What happened so far.
    pub traffic: Traffic,
    /// What endpoints did in the last minutes.
    pub history: History,
    /// Memory for request bodies.
    pub bodies: Budget,
    /// Client connections that are open, against their limit.
    pub connections: Budget,
    /// Client connections by address.
    pub clients: PerAddress,
    /// Whether the balancer is about to stop.
    pub is_draining: AtomicBool,
    /// Until when connections may go on then.
    drain_deadline: OnceLock<Instant>,
    /// Who starts and stops workers here.
    pub supervisor: Option<Arc<Supervisor>>,
    /// Where events and requests are noted.
    pub logs: Logs,
    /// Whether the listening sockets outlive the balancer: who waits in their queues is another's.
    pub leaves_queue: AtomicBool,
}

impl Shared {
    /// The state at the start.
    pub fn new(config: Config, pool: Arc<Pool>) -> Self {
        let hedging = config.hedge.then(Hedging::default);
        let retries = RetryBudget::new(config.retry_percent);
        let fleet = Fleet { hedging, ..Fleet::new(pool, config.policy, retries) };
        Self {
            fleet: Arc::new(fleet),
            pages: Pages::new(
                config.bounds.body,
                config.is_fleet_public,
                config.default_model.clone(),
            ),
            live: Live::default(),
            traffic: Traffic::default(),
            history: History::default(),
            bodies: Budget::new(config.bounds.bodies),
            connections: Budget::new(config.bounds.connections),
            clients: PerAddress::new(config.bounds.connections_per_ip),
            is_draining: AtomicBool::new(false),
            drain_deadline: OnceLock::new(),
            supervisor: None,
            logs: Logs::default(),
            leaves_queue: AtomicBool::new(false),
            config,
        }
    }

    /// The same with these logs.
    #[must_use]
    pub fn with_logs(self, logs: Logs) -> Self {
        Self { logs, ..self }
    }

    /// With workers of its own.
    #[must_use]
    pub fn with_workers(self, supervisor: Option<Arc<Supervisor>>) -> Self {
        Self { supervisor, ..self }
    }

    /// Who kills workers, where lessons are given.
    pub fn lessons(&self) -> Option<&Supervisor> {
        self.supervisor.as_deref().filter(|_| self.config.has_lessons)
    }

    /// Begins the end: connections may go on until `deadline`.
    pub fn drain(&self, deadline: Instant) {
        self.drain_deadline.get_or_init(|| deadline);
        self.is_draining.store(true, Relaxed);
    }

    /// Until when connections may go on, once the end has begun.
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.drain_deadline.get().copied()
    }

    /// Whether requests are welcome.
    pub fn is_ready(&self) -> bool {
        !self.is_draining.load(Relaxed) && !self.fleet.pool.current().load().available().is_empty()
    }
}

/// An amount that several parties use together.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// Nothing of `limit` is used.
    pub fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    /// Takes `amount` if that much is left.
    pub fn take(&self, amount: usize) -> bool {
        let before = self.used.fetch_add(amount, Relaxed);
        let fits = before + amount <= self.limit;
        if !fits {
            self.give_back(amount);
        }
        fits
    }

    /// Takes what another party is about to give back, whether it fits or not.
    pub fn take_over(&self, amount: usize) {
        self.used.fetch_add(amount, Relaxed);
    }

    /// Returns what was taken.
    pub fn give_back(&self, amount: usize) {
        self.used.fetch_sub(amount, Relaxed);
    }

    /// What is in use.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

/// Connections of each client address; keeps no book while there is no limit.
#[derive(Debug)]
pub struct PerAddress {
    open: Mutex<HashMap<IpAddr, usize>>,
    limit: usize,
}

impl PerAddress {
    /// `limit` connections for each address; 0 for no limit.
    pub fn new(limit: usize) -> Self {
        Self { open: Mutex::default(), limit }
    }

    /// Counts a connection in, unless the address has enough.
    pub fn enter(&self, address: IpAddr) -> bool {
        if self.limit == 0 {
            return true;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        let fits = *count < self.limit;
        *count += usize::from(fits);
        fits
    }

    /// Counts a connection out.
    pub fn leave(&self, address: IpAddr) {
        if self.limit == 0 {
            return;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = open.entry(address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_no_more_connections_than_its_limit() {
        let clients = PerAddress::new(2);
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert!(clients.enter(a) && clients.enter(a) && !clients.enter(a));
        assert!(clients.enter(b));
        clients.leave(a);
        assert!(clients.enter(a));
    }

    #[test]
    fn a_budget_gives_no_more_than_it_has() {
        let budget = Budget::new(10);
        assert!(budget.take(7));
        assert!(!budget.take(4));
        assert!(budget.take(3));
        budget.give_back(10);
        assert_eq!(budget.used(), 0);
    }
}
