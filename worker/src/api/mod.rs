//! HTTP in front of the models.
//!
//! Every request passes [`finish`] (counting, uniform errors), then [`body`] (limits of size, time
//! and memory), then its route. All routes share one path to a model: prepare, then infer.

mod body;
mod fetch;
mod finish;
pub mod form;
mod health;
mod images;
mod inflate;
mod load_report;
mod memory;
mod mnist;
mod open_inference;
mod operator;
mod predict;
mod problem;
pub mod reading;
mod root;
mod rows;
mod signature;
mod stages;
mod tf_serving;
mod tidy;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
pub use body::Arrival;
use engine::give_back_small_buffers;
use fetch::Fetcher;
use images::Images;
use memory::Pool;
pub use problem::Problem;
use tidy::Tidier;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::batcher::Output;
use crate::config::{Config, RequestLimits};
use crate::metrics::{Metrics, Rejection};
use crate::serving::loader::Order;
use crate::serving::{Refusal, Served, Snapshot};

/// State shared by all requests.
#[derive(Debug)]
pub struct App {
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    limits: RequestLimits,
    images: Images,
    fetcher: Fetcher,
    memory: Arc<Pool>,
    /// Limits the parsing and writing of large requests and answers to one at a time.
    heavy: Arc<Semaphore>,
    /// Returns memory freed by requests to the system.
    tidier: Tidier,
    draining: AtomicBool,
    /// Channel to the loader of the model repository, if there is one.
    orders: Option<Sender<Order>>,
}

impl App {
    /// An application that serves the snapshot that `snapshot` points to.
    pub fn new(config: &Config, snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>) -> Self {
        let limits = config.request;
        Self {
            snapshot,
            limits,
            images: Images::new(config.threads, limits.picture, Arc::clone(&metrics)),
            fetcher: Fetcher::new(&config.fetch, limits.max_body),
            heavy: Arc::new(Semaphore::new(1)),
            tidier: Tidier::new(give_back_small_buffers),
            memory: Pool::new(limits.memory, limits.max_memory, Arc::clone(&metrics)),
            metrics,
            draining: AtomicBool::new(false),
            orders: None,
        }
    }

    /// Passes clients' orders (load, unload) to a loader.
    #[must_use]
    pub fn with_orders(self, orders: Sender<Order>) -> Self {
        Self { orders: Some(orders), ..self }
    }

    /// Fails readiness from now on, so that balancers send new requests elsewhere.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the worker is ready for new requests.
    pub fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && self.snapshot.load().is_ready()
    }

    /// Runs a model, and counts its refusals.
    async fn infer(
        &self,
        served: &Served,
        features: Vec<f32>,
        rows: usize,
        deadline: Instant,
    ) -> Result<Output, Problem> {
        let outcome = served.infer(features, rows, deadline).await;
        match &outcome {
            Err(Refusal::Overloaded) => self.metrics.rejected(Rejection::QueueFull),
            Err(Refusal::Deadline) => self.metrics.rejected(Rejection::Deadline),
            Ok(_) | Err(Refusal::Failed(_)) => {}
        }
        let output = outcome.map_err(Problem::from)?;
        if output.values.iter().all(|value| value.is_finite()) {
            return Ok(output);
        }
        // The weights are finite, so the input must have caused the overflow.
        Err(Problem::Malformed("the values are too large for the model to compute with".to_owned()))
    }
}

/// The routes of `worker serve`.
pub fn router(app: Arc<App>) -> Router {
    use wire::path;
    Router::new()
        .route(path::PREDICT, get(predict::hint).post(predict::predict))
        .route(path::SUBMIT, get(predict::hint).post(predict::predict))
        .route(path::HOME, get(predict::hint).post(predict::predict))
        .route(path::PAGE, get(root::root))
        .route(path::MNIST, post(mnist::mnist))
        .route(path::LIVE, get(health::live))
        .route(path::READY, get(health::ready))
        .route(path::METRICS, get(health::metrics))
        .merge(open_inference::routes())
        .fallback(elsewhere)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(&app), body::collect))
        .layer(from_fn_with_state(Arc::clone(&app), finish::finish))
        .with_state(app)
}

/// Serves case-insensitive paths, which the router cannot match.
async fn elsewhere(
    State(app): State<Arc<App>>,
    Extension(arrival): Extension<Arrival>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let path = uri.path();
    if message::tf_serving::owns(path) {
        return tf_serving::serve(&app, (&method, path), body, &arrival).await;
    }
    Problem::NotFound(format!("no such path: {path}")).into_response()
}

#[cfg(test)]
impl App {
    /// An application as created by `worker serve` without flags, serving `served`.
    fn with_defaults(served: Option<Arc<Served>>) -> Self {
        use clap::Parser;

        use crate::cli::{Cli, Command};
        let Command::Serve(args) = Cli::parse_from(["worker", "serve"]).command else {
            unreachable!("the command is serve")
        };
        let mut snapshot = Snapshot::default();
        if let Some(served) = served {
            let entry = snapshot.models.entry(served.model.clone()).or_default();
            entry.ready.insert(served.number, served);
        }
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let config = Config::try_from(&args).expect("the defaults are valid");
        Self::new(&config, snapshot, Arc::new(Metrics::new()))
    }

    /// The arrival of a request that has just been received.
    fn arrival(&self) -> Arrival {
        let received_at = Instant::now();
        let deadline = received_at + std::time::Duration::from_secs(5);
        Arrival { received_at, deadline, memory: self.memory.allowance() }
    }
}
