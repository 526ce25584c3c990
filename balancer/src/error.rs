//! Why a request fails and what its client is told, and why a configuration cannot be used.
//!
//! Each variant is something that a client or an operator handles differently. The match in
//! [`ProxyError::status`] is exhaustive on purpose: a new variant has to choose its status.

use std::borrow::Cow;
use std::path::PathBuf;

use fleet::{Fault, Lost, Refusal};
use http::StatusCode;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file that cannot be read.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The content of a file is invalid: of the configuration, a list of workers or tokens.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// Line, key, and what is wrong with it.
        message: String,
    },
    /// A worker's address is wrong.
    #[error("worker {text:?}: {problem}; write HOST:PORT, for example 10.0.0.7:8501")]
    Worker {
        /// The address as it was written.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Settings that make no sense, alone or together.
    #[error("{0}")]
    Invalid(String),
}

/// Why a request was not answered by an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The request is malformed or ambiguous.
    #[error("{0}")]
    BadRequest(Cow<'static, str>),
    /// The client is not allowed to do this.
    #[error("{0}")]
    Forbidden(Cow<'static, str>),
    /// The token is missing or wrong.
    #[error("{0}")]
    Unauthorized(Cow<'static, str>),
    /// There is nothing at this path, or the model is unknown.
    #[error("{0}")]
    NotFound(String),
    /// Another worker has joined under that name or address, or the fleet is full.
    #[error("{0}")]
    Conflict(Cow<'static, str>),
    /// The path does not accept this method.
    #[error("{method} is not allowed here; use {allow}")]
    MethodNotAllowed {
        /// The method of the request.
        method: String,
        /// The methods that the path accepts.
        allow: &'static str,
    },
    /// The body did not arrive in time.
    #[error("the request body did not arrive in time")]
    RequestTimeout,
    /// A part of the request is longer than allowed.
    #[error("{0}")]
    TooLarge(Part),
    /// The media type or the content coding is not supported.
    #[error("{0}")]
    Unsupported(Cow<'static, str>),
    /// The fleet is overloaded; try again later.
    #[error("all workers are busy; try again in a moment")]
    Overloaded,
    /// No endpoint can take the request now.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The endpoint failed before it answered.
    #[error("the worker did not answer properly: {0}")]
    Upstream(&'static str),
    /// No answer came in time.
    #[error("no worker answered within the time limit")]
    Deadline,
    /// The request is in a loop of balancers.
    #[error(
        "the request has passed this balancer again and again: is the balancer's own address among its workers?"
    )]
    Loop,
    /// The balancer does not implement this.
    #[error("{0}")]
    NotImplemented(&'static str),
}

/// The part of a request that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The request target (path and query).
    Target,
    /// The header fields together.
    Fields,
    /// The body, with the limit in bytes.
    Body(usize),
    /// The decompressed body, with the limit in bytes.
    Unpacked(usize),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Target => f.write_str("the request target is too long"),
            Self::Fields => f.write_str("the request has too many or too long header fields"),
            Self::Body(limit) => write!(f, "the request body is larger than {}", Size(*limit)),
            Self::Unpacked(limit) => {
                write!(f, "the unpacked body is larger than {}", Size(*limit))
            }
        }
    }
}

/// A number of bytes, in the largest unit that expresses it exactly.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub usize);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes if bytes >= 1_000_000 && bytes % 100_000 == 0 => {
                write!(f, "{} MB", bytes as f64 / 1e6)
            }
            bytes if bytes >= 1_000 && bytes % 100 == 0 => write!(f, "{} kB", bytes as f64 / 1e3),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

impl ProxyError {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(Part::Target) => StatusCode::URI_TOO_LONG,
            Self::TooLarge(Part::Fields) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooLarge(Part::Body(_) | Part::Unpacked(_)) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// Seconds after which the client should try again, if that can help.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Overloaded | Self::Unavailable(_) => Some(1),
            Self::BadRequest(_)
            | Self::Forbidden(_)
            | Self::Unauthorized(_)
            | Self::NotFound(_)
            | Self::Conflict(_)
            | Self::MethodNotAllowed { .. }
            | Self::RequestTimeout
            | Self::TooLarge(_)
            | Self::Unsupported(_)
            | Self::Upstream(_)
            | Self::Deadline
            | Self::Loop
            | Self::NotImplemented(_) => None,
        }
    }
}

impl ProxyError {
    /// The error for a request for this model that no endpoint has answered.
    pub(crate) fn lost(lost: Lost, model: Option<&str>) -> Self {
        match lost {
            Lost::Refused(Refusal::Busy | Refusal::Overloaded) => Self::Overloaded,
            Lost::Refused(Refusal::NoEndpoint) => Self::Unavailable("no worker is available"),
            Lost::Refused(Refusal::NotReady) => {
                Self::Unavailable("no worker that serves this model is ready")
            }
            Lost::Refused(Refusal::UnknownModel) => {
                let model = model.unwrap_or_default();
                Self::NotFound(format!("no worker serves the model {model:?}"))
            }
            Lost::Upstream(fault) => Self::Upstream(fault.as_str()),
            Lost::Exhausted => Self::Unavailable(Fault::Exhausted.as_str()),
            Lost::Deadline => Self::Deadline,
        }
    }
}

impl From<message::Refusal> for ProxyError {
    fn from(refusal: message::Refusal) -> Self {
        match refusal {
            message::Refusal::Malformed(text) => Self::BadRequest(text),
            message::Refusal::TooLarge(limit) => Self::TooLarge(Part::Unpacked(limit)),
            message::Refusal::Unsupported(text) => Self::Unsupported(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_a_unit_that_people_read() {
        for (bytes, expected) in [
            (10_000_000, "10 MB"),
            (2_500_000, "2.5 MB"),
            (1_048_576, "1048576 bytes"),
            (4_000, "4 kB"),
            (99, "99 bytes"),
        ] {
            assert_eq!(Size(bytes).to_string(), expected);
        }
    }

    #[test]
    fn overload_is_told_apart_from_a_broken_worker() {
        assert_eq!(ProxyError::Overloaded.status(), 429);
        assert_eq!(ProxyError::Unavailable("no worker").status(), 503);
        assert_eq!(ProxyError::Upstream("closed").status(), 502);
        assert_eq!(ProxyError::Deadline.status(), 504);
        assert_eq!(ProxyError::Overloaded.retry_after(), Some(1));
        assert_eq!(ProxyError::Deadline.retry_after(), None);
    }
}
