//! Local workers: started, watched, started again.
//!
//! The default of one command for everything: `balancer --spawn 2` starts two `worker serve`
//! processes and keeps them alive. A worker tells its address on its first line of output and keeps
//! it when it is started again. The moment a process exits its endpoint is marked as gone, so no
//! request waits for a probe to find out. A worker ends when its standard input does, and thus
//! never outlives the balancer.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::Spawn;
use crate::upstream::{Event, Pool};

/// A worker that fails at once is started again after this long, then twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No pause is longer.
const MAX_PAUSE: Duration = Duration::from_secs(4);
/// A worker that lived this long is not failing at once.
const SETTLED: Duration = Duration::from_secs(10);
/// A model may take long to load, but not for ever.
const START_LIMIT: Duration = Duration::from_mins(2);
/// Time for a worker to finish when it is told to.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What the workers' tasks share.
#[derive(Debug)]
pub struct Supervisor {
    spawn: Spawn,
    pool: Arc<Pool>,
    /// Addresses by number, once known; the sources of the rest of the list come first.
    addresses: Mutex<Vec<Option<SocketAddr>>>,
    changed: Notify,
    hurry: Arc<Notify>,
}

impl Supervisor {
    /// A supervisor that has started nothing yet.
    pub fn new(spawn: Spawn, pool: Arc<Pool>, hurry: Arc<Notify>) -> Self {
        let addresses = Mutex::new(vec![None; spawn.count]);
        Self { spawn, pool, addresses, changed: Notify::new(), hurry }
    }

    /// Names and addresses of the workers that have told theirs, up to the first that has not: the
    /// place of a worker in the list must not depend on who starts fastest.
    pub fn endpoints(&self) -> Vec<(String, SocketAddr)> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let known = addresses.iter().map_while(|address| *address);
        known.enumerate().map(|(number, address)| (name(number), address)).collect()
    }

    /// Waits for a change of [`Self::endpoints`].
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Keeps the workers alive until `shutdown` becomes true, then stops them.
    pub async fn run(self: Arc<Self>, shutdown: watch::Receiver<bool>) {
        let mut workers = JoinSet::new();
        for number in 0..self.spawn.count {
            workers.spawn(Arc::clone(&self).keep_alive(number, shutdown.clone()));
        }
        while workers.join_next().await.is_some() {}
    }

    async fn keep_alive(self: Arc<Self>, number: usize, mut shutdown: watch::Receiver<bool>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            match self.start(number).await {
                Ok((child, lines)) => {
                    let stopped = self.watch(number, child, lines, &mut shutdown).await;
                    if stopped {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(worker = name(number), %error, "worker does not start");
                }
            }
            pause =
                if started.elapsed() > SETTLED { FIRST_PAUSE } else { (pause * 2).min(MAX_PAUSE) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopped(&mut shutdown) => return,
            }
        }
    }

    /// Starts a worker and waits until it has told its address.
    async fn start(
        &self,
        number: usize,
    ) -> std::io::Result<(Child, Lines<BufReader<ChildStdout>>)> {
        let known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner)[number];
        let listen = known.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut child = Command::new(&self.spawn.program)
            .args(["serve", "--supervised", "--listen", &listen.to_string()])
            .args(["--threads", &self.spawn.threads.to_string()])
            .arg("--models")
            .arg(&self.spawn.models)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(stdout).lines();
        let first = tokio::time::timeout(START_LIMIT, lines.next_line()).await??;
        let address = first
            .as_deref()
            .and_then(parse_line)
            .ok_or_else(|| std::io::Error::other("it did not say where it listens"))?;
        tracing::info!(worker = name(number), %address, pid = child.id(), "worker started");
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(address);
        self.changed.notify_one();
        self.hurry.notify_waiters();
        Ok((child, lines))
    }

    /// Waits for a worker to exit; true if it was told to.
    async fn watch(
        &self,
        number: usize,
        mut child: Child,
        mut lines: Lines<BufReader<ChildStdout>>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> bool {
        // Closed by dropping it, which tells the worker to finish.
        let stdin = child.stdin.take();
        loop {
            tokio::select! {
                exited = child.wait() => {
                    self.mark_gone(number);
                    warn(number, exited);
                    return false;
                }
                // A pipe that nobody reads would block the worker one day.
                line = lines.next_line() => if !matches!(line, Ok(Some(_))) {
                    let exited = child.wait().await;
                    self.mark_gone(number);
                    warn(number, exited);
                    return false;
                },
                () = stopped(shutdown) => break,
            }
        }
        drop(stdin);
        if tokio::time::timeout(STOP_LIMIT, child.wait()).await.is_err() {
            tracing::warn!(worker = name(number), "worker does not stop and is killed");
        }
        true
    }

    fn mark_gone(&self, number: usize) {
        let name = name(number);
        for endpoint in self.pool.snapshot().all() {
            if endpoint.name() == name {
                self.pool.apply(endpoint, Event::Gone);
            }
        }
    }
}

async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // The sender going away means the same.
    let _stopped = shutdown.wait_for(|stop| *stop).await.is_ok();
}

fn warn(number: usize, exited: std::io::Result<ExitStatus>) {
    let status = exited.map_or_else(|error| error.to_string(), |status| status.to_string());
    tracing::warn!(worker = name(number), status, "worker exited and is started again");
}

/// The name of a spawned worker; as in the slice they count from 1.
fn name(number: usize) -> String {
    format!("worker{}", number + 1)
}

/// The address in `listening on ADDR:PORT`.
fn parse_line(line: &str) -> Option<SocketAddr> {
    let address = line.trim().strip_prefix("listening on ")?;
    address.strip_prefix("http://").unwrap_or(address).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_says_where_it_listens() {
        let address = SocketAddr::from(([127, 0, 0, 1], 4242));
        assert_eq!(parse_line("listening on 127.0.0.1:4242"), Some(address));
        assert_eq!(parse_line("listening on http://127.0.0.1:4242\n"), Some(address));
        assert_eq!(parse_line("hello"), None);
    }
}
