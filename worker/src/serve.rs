//! `worker serve`: from arguments to a running server and back to an orderly end.
//!
//! The order of the end matters: readiness fails first, then nothing new is accepted, then open
//! requests finish or run out of time, and only then do the models go.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};

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
        // Each core decodes a small picture, one thread a large one, two unpack or parse, four fetch.
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
    // What blocks now (a picture, an address) is no longer wanted; the process does not wait for it.
    runtime.shutdown_background();
    ended
}

/// Serves on `listener` until `leave` ends; `announce` is called once, when requests are welcome.
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
        if first_look.await.is_ok() {
            announce(address)?;
            fleets.join(joining, address)?;
        }
        Ok::<(), Error>(())
    };
    let leave = async {
        leave.await;
        app.drain();
        // Requests are answered until every balancer knows.
        fleets.leave().await;
        tracing::info!("draining");
    };
    let ended = until_ended(server.run(listener, leave), announced).await;
    drop(orders);
    // A loader that hangs in a file does not keep the process.
    drop(thread);
    ended
}

/// The fleets that this worker has joined by itself.
#[derive(Debug, Default)]
struct Fleets {
    joined: Mutex<Option<Membership>>,
}

impl Fleets {
    fn join(&self, joining: Option<Joining>, address: SocketAddr) -> Result<(), Error> {
        let membership = joining.map(|joining| joining.start(address)).transpose()?;
        *self.joined.lock().unwrap_or_else(PoisonError::into_inner) = membership;
        Ok(())
    }

    async fn leave(&self) {
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(joined) = joined
            && tokio::task::spawn_blocking(|| joined.leave()).await.is_err()
        {
            tracing::error!("leaving the fleet panicked");
        }
    }
}

/// Runs the server to its end, which a first look at the models that never ends does not put off.
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

/// Keeps candle and everything else that computes in parallel on the cores we were given.
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

    use super::until_ended;

    #[tokio::test]
    async fn a_server_that_leaves_does_not_wait_for_models_that_never_load() {
        until_ended(ready(Ok(())), pending()).await.unwrap();
    }

    #[tokio::test]
    async fn requests_are_welcome_before_the_server_ends() {
        let (announced, heard) = tokio::sync::oneshot::channel();
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
