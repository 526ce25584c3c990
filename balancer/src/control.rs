//! From a valid configuration to a running balancer, and its orderly end.
//!
//! The sockets are bound first, so that a taken port is an error of the start. Then the threads for
//! requests start, and this thread keeps what is beside the requests going until it is told to
//! stop: then the balancer is no longer ready, takes no new connection, finishes what it has, and
//! only then stops its workers.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::discovery::Discovery;
use crate::shared::Shared;
use crate::supervisor::Supervisor;
use crate::upstream::Pool;
use crate::{admin, health, server};

/// The sockets of a balancer that is about to run.
#[derive(Debug)]
pub struct Bound {
    /// One for each thread.
    pub listeners: Vec<std::net::TcpListener>,
    /// For operators.
    pub admin: std::net::TcpListener,
}

impl Bound {
    /// Binds what `config` names.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let listeners = match server::inherited(config.threads)? {
            Some(listeners) => listeners,
            None => server::bind(config.listen, config.threads)
                .with_context(|| format!("cannot listen on {}", config.listen))?,
        };
        let admin = server::bind(config.admin, 1)
            .with_context(|| format!("cannot listen on {}", config.admin))?
            .swap_remove(0);
        Ok(Self { listeners, admin })
    }

    /// Where clients connect.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listeners[0].local_addr()
    }

    /// Tells where it listens.
    pub fn announce(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "listening on http://{}", self.address()?)?;
        writeln!(out, "admin on http://{}", self.admin.local_addr()?)?;
        out.flush()
    }
}

/// Runs until `shutdown` ends. `reload` has the list of endpoints read again.
pub async fn run(
    config: Config,
    bound: Bound,
    shutdown: impl Future<Output = ()>,
    reload: Arc<Notify>,
) -> anyhow::Result<()> {
    let pool = Arc::new(Pool::new(config.pool));
    let hurry = Arc::new(Notify::new());
    let supervisor = config
        .spawn
        .clone()
        .map(|spawn| Arc::new(Supervisor::new(spawn, Arc::clone(&pool), Arc::clone(&hurry))));
    let discovery = Discovery::new(Arc::clone(&pool), &config.sources, supervisor.clone()).await?;
    let log = match &config.access_log {
        None => None,
        Some((path, _)) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.with_context(|| format!("cannot write {}", path.display()))?;
            Some(Arc::new(file))
        }
    };
    let shared = Arc::new(Shared::new(config, pool));
    let (stop, stopping) = watch::channel(false);
    let (stop_workers, workers_stopping) = watch::channel(false);
    let threads = server::start(&shared, bound.listeners, log.as_ref(), &stopping)?;

    let mut tasks = JoinSet::new();
    tasks.spawn(discovery.run(reload));
    tasks.spawn(health::run(Arc::clone(&shared), hurry));
    let admin = tokio::net::TcpListener::from_std(bound.admin)?;
    tasks.spawn(admin::run(Arc::clone(&shared), admin));
    let workers = supervisor.map(|supervisor| tokio::spawn(supervisor.run(workers_stopping)));

    shutdown.await;
    tracing::info!("draining");
    shared.is_draining.store(true, Relaxed);
    stop.send_replace(true);
    server::join(threads, &shared).await;
    stop_workers.send_replace(true);
    if let Some(workers) = workers {
        workers.await?;
    }
    tracing::info!("stopped");
    Ok(())
}
