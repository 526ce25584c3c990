//! Finishes every answer: adds the endpoint's name and turns errors into JSON.
//!
//! axum's own refusals (no such method, a query that does not parse) are plain text. They are
//! rewritten here, so that clients see only one form of error. Every answer is also counted here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::problem::error_response;
use super::{App, Arrival, Problem, load_report};

/// Longest text of a refusal that is kept.
const LONGEST_REFUSAL: usize = 1 << 16;

/// Middleware: the outermost layer.
pub(super) async fn finish(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = route_name(request.uri().path());
    let method = request.method().clone();
    let endpoint = request.headers().get(wire::header::ENDPOINT).cloned();
    let report = load_report::wanted(request.headers());
    let response = match check_host(&request) {
        Ok(()) => caught(next.run(request)).await,
        Err(problem) => problem.into_response(),
    };
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

/// Checks the `Host` field, which HTTP/1.1 requires exactly once.
fn check_host(request: &Request) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let valid = |host: &HeaderValue| {
        let text = host.to_str().ok().filter(|text| !text.contains('@'));
        text.is_some_and(|text| text.is_empty() || text.parse::<Authority>().is_ok())
    };
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if valid(host) => Ok(()),
        (None, _) if request.version() < Version::HTTP_11 => Ok(()),
        (None, _) => Err(Problem::Malformed("the request has no Host".to_owned())),
        (Some(_), _) => Err(Problem::Malformed("the request has no valid Host".to_owned())),
    }
}

/// The answer of a route, even if it panics. A panic is blamed on the request; its message only
/// goes to the log.
async fn caught(answer: impl Future<Output = Response>) -> Response {
    let mut answer = std::pin::pin!(answer);
    let polled = std::future::poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context)))
            .map_or_else(|_| Poll::Ready(None), |polled| polled.map(Some))
    });
    polled.await.unwrap_or_else(|| Problem::unreadable().into_response())
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

/// One of a small fixed set of names, so that arbitrary paths cannot inflate the metrics.
fn route_name(path: &str) -> &'static str {
    match path {
        wire::path::PREDICT => wire::path::PREDICT,
        wire::path::SUBMIT => wire::path::SUBMIT,
        wire::path::MNIST => wire::path::MNIST,
        wire::path::METRICS => wire::path::METRICS,
        _ if path.starts_with("/v2/health") => "/v2/health",
        _ if message::tf_serving::owns(path) => "/v1",
        _ if path.starts_with("/v2") => "/v2",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, Version};
    use axum::response::Response;

    use super::{caught, check_host};

    fn request(hosts: &[&str], version: Version) -> Request<Body> {
        let start = Request::post("/predict").version(version);
        let request = hosts.iter().fold(start, |request, host| request.header("host", *host));
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn one_host_is_due_since_http_1_1() {
        for hosts in [&["a.example:80"][..], &["[::1]:8501"], &[""]] {
            assert_eq!(check_host(&request(hosts, Version::HTTP_11)), Ok(()), "{hosts:?}");
        }
        assert_eq!(check_host(&request(&[], Version::HTTP_10)), Ok(()));
        for hosts in [&[][..], &["a", "a"], &["a b"], &["user@a"], &["a/b"]] {
            let refused = check_host(&request(hosts, Version::HTTP_11)).unwrap_err();
            assert_eq!(refused.status(), 400, "{hosts:?}");
        }
    }

    #[tokio::test]
    async fn what_a_panic_says_is_not_told() {
        async fn answer(fails: bool) -> Response {
            tokio::task::yield_now().await;
            assert!(!fails, "in /home/alice/secret.rs");
            Response::new(Body::from("fine"))
        }
        assert_eq!(caught(answer(false)).await.status(), 200);
        let response = caught(answer(true)).await;
        assert_eq!(response.status(), 422);
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        assert_eq!(body, "{\"error\":\"this request cannot be read\"}");
    }
}
