//! The worker's metrics, and their text for `/metrics`.
//!
//! One [`Metrics`] value is made at start and passed down. Each outcome is counted in exactly one
//! function: requests where the answer leaves, batches where they run, rejections at the door.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

type Histograms<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_duration: Histograms<RouteLabels>,
    rejected: Family<RejectedLabels, Counter>,
    decode: Histogram,
    preprocess: Histogram,
    queue_depth: Family<VersionLabels, Gauge>,
    queue_delay: Histograms<VersionLabels>,
    batch_size: Histograms<VersionLabels>,
    forward: Histograms<VersionLabels>,
    ready: Family<VersionLabels, Gauge>,
    load_failures: Family<ModelLabels, Counter>,
    broken_versions: Family<ModelLabels, Gauge>,
}

/// The handles of one served version, so that a batch needs no lookup.
#[derive(Debug, Clone)]
pub struct VersionMetrics {
    /// Number of rows waiting.
    pub queue_depth: Gauge,
    /// How long each job waited, in seconds.
    pub queue_delay: Histogram,
    /// Rows per batch.
    pub batch_size: Histogram,
    /// How long each forward pass took, in seconds.
    pub forward: Histogram,
}

/// Why a request was refused at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Rejection {
    /// The model's queue is full.
    QueueFull,
    /// Too many bodies in memory.
    Memory,
    /// Too many images are waiting to be decoded.
    Decode,
    /// The deadline passed while waiting.
    Deadline,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabels {
    reason: Rejection,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    model: String,
    version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

impl Metrics {
    /// Registers every family, all at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(durations),
            rejected: Family::default(),
            decode: durations(),
            preprocess: durations(),
            queue_depth: Family::default(),
            queue_delay: Family::new_with_constructor(durations),
            batch_size: Family::new_with_constructor(sizes),
            forward: Family::new_with_constructor(durations),
            ready: Family::default(),
            load_failures: Family::default(),
            broken_versions: Family::default(),
        };
        metrics.register_requests();
        metrics.register_models();
        metrics
    }

    fn register_requests(&mut self) {
        let Self { registry, requests, request_duration, rejected, decode, preprocess, .. } = self;
        registry.register("worker_requests", "Answers by route and status", requests.clone());
        registry.register(
            "worker_request_duration_seconds",
            "From the end of the upload to the answer",
            request_duration.clone(),
        );
        registry.register("worker_rejected", "Requests refused at the door", rejected.clone());
        registry.register(
            "worker_decode_duration_seconds",
            "From compressed bytes to pixels",
            decode.clone(),
        );
        registry.register(
            "worker_preprocess_duration_seconds",
            "From pixels to the input tensor",
            preprocess.clone(),
        );
    }

    fn register_models(&mut self) {
        let Self { registry, queue_depth, queue_delay, batch_size, forward, .. } = self;
        registry.register("worker_queue_depth", "Rows waiting for a model", queue_depth.clone());
        registry.register(
            "worker_queue_delay_seconds",
            "How long a job waited for its batch",
            queue_delay.clone(),
        );
        registry.register("worker_batch_size", "Rows in a forward pass", batch_size.clone());
        registry.register(
            "worker_forward_duration_seconds",
            "How long a forward pass took",
            forward.clone(),
        );
        let ready = self.ready.clone();
        self.registry.register("worker_model_ready", "1 for each version that answers", ready);
        let failures = self.load_failures.clone();
        self.registry.register(
            "worker_model_load_failures",
            "Versions that did not load",
            failures,
        );
        let broken = self.broken_versions.clone();
        self.registry.register(
            "worker_model_broken_versions",
            "Versions to be served that do not load as they are now",
            broken,
        );
    }

    /// Counts one answer.
    pub fn answered(&self, route: &'static str, status: u16, seconds: f64) {
        self.requests.get_or_create(&RequestLabels { route, status }).inc();
        self.request_duration.get_or_create(&RouteLabels { route }).observe(seconds);
    }

    /// Counts one request refused at the door.
    pub fn rejected(&self, reason: Rejection) {
        self.rejected.get_or_create(&RejectedLabels { reason }).inc();
    }

    /// Counts one prepared image.
    pub fn prepared(&self, decode_seconds: f64, preprocess_seconds: f64) {
        self.decode.observe(decode_seconds);
        self.preprocess.observe(preprocess_seconds);
    }

    /// Counts one version that did not load.
    pub fn load_failed(&self, model: &str) {
        self.load_failures.get_or_create(&ModelLabels { model: model.to_owned() }).inc();
    }

    /// Sets how many of the versions that a model is to serve do not load in their current state.
    /// Zero is recorded too, to tell a model that never loads from one that does not exist.
    pub fn broken(&self, model: &str, count: usize) {
        let labels = ModelLabels { model: model.to_owned() };
        self.broken_versions.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets whether a version is ready.
    pub fn ready(&self, model: &str, version: u64, ready: bool) {
        let labels = VersionLabels { model: model.to_owned(), version };
        self.ready.get_or_create(&labels).set(i64::from(ready));
    }

    /// The handles of one version.
    pub fn version(&self, model: &str, version: u64) -> VersionMetrics {
        let labels = VersionLabels { model: model.to_owned(), version };
        VersionMetrics {
            queue_depth: self.queue_depth.get_or_create_owned(&labels),
            queue_delay: self.queue_delay.get_or_create_owned(&labels),
            batch_size: self.batch_size.get_or_create_owned(&labels),
            forward: self.forward.get_or_create_owned(&labels),
        }
    }

    /// The Prometheus text of everything counted so far.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// 50 µs to 26 s, doubling: fine enough for quantiles of both a table lookup and a large photo.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 2.0, 20))
}

fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 11))
}

#[cfg(test)]
mod tests {
    use super::{Metrics, Rejection};

    #[test]
    fn counted_events_appear_in_the_text() {
        let metrics = Metrics::new();
        metrics.answered("/predict", 200, 0.01);
        metrics.rejected(Rejection::QueueFull);
        metrics.version("mnist", 3).batch_size.observe(4.0);
        metrics.ready("mnist", 3, true);
        let text = metrics.text();
        for line in [
            "worker_requests_total{route=\"/predict\",status=\"200\"} 1",
            "worker_rejected_total{reason=\"QueueFull\"} 1",
            "worker_batch_size_sum{model=\"mnist\",version=\"3\"} 4.0",
            "worker_model_ready{model=\"mnist\",version=\"3\"} 1",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }
}
