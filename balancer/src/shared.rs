//! What all threads share: the configuration, the pool, the policy, counters and budgets.
//!
//! What requests use is immutable, atomic, or swapped as a whole: no request waits for a lock.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use fleet::{Fleet, Hedging, Pool, RetryBudget};
use serde_json::Value;
use tokio::time::Instant;

use crate::budget::{Budget, PerAddress};
use crate::config::Config;
use crate::history::History;
use crate::log::Logs;
use crate::page::{self, Live, Pages};
use crate::supervisor::Supervisor;
use crate::traffic::Traffic;

/// State of the whole balancer.
#[derive(Debug)]
pub struct Shared {
    /// The configuration.
    pub config: Config,
    /// The endpoints, and the decisions about them.
    pub fleet: Arc<Fleet>,
    /// The pages and their assets, compressed and ready to send.
    pub pages: Pages,
    /// Live status for open pages.
    pub live: Arc<Live>,
    /// Counters of the whole balancer.
    pub traffic: Traffic,
    /// The activity of endpoints in the last minutes.
    pub history: Arc<History>,
    /// Memory for request bodies.
    pub bodies: Budget,
    /// Open client connections, against their limit.
    pub connections: Budget,
    /// Client connections by address.
    pub clients: PerAddress,
    /// Whether the balancer is about to stop.
    pub is_draining: AtomicBool,
    /// The deadline for connections once it is draining.
    drain_deadline: OnceLock<Instant>,
    /// Starts and stops local workers, if there are any.
    pub supervisor: Option<Arc<Supervisor>>,
    /// The logs of events and requests.
    pub logs: Logs,
    /// Whether the listening sockets, and the connections in their queues, outlive the balancer.
    pub leaves_queue: AtomicBool,
}

impl Shared {
    /// The initial state.
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
            live: Arc::default(),
            traffic: Traffic::default(),
            history: Arc::default(),
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

    /// The same with local workers.
    #[must_use]
    pub fn with_workers(self, supervisor: Option<Arc<Supervisor>>) -> Self {
        Self { supervisor, ..self }
    }

    /// The supervisor that kills workers, if lessons are enabled.
    pub fn lessons(&self) -> Option<&Supervisor> {
        self.supervisor.as_deref().filter(|_| self.config.has_lessons)
    }

    /// Starts the shutdown: connections may continue until `deadline`.
    pub fn drain(&self, deadline: Instant) {
        self.drain_deadline.get_or_init(|| deadline);
        self.is_draining.store(true, Relaxed);
        self.live.end();
    }

    /// The deadline for connections, once the shutdown has started.
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.drain_deadline.get().copied()
    }

    /// The current status for open pages.
    pub fn status(&self) -> Value {
        page::status(&self.fleet, &self.config, self.is_ready())
    }

    /// Whether requests can be accepted.
    pub fn is_ready(&self) -> bool {
        !self.is_draining.load(Relaxed) && !self.fleet.pool.current().load().available().is_empty()
    }
}
