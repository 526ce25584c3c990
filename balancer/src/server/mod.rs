//! The front: threads, their listeners, and the connections of clients.
//!
//! Every thread accepts from a socket of its own (the kernel spreads new connections over them) and
//! serves a connection to its end. On shutdown a thread takes what is already waiting in its
//! socket, lets every request finish, and closes.

mod connection;
mod deferred;
mod listen;
mod multiplexed;
mod stream;
#[cfg(target_os = "linux")]
pub mod takeover;
#[cfg(not(target_os = "linux"))]
#[path = "no_takeover.rs"]
pub mod takeover;

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::access_log::Buffer;
use crate::lane::{Lane, Waits};
use crate::shared::Shared;

pub use listen::{bind, bind_alone, inherited, spread};

/// Slow chores are done once in so many sweeps.
const SWEEPS_PER_CHORE: u32 = 20;

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
        let thread = std::thread::Builder::new().name(format!("lane-{number}"));
        threads.push(thread.spawn(move || {
            let runtime =
                Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    runtime.block_on(run(Lane::new(shared, buffer), listeners, shutdown));
                }
                Err(error) => tracing::error!(%error, "a thread cannot start"),
            }
        })?);
    }
    Ok(threads)
}

async fn run(lane: Lane, listeners: Vec<std::net::TcpListener>, shutdown: watch::Receiver<bool>) {
    let lane = Rc::new(lane);
    let chores = tokio::task::spawn_local(chores(Rc::clone(&lane)));
    let rounds = Rc::clone(&lane);
    let rounds =
        tokio::task::spawn_local(poll_fn(move |context| rounds.outbox.poll_rounds(context)));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                accepting.spawn_local(listen(Rc::clone(&lane), listener, shutdown.clone()));
            }
            Err(error) => tracing::error!(%error, "a thread cannot listen"),
        }
    }
    while accepting.join_next().await.is_some() {}
    drain(&lane).await;
    chores.abort();
    rounds.abort();
    lane.outbox.flush();
    lane.idle.clear();
    flush(lane.log.as_ref());
}

async fn listen(lane: Rc<Lane>, listener: TcpListener, mut shutdown: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => accept(&lane, accepted).await,
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    // Clients whose connection the kernel has already accepted must not be reset.
    while let Some(accepted) = accept_now(&listener).await {
        accept(&lane, Ok(accepted)).await;
    }
}

async fn accept(lane: &Rc<Lane>, accepted: std::io::Result<(TcpStream, SocketAddr)>) {
    match accepted {
        Ok((stream, peer)) => connection::start(lane, stream, peer),
        Err(error) => {
            // Out of file descriptors, most likely: it gets better when connections close.
            tracing::warn!(%error, "accept");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn accept_now(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    poll_fn(|context| match listener.poll_accept(context) {
        Poll::Ready(accepted) => Poll::Ready(accepted.ok()),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Waits until every connection is closed, or until that takes too long.
async fn drain(lane: &Lane) {
    lane.is_draining.set(true);
    lane.clients.wake_all();
    let deadline = lane.shared.drain_deadline().unwrap_or_else(Instant::now);
    while lane.clients.count() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if lane.clients.count() > 0 {
        tracing::warn!(connections = lane.clients.count(), "closed before they were done");
    }
}

/// Everything that a thread does now and then: time limits, idle connections, the access log.
async fn chores(lane: Rc<Lane>) {
    let mut interval = tokio::time::interval(Waits::PERIOD);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut changes = lane.shared.pool.subscribe();
    for sweep in 0_u32.. {
        let now = interval.tick().await;
        let is_changed = changes.has_changed().unwrap_or(false);
        if is_changed {
            changes.mark_unchanged();
        }
        lane.waits.sweep(Instant::now().max(now), is_changed);
        // Endpoints may have come, or learned that they can take more.
        lane.serve_waiting();
        if sweep % SWEEPS_PER_CHORE == 0 {
            lane.idle.sweep(now);
            lane.clients.sweep(now, &lane.shared.config.timeouts, lane.is_draining.get());
            flush(lane.log.as_ref());
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
