//! TF Serving's status codes and the errors that carry them.

use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use message::{Model, tf_serving};

use super::pretty::Pretty;
use crate::api::Problem;
use crate::serving::Missing;

/// Longest message: a quoted value or two, and words.
const LONGEST_MESSAGE: usize = 4096;

/// A failed request, answered as TF Serving would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Error {
    status: StatusCode,
    message: String,
}

impl Error {
    /// A request that TF Serving would answer with `INVALID_ARGUMENT`.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// The error for a model or version that cannot answer.
    pub(super) fn missing(missing: &Missing, model: &Model<'_>) -> Self {
        match missing {
            Missing::Model | Missing::Version | Missing::Label => {
                let (status, message) = tf_serving::missing(model);
                Self { status, message }
            }
            Missing::Loading => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                message: format!(
                    "Servable is not ready for request: {}",
                    tf_serving::wanted(model)
                ),
            },
        }
    }

    /// The same error, attributed to one element of a list.
    pub(super) fn within(self, place: &str) -> Self {
        let message =
            format!("Failed to process {place} list. Error: INVALID_ARGUMENT: {}", self.message);
        Self { message, ..self }
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl From<Problem> for Error {
    /// TF Serving's status map has no 413, 415 or 422: these become bad requests.
    fn from(problem: Problem) -> Self {
        let status = match problem.status() {
            StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            other => other,
        };
        Self { status, message: problem.to_string() }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut json = Pretty::default();
        json.open_object();
        json.key("error");
        let longest = self.message.floor_char_boundary(LONGEST_MESSAGE);
        json.string(&self.message[..longest]);
        json.close_object();
        let mut response = (self.status, answer(json.finish())).into_response();
        let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if busy.contains(&self.status) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A JSON text as an answer.
pub(super) fn answer(json: impl Into<Bytes>) -> Response {
    let json: Bytes = json.into();
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
}
