//! From a valid configuration to a running balancer, and its graceful shutdown.
//!
//! The sockets are bound first, so that a taken port is reported as a startup error. Then the
//! request threads start, while this thread runs everything else until it is told to stop. The
//! balancer is then no longer ready, accepts no new connections, finishes pending requests, and
//! only then stops its workers.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use fleet::{ANY_NAME, Pool};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::config::{Config, LogFormat};
use crate::discovery::Discovery;
use crate::joins::{Joins, LEASE};
use crate::log::{Destination, LogWriter, Logs};
use crate::permission::TokenFile;
use crate::server::takeover::{AdminSocket, Lender, Loan, Takeover};
use crate::shared::Shared;
use crate::supervisor::{Children, Supervisor};
use crate::tls::Tls;
use crate::{admin, health, history, page, server};

/// Clients of an earlier process wait at most this long for the first endpoint.
const MAX_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of access log lines that may wait for a disk or a reader.
const ACCESS_LOG_LIMIT: usize = 16 * 1024 * 1024;
/// Clients get all of the drain limit but a tenth, at most this long, which is for the workers.
const MAX_RESERVE: Duration = Duration::from_secs(1);
/// A longer drain limit is shortened to this.
const MAX_LIMIT: Duration = Duration::from_hours(24 * 365);

/// The sockets of a balancer that is about to run.
#[derive(Debug)]
pub struct Bound {
    /// At least one for each thread.
    pub listeners: Vec<Vec<std::net::TcpListener>>,
    /// The listening socket of the admin port.
    pub admin: std::net::TcpListener,
    /// Lends the admin socket to a later process with the same addresses.
    lender: Option<Lender>,
    /// Keeps the process that lent the admin socket from using it.
    loan: Option<Loan>,
    /// Whether these sockets have served clients before.
    pub is_inherited: bool,
    /// URL scheme of the public port.
    pub scheme: &'static str,
    /// Offers the sockets to a new process.
    pub takeover: Option<Takeover>,
}

/// What a balancer shares with the process around it.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Requests that everything read from files, such as the list of endpoints, is read again.
    pub reload: Arc<Notify>,
    /// The logs of events and requests.
    pub logs: Logs,
    /// The running worker processes.
    pub children: Arc<Children>,
}

impl Surroundings {
    /// Opens the access log that `config` names; `operator` is the log that is already open.
    pub fn new(config: &Config, operator: Option<Arc<LogWriter>>) -> anyhow::Result<Self> {
        let open = |(path, _): &(PathBuf, LogFormat)| {
            LogWriter::start("access", &Destination::new(path), ACCESS_LOG_LIMIT)
                .with_context(|| format!("access-log: cannot write {}", path.display()))
        };
        let access = config.access_log.as_ref().map(open).transpose()?.map(Arc::new);
        Ok(Self { logs: Logs { operator, access }, ..Self::default() })
    }
}

impl Bound {
    /// Binds the addresses that `config` names.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        if let Some(socket) = server::inherited()? {
            let listen = socket.local_addr()?;
            let listeners = server::spread(vec![socket], config.threads)?;
            return Self::with_admin(config, listen, listeners, None, true);
        }
        let taken = Takeover::take(config.listen).unwrap_or_else(|error| {
            tracing::warn!(%error, "take-over failed, new sockets are bound");
            None
        });
        if let Some((sockets, takeover)) = taken {
            let listeners = server::spread(sockets, config.threads)?;
            return Self::with_admin(config, config.listen, listeners, Some(takeover), true);
        }
        let sockets = server::bind(config.listen, config.threads)
            .map_err(|error| cannot_listen(error, config.listen, "listen"))?;
        let takeover = offer(config.listen, &sockets);
        let listeners = server::spread(sockets, config.threads)?;
        Self::with_admin(config, config.listen, listeners, takeover, false)
    }

    /// The admin port is only taken over from a process with the same two addresses: two that share
    /// it by accident would receive each other's commands. `listen` is where clients connect, which
    /// differs from `config` if the socket was inherited.
    fn with_admin(
        config: &Config,
        listen: SocketAddr,
        listeners: Vec<Vec<std::net::TcpListener>>,
        takeover: Option<Takeover>,
        is_inherited: bool,
    ) -> anyhow::Result<Self> {
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let address = config.admin;
        let borrowed = AdminSocket::borrow(listen, address).unwrap_or_else(|error| {
            tracing::warn!(%error, "the old process does not hand over its admin port");
            None
        });
        let (admin, lender, loan) = if let Some(AdminSocket { listener, lender, loan }) = borrowed {
            (listener, Some(lender), loan)
        } else {
            let socket = server::bind_alone(address)
                .map_err(|error| cannot_listen(error, address, "admin"))?;
            let lender = lender(listen, address, &socket);
            (socket, lender, None)
        };
        Ok(Self { listeners, admin, lender, loan, is_inherited, scheme, takeover })
    }

    /// Whether the client sockets outlive this process: systemd keeps its own open, and another
    /// process may have taken them over.
    fn sockets_stay(&self) -> impl Fn() -> bool + use<> {
        let is_taken = self.takeover.as_ref().map(Takeover::is_taken);
        let is_lent = self.is_inherited && is_taken.is_none();
        move || is_lent || is_taken.as_ref().is_some_and(|is_taken| *is_taken.borrow())
    }

    /// The address of the public port.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listeners[0][0].local_addr()
    }

    /// Prints the addresses that it listens on.
    pub fn announce(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "listening on {}://{}", self.scheme, self.address()?)?;
        writeln!(out, "admin on http://{}", self.admin.local_addr()?)?;
        out.flush()
    }
}

/// Offers the sockets to a later process. `None` if a running process that was not taken over
/// already does so: it belongs to another user, and the two stay independent.
fn offer(address: SocketAddr, sockets: &[std::net::TcpListener]) -> Option<Takeover> {
    if address.port() == 0 {
        return None;
    }
    Takeover::offer(address, sockets)
        .inspect_err(
            |error| tracing::warn!(%error, "sockets cannot be handed over to a later process"),
        )
        .ok()
}

fn lender(listen: SocketAddr, admin: SocketAddr, socket: &std::net::TcpListener) -> Option<Lender> {
    if listen.port() == 0 || admin.port() == 0 {
        return None;
    }
    Lender::offer(listen, admin, socket)
        .inspect_err(|error| tracing::debug!(%error, "the admin port cannot be handed over"))
        .ok()
}

/// The error for a taken port, naming the flag that sets another.
fn cannot_listen(error: std::io::Error, address: SocketAddr, flag: &str) -> anyhow::Error {
    let port = address.port();
    let hint = if error.kind() != ErrorKind::AddrInUse {
        String::new()
    } else if cfg!(target_os = "macos") && matches!(port, 5000 | 7000) {
        format!(
            ": AirPlay Receiver of macOS may have it (System Settings, General, AirDrop & Handoff); choose another port with --{flag}"
        )
    } else {
        format!(": another program has it; choose another port with --{flag}")
    };
    anyhow::Error::new(error).context(format!("cannot listen on {address}{hint}"))
}

/// Runs until `shutdown` completes, and then for the drain limit at most.
pub async fn run(
    config: Config,
    bound: Bound,
    shutdown: impl Future<Output = ()>,
    surroundings: Surroundings,
) -> anyhow::Result<()> {
    let Surroundings { reload, logs, children } = surroundings;
    let sockets_stay = bound.sockets_stay();
    warn_about_secrets(&config);
    let pool = Arc::new(Pool::new(config.pool, Instant::now()));
    let hurry = Arc::new(Notify::new());
    let supervisor = config.spawn.clone().map(|spawn| {
        Arc::new(Supervisor::new(spawn, Arc::clone(&pool), Arc::clone(&hurry), children))
    });
    let discovery = Discovery::new(Arc::clone(&pool), &config, supervisor.clone()).await?;
    let limit = config.timeouts.drain;
    let shared =
        Arc::new(Shared::new(config, pool).with_logs(logs).with_workers(supervisor.clone()));
    let (stop, stopping) = watch::channel(false);
    let (stop_workers, workers_stopping) = watch::channel(None);
    let mut tasks = JoinSet::new();
    let reload_list = Arc::new(Notify::new());
    tasks.spawn(pass_on(reload, Arc::clone(&reload_list), Arc::clone(&shared)));
    tasks.spawn(discovery.run(reload_list));
    tasks.spawn(health::run(Arc::clone(&shared), hurry));
    watch(&mut tasks, &shared);
    let is_lent = serve_operators(&mut tasks, &shared, bound.admin, bound.lender)?;
    // systemd passes its sockets to every process: only the admin port shows which one is youngest.
    let successor = bound.takeover.as_ref().map_or(is_lent, Takeover::is_taken);
    welcome(&shared, successor);
    // Until this process ends, its lender leaves the admin port alone.
    let _loan = bound.loan;
    let takeover = bound.takeover.map(|takeover| tasks.spawn(takeover.run()));
    let workers = supervisor.map(|supervisor| tokio::spawn(supervisor.run(workers_stopping)));

    let mut shutdown = pin!(shutdown);
    let mut listeners = bound.listeners;
    // Workers join where clients connect: waiting for one before listening there would be in vain.
    if bound.is_inherited && shared.config.joins.is_none() {
        // The old process serves clients, or they wait in the queue: both are better than a 503.
        tokio::select! {
            () = first_endpoint(&shared) => {}
            () = &mut shutdown => listeners.clear(),
        }
    }
    let is_running = !listeners.is_empty();
    let threads = server::start(&shared, listeners, &stopping)?;
    if is_running {
        shutdown.await;
    }
    let deadline = Instant::now() + limit.min(MAX_LIMIT);
    tracing::info!(limit = %humantime::format_duration(limit), "draining");
    shared.drain(deadline - (limit / 10).min(MAX_RESERVE));
    takeover.iter().for_each(AbortHandle::abort);
    shared.leaves_queue.store(sockets_stay(), Relaxed);
    stop.send_replace(true);
    let joined = tokio::time::timeout_at(deadline, server::join(threads)).await;
    stop_workers.send_replace(Some(deadline));
    if let Some(workers) = workers {
        workers.await?;
    }
    joined.context("threads still run at the end of drain-timeout")?;
    tracing::info!("stopped");
    Ok(())
}

/// Warns about readable or weak secrets. They are the operator's choice: mounted ones often are
/// readable by others.
fn warn_about_secrets(config: &Config) {
    let tokens = || token_files(config);
    for token in tokens().filter(|token| token.is_weak()) {
        let path = token.path().display();
        tracing::warn!(%path, "this token is short; make one with: openssl rand -hex 32");
    }
    let key = config.tls.as_deref().map(Tls::key);
    for path in tokens().map(TokenFile::path).chain(key) {
        let mode = std::fs::metadata(path).map_or(0, |file| file.permissions().mode());
        if mode & 0o004 != 0 {
            let path = path.display();
            tracing::warn!(%path, "every user of this machine can read this secret; chmod 600 it");
        }
    }
}

/// The tokens of operators and of workers that join.
fn token_files(config: &Config) -> impl Iterator<Item = &TokenFile> {
    let joining = config.joins.as_deref().map(Joins::token);
    config.permission.token.as_deref().into_iter().chain(joining)
}

/// Reloads everything that is read from files. A slow reload does not hold up the others.
async fn pass_on(reload: Arc<Notify>, list: Arc<Notify>, shared: Arc<Shared>) {
    let tokens = Notify::new();
    let pass_on = async {
        loop {
            reload.notified().await;
            list.notify_one();
            tokens.notify_one();
        }
    };
    tokio::join!(pass_on, read_tokens(&tokens, &shared));
}

async fn read_tokens(reload: &Notify, shared: &Arc<Shared>) {
    loop {
        reload.notified().await;
        let shared = Arc::clone(shared);
        // A disk may hang.
        let reading = tokio::task::spawn_blocking(move || {
            for token in token_files(&shared.config) {
                let path = token.path().display();
                match token.reload() {
                    Ok(()) => tracing::info!(%path, "tokens reloaded"),
                    Err(error) => tracing::warn!(%error, "tokens not reloaded"),
                }
            }
        });
        if let Err(error) = reading.await {
            tracing::error!(%error, "tokens not reloaded");
        }
    }
}

/// Keeps the certificate and everything shown to people up to date.
fn watch(tasks: &mut JoinSet<()>, shared: &Arc<Shared>) {
    if let Some(tls) = shared.config.tls.clone() {
        tasks.spawn(async move { tls.watch().await });
    }
    let (history, pool) = (Arc::clone(&shared.history), Arc::clone(&shared.fleet.pool));
    tasks.spawn(history::run(history, pool));
    let (live, watched) = (Arc::clone(&shared.live), Arc::clone(shared));
    tasks.spawn(page::run(live, move || watched.status()));
}

/// Serves the admin port, or lends it to a later process; returns whether it is lent.
fn serve_operators(
    tasks: &mut JoinSet<()>,
    shared: &Arc<Shared>,
    listener: std::net::TcpListener,
    lender: Option<Lender>,
) -> anyhow::Result<watch::Receiver<bool>> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (lent, is_lent) = watch::channel(false);
    let (pause, pauses) = watch::channel(false);
    if let Some(lender) = lender {
        // To the end: the next process may come while this one drains.
        tasks.spawn(lender.run(lent, pauses));
    }
    tasks.spawn(admin::run(Arc::clone(shared), listener, is_lent.clone(), pause));
    Ok(is_lent)
}

/// Where workers join, those of an earlier process return with their next renewal, and requests
/// wait for them. While there is a `successor`, a later process, renewals reach it instead.
fn welcome(shared: &Shared, successor: watch::Receiver<bool>) {
    let Some(joins) = &shared.config.joins else { return };
    joins.yield_to(successor);
    if !shared.is_ready() {
        shared.fleet.pool.expect(ANY_NAME, Some(Instant::now() + LEASE));
    }
}

/// Waits until an endpoint is available, within a limit.
async fn first_endpoint(shared: &Shared) {
    let mut changes = shared.fleet.pool.subscribe();
    let ready = async { while !shared.is_ready() && changes.changed().await.is_ok() {} };
    drop(tokio::time::timeout(MAX_PATIENCE, ready).await);
}
