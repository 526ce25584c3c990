//! `worker serve`: from arguments to a running server and on to an orderly shutdown.
//!
//! The order of the shutdown matters: first readiness fails, then no new connections are accepted,
//! then open requests finish or run out of time, and only then are the models dropped.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::api::{self, App};
pub use crate::config::Args;
use crate::config::Config;
use crate::join::{Joining, Membership};
use crate::metrics::Metrics;
use crate::serving::loader::Loader;
use crate::{Error, connection, signal};

/// Longest wait for the threads that tell the balancers that this worker is leaving: a renewal and
/// the leave request take at most 2 seconds each, unless the file system hangs.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs `worker serve` until SIGTERM, SIGINT or, when supervised, the end of stdin.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    let config = Config::try_from(args)?;
    engine::give_back_large_buffers();
    bound_compute_threads(&config);
    tracing::info!(
        version = env!("IMAGEFLEET_VERSION"),
        listen = %config.listen,
        models = %config.models.display(),
        threads = config.threads.get(),
        max_body = config.request.max_body,
        max_request_memory = config.request.max_memory,
        request_memory = config.request.memory,
        max_model_memory = config.max_model_memory,
        "starting"
    );
    if args.no_orders.is_some() {
        tracing::warn!(advice = "no-orders is called no-model-control", "deprecated setting");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.threads.get())
        // One thread per core for small pictures, one for large ones, two that decompress or
        // parse, four that fetch.
        .max_blocking_threads(config.threads.get() + 7)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let leave = signal::leave(config.supervised)?;
        let address = config.listen;
        let listener = connection::bind(address)
            .map_err(|source| Error::Listen { address: address.to_string(), source })?;
        serve(config, listener, leave, |address| {
            writeln!(out, "listening on {address}")?;
            out.flush()
        })
        .await
    });
    // Blocking work that is still running (a picture, a lookup) is no longer needed; do not wait.
    runtime.shutdown_background();
    ended
}

/// Serves on `listener` until `leave` completes; `announce` is called once, when the server is
/// ready for requests.
pub async fn serve(
    config: Config,
    listener: TcpListener,
    leave: impl Future<Output = ()>,
    announce: impl FnOnce(SocketAddr) -> std::io::Result<()>,
) -> Result<(), Error> {
    std::fs::read_dir(&config.models).map_err(Error::file(&config.models))?;
    let metrics = Arc::new(Metrics::new());
    let snapshot = Arc::new(ArcSwap::default());
    let (orders, inbox) = mpsc::channel();
    let app = App::new(&config, Arc::clone(&snapshot), Arc::clone(&metrics));
    let app = if config.allows_model_control { app.with_orders(orders.clone()) } else { app };
    let app = Arc::new(app);
    let loader = Loader::new((config.models.clone(), config.engine), metrics, snapshot)
        .with_memory(config.max_model_memory);
    let (settled, first_look) = oneshot::channel();
    let (poll, joining) = (config.poll, config.joining.clone());
    let thread = std::thread::Builder::new().name("repository".to_owned()).spawn(move || {
        let mut loader = loader;
        loader.rescan();
        let _looked = settled.send(());
        loader.run(&inbox, poll);
    })?;
    let _hangup = signal::rescan_on_hangup(orders.clone())?;
    let address = listener.local_addr()?;
    let server = connection::Server::new(&config, api::router(Arc::clone(&app)));
    let fleets = Fleets::default();
    let announced = async {
        if first_look.await.is_ok() && !fleets.are_left() {
            announce(address)?;
            fleets.join(joining, address)?;
        }
        Ok::<(), Error>(())
    };
    let leave = async {
        leave.await;
        app.drain();
        // Requests are still answered until every balancer has been told.
        fleets.leave().await;
        tracing::info!("draining");
    };
    let ended = until_ended(server.run(listener, leave), announced).await;
    drop(orders);
    // Detached: a loader that hangs on a file does not keep the process alive.
    drop(thread);
    ended
}

/// The fleets that this worker joins once, and leaves.
#[derive(Debug, Default)]
struct Fleets(Mutex<Joined>);

/// The state of a worker's membership.
#[derive(Debug, Default)]
enum Joined {
    #[default]
    NotYet,
    In(Membership),
    /// Final: a worker that is shutting down never joins, even if its models finish loading.
    Left,
}

impl Fleets {
    fn joined(&self) -> MutexGuard<'_, Joined> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn are_left(&self) -> bool {
        matches!(*self.joined(), Joined::Left)
    }

    fn join(&self, joining: Option<Joining>, address: SocketAddr) -> Result<(), Error> {
        let Some(joining) = joining else { return Ok(()) };
        let mut joined = self.joined();
        if matches!(*joined, Joined::NotYet) {
            *joined = Joined::In(joining.start(address)?);
        }
        Ok(())
    }

    async fn leave(&self) {
        let before = std::mem::replace(&mut *self.joined(), Joined::Left);
        let Joined::In(membership) = before else { return };
        let leaving = tokio::task::spawn_blocking(|| membership.leave());
        match tokio::time::timeout(LEAVE_TIMEOUT, leaving).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("leaving the fleet panicked"),
            Err(_) => tracing::warn!("not every balancer told in time that this worker leaves"),
        }
    }
}

/// Runs the server to its end, even if the first scan of the models never completes.
async fn until_ended(
    server: impl Future<Output = Result<(), Error>>,
    announced: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let mut server = std::pin::pin!(server);
    tokio::select! {
        biased;
        ended = &mut server => return ended,
        announced = announced => announced?,
    }
    server.await
}

/// Limits candle and everything else that computes in parallel to the configured number of cores.
fn bound_compute_threads(config: &Config) {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(config.threads.get())
        .thread_name(|index| format!("compute-{index}"));
    if pool.build_global().is_err() {
        tracing::debug!("the compute threads were started before");
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::io::ErrorKind;
    use std::net::TcpListener;

    use super::*;
    use crate::join;

    #[tokio::test]
    async fn a_worker_that_has_left_joins_no_fleet() {
        let balancer = TcpListener::bind("127.0.0.1:0").unwrap();
        balancer.set_nonblocking(true).unwrap();
        let mut token = tempfile::NamedTempFile::new().unwrap();
        token.write_all(b"secret").unwrap();
        let args = join::Args {
            balancers: vec![format!("http://{}", balancer.local_addr().unwrap()).parse().unwrap()],
            token: Some(token.path().to_owned()),
            authorities: None,
            name: None,
            advertise: None,
        };
        let joining = Joining::new(&args).unwrap();
        let fleets = Fleets::default();
        assert!(!fleets.are_left());
        fleets.leave().await;
        assert!(fleets.are_left());
        fleets.join(joining, ([127, 0, 0, 1], 1).into()).unwrap();
        // Had it joined, it would now send a leave request.
        fleets.leave().await;
        assert_eq!(balancer.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn a_server_that_leaves_does_not_wait_for_models_that_never_load() {
        until_ended(ready(Ok(())), pending()).await.unwrap();
    }

    #[tokio::test]
    async fn requests_are_welcome_before_the_server_ends() {
        let (announced, heard) = oneshot::channel();
        let server = async {
            heard.await.unwrap();
            Ok(())
        };
        let announce = async {
            announced.send(()).unwrap();
            Ok(())
        };
        until_ended(server, announce).await.unwrap();
    }
}
