//! HTTP in front of the models.
//!
//! Every request passes [`finish`] (counting, one shape of error), then [`body`] (size, patience,
//! memory), then its route. All routes share one path to a model: prepare, then infer.

mod accept;
mod body;
mod finish;
mod form;
mod health;
mod images;
mod load_report;
mod mnist;
mod predict;
mod problem;

pub use body::Arrival;
pub use problem::Problem;

use crate::batcher::Output;
use crate::config::{Config, RequestLimits};
use crate::metrics::{Metrics, Rejection};
use crate::serving::{Refusal, Served, Snapshot};
use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use images::Images;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// What all requests share.
#[derive(Debug)]
pub struct App {
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    limits: RequestLimits,
    images: Images,
    bodies: Arc<Semaphore>,
    draining: AtomicBool,
}

impl App {
    /// An application that answers from what `snapshot` points at.
    pub fn new(config: &Config, snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>) -> Self {
        let limits = config.request;
        Self {
            snapshot,
            limits,
            images: Images::new(config.threads, limits.picture, Arc::clone(&metrics)),
            bodies: Arc::new(Semaphore::new(Self::blocks(limits.body_memory))),
            metrics,
            draining: AtomicBool::new(false),
        }
    }

    /// Fails readiness from now on, so that balancers send new requests elsewhere.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether new requests are welcome.
    pub fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && self.snapshot.load().is_ready()
    }

    /// Asks a model, and counts what it refuses.
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
        outcome.map_err(Problem::from)
    }
}

/// The routes of `worker serve`.
pub fn router(app: Arc<App>) -> Router {
    use wire::path;
    Router::new()
        .route(path::PREDICT, get(predict::hint).post(predict::predict))
        .route(path::SUBMIT, get(predict::hint).post(predict::predict))
        .route(path::MNIST, post(mnist::mnist))
        .route(path::LIVE, get(health::live))
        .route(path::READY, get(health::ready))
        .route(path::REPOSITORY_INDEX, post(health::index))
        .route(path::METRICS, get(health::metrics))
        .fallback(nowhere)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(&app), body::collect))
        .layer(from_fn_with_state(Arc::clone(&app), finish::finish))
        .with_state(app)
}

async fn nowhere(request: Request) -> Problem {
    Problem::NotFound(format!("no such path: {}", request.uri().path()))
}
