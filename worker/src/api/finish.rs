//! What every answer gets on its way out: the endpoint's name, and an error in JSON.
//!
//! axum's own refusals (no such method, a query that does not parse) come as plain text; they are
//! rewritten here, so that a client meets one shape of error only. Every answer is counted here.

use super::problem::error_response;
use super::{App, Arrival, load_report};
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use tokio::time::Instant;

/// Longest text of a refusal that is kept.
const LONGEST_REFUSAL: usize = 1 << 16;

/// Middleware: the outermost of all.
pub(super) async fn finish(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = route_name(request.uri().path());
    let method = request.method().clone();
    let endpoint = request.headers().get(wire::header::ENDPOINT).cloned();
    let report = load_report::wanted(request.headers());
    let response = next.run(request).await;
    let mut response =
        if is_plain_refusal(&response) { in_json(response, &method).await } else { response };
    if let Some(name) = endpoint {
        response.headers_mut().insert(wire::header::ENDPOINT, name);
    }
    if let Some(format) = report {
        load_report::attach(response.headers_mut(), format, &app.snapshot.load());
    }
    let received =
        response.extensions().get().map_or(began, |arrival: &Arrival| arrival.received_at);
    app.metrics.answered(route, response.status().as_u16(), received.elapsed().as_secs_f64());
    response
}

fn is_plain_refusal(response: &Response) -> bool {
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    failed && !is_json(response.headers())
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"application/json")
}

async fn in_json(response: Response, method: &Method) -> Response {
    let (head, body) = response.into_parts();
    let text = to_bytes(body, LONGEST_REFUSAL).await.unwrap_or_default();
    let mut error = String::from_utf8_lossy(&text).into_owned();
    if error.is_empty() {
        head.status.canonical_reason().unwrap_or("error").clone_into(&mut error);
        if head.status == StatusCode::METHOD_NOT_ALLOWED {
            error = format!("this path does not take {method}");
        }
    }
    let mut rewritten = error_response(head.status, error);
    for (name, value) in &head.headers {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            rewritten.headers_mut().insert(name.clone(), HeaderValue::clone(value));
        }
    }
    rewritten
}

/// A short fixed set of names, so that the paths clients make up cannot grow the metrics.
fn route_name(path: &str) -> &'static str {
    match path {
        wire::path::PREDICT => wire::path::PREDICT,
        wire::path::SUBMIT => wire::path::SUBMIT,
        wire::path::MNIST => wire::path::MNIST,
        wire::path::METRICS => wire::path::METRICS,
        _ if path.starts_with("/v2/health") => "/v2/health",
        _ if super::tf_serving::owns(path) => "/v1",
        _ if path.starts_with("/v2") => "/v2",
        _ => "other",
    }
}
