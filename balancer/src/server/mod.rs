//! The front end: threads, their listeners, and client connections.
//!
//! Every thread accepts from its own socket (the kernel spreads new connections over them) and
//! serves a connection to its end. On shutdown a thread accepts the connections that already wait
//! at its socket, lets every request finish, and closes.

mod connection;
mod deferred;
mod http1;
pub(crate) mod linger;
mod listen;
mod multiplexed;
mod refusal;
mod stream;
#[cfg(target_os = "linux")]
pub mod takeover;
#[cfg(not(target_os = "linux"))]
#[path = "no_takeover.rs"]
pub mod takeover;
mod transport;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

pub use listen::{bind, bind_alone, inherited, spread};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::access_log::Buffer;
use crate::shard::{Shard, Waits};
use crate::shared::Shared;

/// Pause after a failed accept, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Pause between two batches of waiting requests that are refused, so that others can run.
const SHED_PAUSE: Duration = Duration::from_millis(1);

/// Slow chores are done once per this many sweeps.
const SWEEPS_PER_CHORE: u32 = 20;
/// Maximum number of connections accepted from a socket's queue when the balancer stops:
/// twice what fits.
const MAX_WAITING: u32 = 8192;
/// After accepting this many connections, the task yields so that they are served.
const ACCEPTED_AT_ONCE: u32 = 64;

/// Starts one thread for each group of listeners. They end some time after `shutdown` becomes true.
pub fn start(
    shared: &Arc<Shared>,
    listeners: Vec<Vec<std::net::TcpListener>>,
    shutdown: &watch::Receiver<bool>,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::with_capacity(listeners.len());
    for (number, listeners) in listeners.into_iter().enumerate() {
        let (shared, shutdown) = (Arc::clone(shared), shutdown.clone());
        let format = shared.config.access_log.as_ref().map(|(_, format)| *format);
        let buffer = shared.logs.access.as_ref().zip(format);
        let buffer = buffer.map(|(log, format)| Buffer::new(Arc::clone(log), format));
        let thread = std::thread::Builder::new().name(format!("shard-{number}"));
        threads.push(thread.spawn(move || {
            let runtime =
                Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    runtime.block_on(run(Shard::new(shared, buffer), listeners, shutdown));
                }
                Err(error) => tracing::error!(%error, "a thread cannot start"),
            }
        })?);
    }
    Ok(threads)
}

async fn run(shard: Shard, listeners: Vec<std::net::TcpListener>, shutdown: watch::Receiver<bool>) {
    let shard = Rc::new(shard);
    let chores = tokio::task::spawn_local(keep_up(Rc::clone(&shard)));
    let rounds = Rc::clone(&shard);
    let rounds =
        tokio::task::spawn_local(poll_fn(move |context| rounds.write_queue.poll_rounds(context)));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                accepting.spawn_local(listen(Rc::clone(&shard), listener, shutdown.clone()));
            }
            Err(error) => tracing::error!(%error, "a thread cannot listen"),
        }
    }
    while accepting.join_next().await.is_some() {}
    drain(&shard).await;
    chores.abort();
    rounds.abort();
    shard.write_queue.flush();
    shard.idle.clear();
    flush(shard.log.as_ref());
}

async fn listen(shard: Rc<Shard>, listener: TcpListener, mut shutdown: watch::Receiver<bool>) {
    let mut successor = shard.shared.config.joins.as_ref().and_then(|joins| joins.successor());
    loop {
        tokio::select! {
            accepted = next(&listener, successor.as_mut()) => accept(&shard, accepted).await,
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    shard.is_draining.set(true);
    if !shard.shared.leaves_queue.load(Relaxed)
        && let Err(error) = take_waiting(&shard, listener).await
    {
        tracing::warn!(%error, "connections that waited to be accepted are lost");
    }
}

/// Accepts the next client. While a successor runs, all new clients are left to it: where workers
/// join, a worker that reached either process by chance could be unknown to the one that stays.
async fn next(
    listener: &TcpListener,
    successor: Option<&mut watch::Receiver<bool>>,
) -> std::io::Result<(TcpStream, SocketAddr)> {
    let Some(successor) = successor else { return listener.accept().await };
    while successor.wait_for(|is_there| !is_there).await.is_ok() {
        tokio::select! {
            accepted = listener.accept() => return accepted,
            told = successor.wait_for(|is_there| *is_there) => if told.is_err() { break },
        }
    }
    // There is no more news of a successor: this process is about to end, or cannot be taken over.
    if *successor.borrow() { std::future::pending().await } else { listener.accept().await }
}

/// Takes the connections that the kernel has already accepted: closing the socket would reset them.
/// The socket itself is polled, because the runtime's knowledge of it is older.
async fn take_waiting(shard: &Rc<Shard>, listener: TcpListener) -> std::io::Result<()> {
    let listener = listener.into_std()?;
    for number in 1..=MAX_WAITING {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                connection::start(shard, TcpStream::from_std(stream)?, peer);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // That client has already gone.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
        if number % ACCEPTED_AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

async fn accept(shard: &Rc<Shard>, accepted: std::io::Result<(TcpStream, SocketAddr)>) {
    match accepted {
        Ok((stream, peer)) => connection::start(shard, stream, peer),
        // That client has already gone.
        Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
        Err(error) => {
            // Out of file descriptors, most likely: it gets better when connections close.
            shard.clients.make_room();
            if shard.clients.may_complain(Instant::now()) {
                tracing::warn!(%error, "client connections cannot be accepted");
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Waits until every connection is closed, or until the drain deadline.
async fn drain(shard: &Shard) {
    shard.is_draining.set(true);
    shard.clients.wake_all();
    let deadline = shard.shared.drain_deadline().unwrap_or_else(Instant::now);
    while shard.clients.count() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if shard.clients.count() > 0 {
        tracing::warn!(
            connections = shard.clients.count(),
            "connections closed before they were done"
        );
    }
}

/// Repeats the chores forever. They call policies, and a panic there must not end all time limits.
async fn keep_up(shard: Rc<Shard>) {
    loop {
        let mut work = JoinSet::new();
        work.spawn_local(chores(Rc::clone(&shard)));
        // Only a panic ends it, which is logged.
        drop(work.join_next().await);
    }
}

/// Everything that a thread does periodically: time limits, idle connections, the access log.
async fn chores(shard: Rc<Shard>) {
    let mut interval = tokio::time::interval_at(Instant::now() + Waits::PERIOD, Waits::PERIOD);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut changes = shard.shared.fleet.pool.subscribe();
    for sweep in 0_u32.. {
        let now = interval.tick().await;
        let is_changed = changes.has_changed().unwrap_or(false);
        if is_changed {
            changes.mark_unchanged();
        }
        shard.waits.sweep(Instant::now().max(now), is_changed).await;
        if sweep % SWEEPS_PER_CHORE == 0 {
            shard.idle.sweep(now);
            shard.backlog.sweep(now);
            shard.shared.traffic.answers_given_up.fetch_add(shard.backlog.take_given_up(), Relaxed);
            shard.clients.sweep(now, &shard.shared.config.timeouts, shard.is_draining.get());
            flush(shard.log.as_ref());
        }
        // Endpoints may have been added, or may now take more.
        while shard.view.serve_waiting(shard.waits.now()) {
            tokio::time::sleep(SHED_PAUSE).await;
        }
    }
}

fn flush(log: Option<&RefCell<Buffer>>) {
    if let Some(log) = log {
        log.borrow_mut().flush();
    }
}

/// Waits until `threads` have ended.
pub async fn join(threads: Vec<JoinHandle<()>>) {
    let joined = tokio::task::spawn_blocking(move || {
        threads.into_iter().filter_map(|thread| thread.join().err()).count()
    });
    if joined.await.unwrap_or(1) > 0 {
        tracing::error!("a thread panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use fleet::Pool;
    use tokio::runtime::LocalRuntime;

    use super::connection::tests::{Ask, ask_all, ask_each, encrypted, with_tls};
    use super::*;
    use crate::config::{Config, Settings};

    /// More than the runtime accepts in one go.
    const CLIENTS: usize = 400;

    fn runtime() -> LocalRuntime {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.expect("a runtime")
    }

    fn shard(settings: Settings) -> Shard {
        let worker = vec!["127.0.0.1:1".to_owned()];
        let config = Config::try_new(&Settings { worker, ..settings }).expect("valid");
        let pool = Arc::new(Pool::new(config.pool, Instant::now()));
        Shard::new(Arc::new(Shared::new(config, pool)), None)
    }

    /// A socket in whose queue clients wait, each with a request.
    fn crowded() -> (std::net::TcpListener, Vec<std::net::TcpStream>) {
        let listener = bind(([127, 0, 0, 1], 0).into(), 1).expect("bound").remove(0);
        let address = listener.local_addr().expect("bound");
        let clients = (0..CLIENTS).map(|_| {
            let mut client = std::net::TcpStream::connect(address).expect("connected");
            client.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n").expect("sent");
            client
        });
        let clients = clients.collect();
        (listener, clients)
    }

    #[test]
    fn clients_that_wait_to_be_accepted_when_the_balancer_stops_are_served() {
        let (listener, clients) = crowded();
        let (_stop, stopping) = watch::channel(true);
        let shard = shard(Settings::default());
        shard.shared.drain(Instant::now() + Duration::from_secs(30));
        runtime().block_on(run(shard, vec![listener], stopping));
        for mut client in clients {
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("an orderly end");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.contains("connection: close"), "{answer}");
        }
    }

    /// Clients wait to be accepted; then each does its handshake, if any, and sends requests.
    fn are_served<W>(settings: Settings, ask: impl Fn(TcpStream) -> W)
    where
        W: Future<Output = ()> + 'static,
    {
        let listener = bind(([127, 0, 0, 1], 0).into(), 1).expect("bound").remove(0);
        let address = listener.local_addr().expect("bound");
        let connect = |_| std::net::TcpStream::connect(address).expect("connected");
        let clients: Vec<_> = (0..50).map(connect).collect();
        let (_stop, stopping) = watch::channel(true);
        let shard = shard(settings);
        shard.shared.drain(Instant::now() + Duration::from_secs(30));
        runtime().block_on(async {
            let mut asking = JoinSet::new();
            for client in clients {
                client.set_nonblocking(true).expect("set");
                asking.spawn_local(ask(TcpStream::from_std(client).expect("registered")));
            }
            run(shard, vec![listener], stopping).await;
            while let Some(asked) = asking.join_next().await {
                asked.expect("served");
            }
        });
    }

    #[test]
    fn clients_that_wait_to_be_accepted_are_served_whatever_they_speak() {
        let h2c = Settings { h2c: Some(true), ..Settings::default() };
        are_served(h2c, |client| ask_each(client, &[Ask::Live]));
        are_served(with_tls(), async |client| {
            ask_all(encrypted(client, b"http/1.1").await, &[Ask::Live], false).await;
        });
        are_served(with_tls(), async |client| {
            ask_each(encrypted(client, b"h2").await, &[Ask::Live]).await;
        });
    }

    #[test]
    fn clients_who_wait_at_a_socket_that_stays_open_are_left_to_its_next_owner() {
        let (listener, clients) = crowded();
        let next = listener.try_clone().expect("cloned");
        let (_stop, stopping) = watch::channel(true);
        let shard = shard(Settings::default());
        shard.shared.leaves_queue.store(true, Relaxed);
        runtime().block_on(run(shard, vec![listener], stopping));
        for _ in &clients {
            next.accept().expect("still there");
        }
    }
}
