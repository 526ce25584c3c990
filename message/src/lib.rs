//! What a request asks for, read in the same way by all programs that need it.
//!
//! The balancer sends a request to a worker that serves its model, and the worker answers with the
//! model that it reads. If the two read differently, a request goes to a worker that cannot answer
//! it, or a limit that the client set does not apply. So paths, queries, forms, content codings and
//! what a client accepts are read here, by pure functions, and anything that cannot be read with
//! certainty is refused ([`Refusal`]) instead of guessed.
//!
//! [`Submission`] is a picture with its parameters; [`tf_serving`] and [`open_inference`] are the
//! paths that name a model; [`accept`] determines which form of an answer a client prefers.
#![forbid(unsafe_code)]

pub mod accept;
pub mod coding;
mod content_type;
mod field;
mod form;
mod model;
mod multipart;
pub mod open_inference;
mod parameters;
mod percent;
mod submission;
pub mod tf_serving;
mod urlencoded;

use std::borrow::Cow;

pub use coding::Coding;
pub use content_type::ContentType;
use http::StatusCode;
pub use model::{AUTO, Model, Version, default_model, is_name, keys, preference};
pub use percent::{decode_text, encode_text};
pub use submission::{Image, Submission};

/// Why a message is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It violates its grammar, or contradicts itself.
    #[error("{0}")]
    Malformed(Cow<'static, str>),
    /// Decompressed, it is larger than this many bytes.
    #[error("the unpacked body is larger than the {0} bytes allowed")]
    TooLarge(usize),
    /// Its type or its coding is not supported.
    #[error("{0}")]
    Unsupported(Cow<'static, str>),
}

impl Refusal {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

fn malformed(text: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::Malformed(text.into())
}

/// The beginning of what a client wrote, safe to repeat in an error message.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(160)]);
    text.chars().take(40).flat_map(char::escape_debug).collect()
}
