//! From a valid configuration to a running balancer, and its orderly end.
//!
//! The sockets are bound first, so that a taken port is an error of the start. Then the threads for
//! requests start, and this thread keeps what is beside the requests going until it is told to
//! stop: then the balancer is no longer ready, takes no new connection, finishes what it has, and
//! only then stops its workers.

use std::io::Write;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::discovery::Discovery;
use crate::log_file::LogFile;
use crate::server::takeover::Takeover;
use crate::shared::Shared;
use crate::supervisor::Supervisor;
use crate::upstream::Pool;
use crate::{admin, health, server};

/// Clients who were served before wait no longer than this for the first endpoint.
const MAX_PATIENCE: Duration = Duration::from_secs(10);

/// The sockets of a balancer that is about to run.
#[derive(Debug)]
pub struct Bound {
    /// At least one for each thread.
    pub listeners: Vec<Vec<std::net::TcpListener>>,
    /// For operators.
    pub admin: std::net::TcpListener,
    /// Whether clients were served at these sockets before.
    pub is_inherited: bool,
    /// How addresses of the public port begin.
    pub scheme: &'static str,
    /// What a new process can take over.
    pub takeover: Option<Takeover>,
}

impl Bound {
    /// Binds what `config` names.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let admin = server::bind(config.admin, 1)
            .with_context(|| format!("cannot listen on {}", config.admin))?
            .swap_remove(0);
        if let Some(socket) = server::inherited()? {
            let listeners = server::spread(vec![socket], config.threads)?;
            return Ok(Self { listeners, admin, is_inherited: true, scheme, takeover: None });
        }
        let taken = Takeover::take(config.listen).unwrap_or_else(|error| {
            tracing::warn!(%error, "the old process does not hand over its sockets");
            None
        });
        if let Some((sockets, takeover)) = taken {
            let listeners = server::spread(sockets, config.threads)?;
            let takeover = Some(takeover);
            return Ok(Self { listeners, admin, is_inherited: true, scheme, takeover });
        }
        let sockets = server::bind(config.listen, config.threads)
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let takeover = offer(config.listen, &sockets);
        let listeners = server::spread(sockets, config.threads)?;
        Ok(Self { listeners, admin, is_inherited: false, scheme, takeover })
    }

    /// Where clients connect.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listeners[0][0].local_addr()
    }

    /// Tells where it listens.
    pub fn announce(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "listening on {}://{}", self.scheme, self.address()?)?;
        writeln!(out, "admin on http://{}", self.admin.local_addr()?)?;
        out.flush()
    }
}

/// A new process cannot be offered what is already offered by a process that runs beside this one
/// without having been taken over, because that belongs to another user; then both go their ways.
fn offer(address: SocketAddr, sockets: &[std::net::TcpListener]) -> Option<Takeover> {
    if address.port() == 0 {
        return None;
    }
    Takeover::offer(address, sockets)
        .inspect_err(|error| tracing::warn!(%error, "no other process can take over"))
        .ok()
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
    let discovery = Discovery::new(Arc::clone(&pool), &config, supervisor.clone()).await?;
    let log = access_log(&config)?;
    let shared = Arc::new(Shared::new(config, pool));
    let tls = shared.config.tls.clone();
    let (stop, stopping) = watch::channel(false);
    let (stop_workers, workers_stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(discovery.run(reload));
    tasks.spawn(health::run(Arc::clone(&shared), hurry));
    let admin = tokio::net::TcpListener::from_std(bound.admin)?;
    if let Some(tls) = tls {
        tasks.spawn(async move { tls.watch().await });
    }
    let admin = tasks.spawn(admin::run(Arc::clone(&shared), admin));
    let is_taken = bound.takeover.as_ref().map(Takeover::is_taken);
    let takeover = bound.takeover.map(|takeover| tasks.spawn(takeover.run()));
    let workers = supervisor.map(|supervisor| tokio::spawn(supervisor.run(workers_stopping)));

    let mut shutdown = pin!(shutdown);
    let mut listeners = bound.listeners;
    if bound.is_inherited {
        // The old process serves them, or they wait in the queue: both are better than a 503.
        tokio::select! {
            () = first_endpoint(&shared) => {}
            () = &mut shutdown => listeners.clear(),
        }
    }
    let is_running = !listeners.is_empty();
    let threads = server::start(&shared, listeners, log.as_ref(), &stopping)?;
    if is_running {
        shutdown.await;
    }
    tracing::info!("draining");
    shared.is_draining.store(true, Relaxed);
    if let Some(takeover) = takeover {
        takeover.abort();
    }
    if is_taken.is_some_and(|is_taken| is_taken.load(Relaxed)) {
        // Operators are to reach the new process from now on.
        admin.abort();
    }
    stop.send_replace(true);
    server::join(threads, &shared).await;
    stop_workers.send_replace(true);
    if let Some(workers) = workers {
        workers.await?;
    }
    tracing::info!("stopped");
    Ok(())
}

fn access_log(config: &Config) -> anyhow::Result<Option<Arc<LogFile>>> {
    let Some((path, _)) = &config.access_log else { return Ok(None) };
    let file = LogFile::open(path);
    Ok(Some(Arc::new(file.with_context(|| format!("cannot write {}", path.display()))?)))
}

/// Waits until an endpoint is available, but not for ever.
async fn first_endpoint(shared: &Shared) {
    let mut changes = shared.pool.subscribe();
    let ready = async { while !shared.is_ready() && changes.changed().await.is_ok() {} };
    drop(tokio::time::timeout(MAX_PATIENCE, ready).await);
}
