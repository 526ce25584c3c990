//! The head of a response.

use http::{HeaderValue, response};

/// The head of a response.
#[derive(Debug)]
pub struct Head {
    /// For the client.
    pub parts: response::Parts,
    /// The worker's load report, if it sent one.
    pub report: Option<HeaderValue>,
}
