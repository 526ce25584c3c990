//! The contract that the programs share.
//!
//! The balancer forwards to the worker and the client reads the answer; what all three must agree
//! on is defined here and nowhere else: paths, header names and the JSON shapes. So are the pure
//! rules that two programs must apply alike: who may give orders ([`operator`]), how addresses
//! ([`address`]) and log filters ([`log_filter`]) are written, how a program's health is queried
//! ([`health`]), and how a worker joins a fleet by itself ([`join`]).

pub mod address;
pub mod health;
pub mod join;
pub mod log_filter;
pub mod operator;

use serde::{Deserialize, Serialize};

/// Request paths, as they appear in the request line.
pub mod path {
    /// The upload page (balancer).
    pub const PAGE: &str = "/";
    /// The experiment's route: the balancer forwards it to one worker's [`PREDICT`].
    pub const SUBMIT: &str = "/submit";
    /// Classifies one image: multipart field `image`, or the raw image as the body.
    pub const PREDICT: &str = "/predict";
    /// The same as [`SUBMIT`], for forms that give the address of an image.
    pub const HOME: &str = "/home";
    /// One digit: a raw image as the body, answered by [`super::MnistAnswer`].
    pub const MNIST: &str = "/mnist";
    /// Liveness: 200 as long as the process answers at all.
    pub const LIVE: &str = "/v2/health/live";
    /// Readiness: 200 when requests are welcome, else 503.
    pub const READY: &str = "/v2/health/ready";
    /// The models that a worker serves: [`super::ModelIndexEntry`] list (POST).
    pub const REPOSITORY_INDEX: &str = "/v2/repository/index";
    /// Metrics, in the text format of Prometheus.
    pub const METRICS: &str = "/metrics";
    /// State of the fleet, for open pages.
    pub const STATUS: &str = "/status.json";
    /// The same as server-sent events.
    pub const EVENTS: &str = "/status/events";
}

/// Names of header fields, in lower case as HTTP/2 requires.
pub mod header {
    /// The name of the endpoint, given by the balancer and echoed by the worker in its answer.
    pub const ENDPOINT: &str = "x-imagefleet-endpoint";
    /// Milliseconds left until the deadline of a request.
    pub const TIMEOUT_MS: &str = "x-imagefleet-timeout-ms";
    /// Identifies a request, in its answer and in the access log.
    pub const REQUEST_ID: &str = "x-request-id";
    /// Where the worker spent its time, for browsers and the client.
    pub const SERVER_TIMING: &str = "server-timing";
}

/// Names of form fields; those that are not images may appear in the query as well.
pub mod field {
    /// The image to classify.
    pub const IMAGE: &str = "image";
    /// How many endpoints of the list take part, from the first.
    pub const NUMBER_BACKEND_SERVERS: &str = "number_backend_servers";
    /// The same as [`IMAGE`], for forms of digits.
    pub const INPUT_PHOTO: &str = "input_photo";
    /// The http or https address of the image to classify, instead of the image.
    pub const IMAGE_URL: &str = "IMAGE_URL";
    /// The model to use; the worker's default if absent.
    pub const MODEL: &str = "model";
    /// A version of the model: its number or its label; the newest if absent.
    pub const VERSION: &str = "version";
    /// How many classes are wanted.
    pub const TOP_K: &str = "top_k";
    /// `true`: the answer shows what the model was given.
    pub const SHOW_INPUT: &str = "show_input";
}

/// One class and how likely it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Human-readable class name.
    pub label: String,
    /// Class number, a row of the model's `labels.txt` counted from 0.
    pub index: usize,
    /// Softmax probability, 0 to 1.
    pub confidence: f32,
}

/// The full answer to one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Label of the best class.
    pub label: String,
    /// Number of the best class.
    pub index: usize,
    /// Probability of the best class.
    pub confidence: f32,
    /// The best classes, most likely first.
    pub top_k: Vec<Candidate>,
    /// The model that answered.
    pub model: String,
    /// Its version, an integer written as text as in TF Serving.
    pub version: String,
    /// The endpoint that answered, as the balancer names it; `null` when asked directly.
    pub endpoint: Option<String>,
    /// Where the worker spent its time.
    pub timings_ms: Timings,
    /// What the model was given, if the request asks for it and it is small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<ModelInput>,
}

/// A picture as it was given to a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInput {
    /// Pixels per row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// Bytes per pixel: 1 for grey, 3 for red, green and blue.
    pub channels: usize,
    /// All bytes, row by row, in base64.
    pub pixels: String,
}

/// Milliseconds a worker spent on one request, stage by stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From compressed bytes to pixels.
    pub decode: f64,
    /// From pixels to the input tensor.
    pub preprocess: f64,
    /// Waiting for a decoding slot, and for the executor.
    pub queue: f64,
    /// The batch's forward pass.
    pub compute: f64,
    /// From the end of the upload to the answer.
    pub total: f64,
}

/// The body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was wrong, in a sentence a user can act on.
    pub error: String,
}

/// The body of `POST /mnist`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MnistAnswer {
    /// `Image received. Size=28x28. label=7`.
    pub message: String,
}

/// One row of the repository index, as the Open Inference Protocol's repository extension has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIndexEntry {
    /// Name of the model.
    pub name: String,
    /// Version, an integer as text. The protocol allows leaving out this field and the next ones,
    /// as Triton does for models that it has not loaded.
    #[serde(default)]
    pub version: String,
    /// `READY`, `UNAVAILABLE`, `LOADING` or `UNLOADING`.
    #[serde(default)]
    pub state: String,
    /// Why it is not ready; empty otherwise.
    #[serde(default)]
    pub reason: String,
    /// The labels that point at this version; not in the protocol, and left out when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Whether the model takes images, which matters for requests that name none; not in the
    /// protocol, and left out when it does not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub takes_images: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
