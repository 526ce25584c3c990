//! The process from start to exit: handles signals, and exits within the time limit.
//!
//! The main thread only waits: for signals, for the balancer to end, and for the limit. Everything
//! that can block (name servers, children, clients, descriptors) is on other threads, so nothing
//! can delay the exit: this thread kills any remaining workers and returns, which ends the process.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::Config;
use crate::control::{Bound, Surroundings, run as balance};
use crate::log::{Destination, LogWriter};

/// Time beyond the drain limit in which the balancer may still end in order.
const GRACE: Duration = Duration::from_millis(500);
/// Maximum time to wait for the end.
const MAX_LIMIT: Duration = Duration::from_hours(24 * 365);
/// A signal may reach the process twice, alone and with its group (as `timeout` sends it), or as
/// SIGINT and as the SIGTERM of a script that forwards it: within this time it counts once.
const ECHO: Duration = Duration::from_millis(300);
/// Time limit for writing the last lines of a log.
const FLUSH_LIMIT: Duration = Duration::from_millis(300);
/// Bytes of announcements that may wait for a reader.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// Runs a balancer until SIGTERM or SIGINT, or until it cannot continue.
pub fn run(config: Config, operator: Arc<LogWriter>) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anything else: an unhandled signal ends the process.
        let signals = Signals::new()?;
        let surroundings = Surroundings::new(&config, Some(operator))?;
        let bound = Bound::new(&config)?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            settings = config.to_string(),
            "configuration"
        );
        for advice in &config.deprecated {
            tracing::warn!(advice, "deprecated setting");
        }
        let (address, admin) = (bound.address()?, bound.admin.local_addr()?);
        tracing::info!(%address, %admin, scheme = bound.scheme, "listening");
        announce(&bound);
        let limit = config.timeouts.drain;
        let (stop, stopping) = oneshot::channel();
        let ended = start(config, bound, stopping, surroundings.clone())?;
        let result = signals.obey(ended, &surroundings, stop, limit).await;
        surroundings.children.kill();
        surroundings.logs.flush(FLUSH_LIMIT);
        result
    })
}

/// Prints the addresses to standard output. If that is closed or not read, the balancer works all
/// the same.
fn announce(bound: &Bound) {
    let told = LogWriter::start("output", &Destination::StandardOutput, OUTPUT_LIMIT)
        .and_then(|output| bound.announce(&mut &output));
    if let Err(error) = told {
        tracing::warn!(%error, "standard output cannot be used");
    }
}

/// Starts the balancer on its own thread; the receiver gets its result.
fn start(
    config: Config,
    bound: Bound,
    stopping: oneshot::Receiver<()>,
    surroundings: Surroundings,
) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>> {
    let (tell, ended) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("control".to_owned());
    let work = move || {
        let shutdown = async { drop(stopping.await) };
        let result = runtime.block_on(balance(config, bound, shutdown, surroundings));
        // Tasks that block on a file or a thread must not delay the end.
        runtime.shutdown_background();
        // Without a receiver, the process is already ending.
        let _told = tell.send(result).is_ok();
    };
    drop(thread.spawn(work)?);
    Ok(ended)
}

/// Signals to the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the end. The first SIGTERM or SIGINT requests it, and it then comes within
    /// `limit`; the second forces it.
    async fn obey(
        mut self,
        mut ended: oneshot::Receiver<anyhow::Result<()>>,
        surroundings: &Surroundings,
        stop: oneshot::Sender<()>,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let Surroundings { reload, logs, children: _ } = surroundings;
        let (mut stop, mut first) = (Some(stop), None);
        let deadline = tokio::time::sleep(Duration::MAX);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                result = &mut ended => return result.context("the control thread panicked")?,
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.user.recv() => { logs.reopen(); continue }
                _ = self.hang_up.recv() => { reload.notify_one(); logs.reopen(); continue }
                () = &mut deadline => anyhow::bail!("what was left is cut off: drain-timeout is over"),
            }
            let now = Instant::now();
            let since = *first.get_or_insert(now);
            if let Some(stop) = stop.take() {
                // Without a receiver, it is already ending.
                let _told = stop.send(()).is_ok();
                deadline.as_mut().reset(now + limit.min(MAX_LIMIT) + GRACE);
            } else if now - since > ECHO {
                anyhow::bail!("told a second time to stop");
            }
        }
    }
}
