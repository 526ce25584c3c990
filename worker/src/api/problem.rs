//! Everything that can be wrong with a request, and the answer to each: a status and a sentence.
//!
//! One variant per status, so that a mistake gets the same answer everywhere. The body is always
//! [`wire::ErrorBody`] as JSON.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::preprocess::ImageError;
use crate::serving::{Missing, Refusal, Snapshot};

/// Why a request gets no prediction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// 400: the request is malformed.
    #[error("{0}")]
    Malformed(String),
    /// 403: the action is not open to clients.
    #[error("{0}")]
    Forbidden(String),
    /// 404: no such path, model or version.
    #[error("{0}")]
    NotFound(String),
    /// 408: the upload stalled.
    #[error("the upload took too long")]
    SlowUpload,
    /// 413: the body or the picture is too large.
    #[error("{0}")]
    TooLarge(String),
    /// 415: the media type or coding is not supported.
    #[error("{0}")]
    UnknownType(String),
    /// 422: the image does not decode, or lacks the digit that is asked for.
    #[error("{0}")]
    Undecodable(String),
    /// 429: there is no room for the request now; try again.
    #[error("{0}")]
    Overloaded(String),
    /// 500: a fault of the worker itself.
    #[error("{0}")]
    Internal(String),
    /// 503: the worker or the model is not ready, or is shutting down.
    #[error("{0}")]
    Unavailable(String),
    /// 504: the deadline passed before there was an answer.
    #[error("the deadline passed before there was an answer")]
    Deadline,
}

impl Problem {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::SlowUpload => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnknownType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Undecodable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Overloaded(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The problem for a model or version that cannot answer; `snapshot` contains those that can.
    pub fn missing(model: &str, missing: &Missing, snapshot: &Snapshot) -> Self {
        let name = quoted(model);
        match missing {
            Missing::Model => Self::NotFound(format!("no model {name} here{}", known(snapshot))),
            Missing::Version => Self::NotFound(format!("no such version of model {name}")),
            Missing::Label => Self::NotFound(format!("no version of {name} has this label")),
            Missing::Loading => Self::Unavailable(format!("model {name} is still loading")),
        }
    }

    /// The problem for a file that made a decoder panic.
    pub(super) fn undecodable() -> Self {
        Self::Undecodable("the image does not decode".to_owned())
    }

    /// The problem for a request that made a library panic.
    pub(super) fn unreadable() -> Self {
        Self::Undecodable("this request cannot be read".to_owned())
    }
}

impl From<message::Refusal> for Problem {
    fn from(refusal: message::Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            message::Refusal::Malformed(_) => Self::Malformed(text),
            message::Refusal::TooLarge(_) => Self::TooLarge(text),
            message::Refusal::Unsupported(_) => Self::UnknownType(text),
        }
    }
}

impl From<ImageError> for Problem {
    fn from(error: ImageError) -> Self {
        let text = error.to_string();
        match error {
            ImageError::UnknownFormat | ImageError::NotDecoded(_) => Self::UnknownType(text),
            ImageError::TooManyPixels { .. } | ImageError::TooMuchMemory { .. } => {
                Self::TooLarge(text)
            }
            ImageError::Malformed(_) | ImageError::NoDigit => Self::Undecodable(text),
            ImageError::Stopped => Self::Deadline,
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Overloaded => {
                Self::Overloaded("the queue of this model is full, try again".to_owned())
            }
            Refusal::Deadline => Self::Deadline,
            // The log has the reason; paths and source locations are not for clients.
            Refusal::Failed(_) => Self::Internal("the model failed on this request".to_owned()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = error_response(status, self.to_string());
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The most models that an error names.
const MOST_NAMED: usize = 20;
/// Longest name that an error quotes.
const LONGEST_QUOTE: usize = 100;
/// Longest text of an error.
const LONGEST_ERROR: usize = 4096;

/// Lists the models that are ready, for a client that asked for another.
fn known(snapshot: &Snapshot) -> String {
    let ready = snapshot.models.iter().filter(|(_, entry)| !entry.ready.is_empty());
    let names: Vec<&str> = ready.map(|(name, _)| name.as_str()).take(MOST_NAMED + 1).collect();
    match names.len() {
        0 => String::new(),
        1..=MOST_NAMED => format!("; there are {}", names.join(", ")),
        _ => format!("; there are {}, ...", names[..MOST_NAMED].join(", ")),
    }
}

/// Quotes a name chosen by a client, truncated if it is long.
pub(super) fn quoted(name: &str) -> String {
    if name.len() <= LONGEST_QUOTE {
        return format!("{name:?}");
    }
    format!("{:?}...", &name[..name.floor_char_boundary(LONGEST_QUOTE)])
}

/// The common form of all error answers.
pub(super) fn error_response(status: StatusCode, mut error: String) -> Response {
    if error.len() > LONGEST_ERROR {
        error.truncate(error.floor_char_boundary(LONGEST_ERROR));
        error.push_str("...");
    }
    (status, Json(wire::ErrorBody { error })).into_response()
}
