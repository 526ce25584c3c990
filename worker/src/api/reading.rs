//! Parses requests as the server does, without a server: for fuzz targets, and for tests that
//! generate requests and judge what parsing them takes.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::HeaderMap;
use message::tf_serving::Verb;

use super::memory::Pool;
use super::{Problem, open_inference, tf_serving};
use crate::metrics::Metrics;
use crate::repository::Version;

/// The protocol of a body.
#[derive(Debug, Clone, Copy)]
pub enum Protocol<'a> {
    /// JSON of TF Serving.
    TfServing(Verb),
    /// A request of the Open Inference Protocol, whose header fields say where its JSON ends.
    OpenInference(&'a HeaderMap),
}

/// Counts the rows for a model in a body, which may take this many bytes of memory.
pub fn count_rows(
    protocol: Protocol<'_>,
    body: &Bytes,
    version: &Version,
    memory: usize,
) -> Result<usize, Problem> {
    let pool = Pool::new(memory, memory, Arc::new(Metrics::new()));
    let allowance = pool.allowance();
    allowance.bound_by(body.len());
    let charge = allowance.charge(body.len())?;
    let (rows, _charge) = match protocol {
        Protocol::TfServing(verb) => {
            tf_serving::read_rows(version, (verb, body), (allowance.left(), charge))?
        }
        Protocol::OpenInference(headers) => {
            open_inference::read_rows(version, (headers, Bytes::clone(body)), charge)?
        }
    };
    Ok(rows.len())
}
