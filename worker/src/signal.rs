//! Signals to the process: shut down, or rescan the models.

use std::future::Future;
use std::io::Read;
use std::sync::mpsc::Sender;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::serving::loader::Order;

/// Completes when the process should shut down: on SIGTERM, and on SIGINT or, when supervised, at
/// the end of stdin. A supervised worker ignores SIGINT: Ctrl-C reaches the whole process group,
/// and the supervisor decides when its workers stop.
pub fn leave(supervised: bool) -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stdin_ended = if supervised { Some(stdin_end()?) } else { None };
    Ok(async move {
        let told = async {
            if let Some(ended) = stdin_ended {
                drop(ended.await);
            } else {
                interrupt.recv().await;
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            () = told => {}
        }
    })
}

/// Forwards SIGHUP as [`Order::Rescan`] while the returned set is alive.
pub fn rescan_on_hangup(orders: Sender<Order>) -> std::io::Result<JoinSet<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while hangup.recv().await.is_some() && orders.send(Order::Rescan).is_ok() {}
    });
    Ok(tasks)
}

/// Resolves when stdin is closed. The thread blocks in `read` and ends with the process; tokio's
/// own stdin would delay the shutdown of the runtime.
fn stdin_end() -> std::io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut sink = [0; 512];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut sink), Ok(read) if read > 0) {}
        let _nobody_waits = ended.send(());
    })?;
    Ok(end)
}
