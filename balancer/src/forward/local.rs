//! The balancer's own answers: pages, health, errors.
//!
//! Errors are JSON for programs and a page for browsers, on every path.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, VARY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, request};
use tokio::time::Instant;

use super::Done;
use super::answer::AnswerBody;
use super::attempt::Reply;
use super::request_log::RequestLog;
use super::stream::BrokenOff;
use crate::error::ProxyError;
use crate::headers::{self, HeaderScan, Origin, RequestId, ScannedField};
use crate::page::{self, Outcome, Reader, Watcher};
use crate::permission;
use crate::route::{Purpose, Route};
use crate::shard::Shard;
use crate::traffic::Flag;
use crate::upstream::Payload;

/// Longest worker answer that is rendered as a page, in bytes.
const MAX_RENDERED: usize = 1_000_000;

/// What an error answer depends on.
#[derive(Debug)]
pub(super) struct ErrorContext {
    /// The reader of the page, if a page is wanted.
    reader: Option<Box<Reader>>,
    version: Version,
}

impl ErrorContext {
    /// Reads it from the head of a request.
    pub(super) fn new(head: &request::Parts, scan: &HeaderScan<'_>, origin: &Origin) -> Self {
        let wants_page = scan.has(ScannedField::Accept) && headers::wants_page(&head.headers);
        Self {
            reader: wants_page.then(|| Box::new(Reader::of(head, origin))),
            version: head.version,
        }
    }

    /// Whether a page is wanted.
    pub(super) fn wants_page(&self) -> bool {
        self.reader.is_some()
    }
}

/// Sends an answer whose bytes are all available.
pub(super) fn send(response: Response<Bytes>, mut request_log: RequestLog) -> Response<AnswerBody> {
    let (mut head, mut body) = response.into_parts();
    request_log.status = head.status;
    if request_log.is_head_request {
        // The head describes the body that would be sent; one that the client has already
        // is not here.
        if head.status != StatusCode::NOT_MODIFIED {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        body = Bytes::new();
    }
    Response::from_parts(head, AnswerBody::full(body, request_log))
}

/// The answer to a request that failed.
pub(super) fn fail(
    error: &ProxyError,
    error_context: &ErrorContext,
    id: &RequestId,
    mut request_log: RequestLog,
) -> Response<AnswerBody> {
    let status = error.status();
    request_log.flag = flag_of(error);
    let text = error.to_string();
    let mut response = if let Some(reader) = &error_context.reader {
        let page = request_log.shard().shared.pages.error(reader, status, &text, id.as_str());
        page::respond(page, reader)
    } else {
        json(&wire::ErrorBody { error: text })
    };
    *response.status_mut() = status;
    if let ProxyError::MethodNotAllowed { allow, .. } = error {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    if let ProxyError::Unauthorized(_) = error {
        response.headers_mut().insert(WWW_AUTHENTICATE, permission::CHALLENGE);
    }
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    // The rest of such a request may still be on its way: the connection cannot carry another.
    let ends_connection = matches!(
        error,
        ProxyError::BadRequest(_)
            | ProxyError::Forbidden(_)
            | ProxyError::Unauthorized(_)
            | ProxyError::TooLarge(_)
            | ProxyError::RequestTimeout
            | ProxyError::Loop
            | ProxyError::NotImplemented(_)
    );
    if ends_connection && error_context.version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    send(response, request_log)
}

fn flag_of(error: &ProxyError) -> Flag {
    match error {
        ProxyError::Overloaded => Flag::Shed,
        ProxyError::Unavailable(_) => Flag::Unavailable,
        ProxyError::Upstream(_) => Flag::UpstreamFailed,
        ProxyError::Deadline => Flag::Deadline,
        ProxyError::BadRequest(_)
        | ProxyError::Forbidden(_)
        | ProxyError::Unauthorized(_)
        | ProxyError::NotFound(_)
        | ProxyError::Conflict(_)
        | ProxyError::MethodNotAllowed { .. }
        | ProxyError::RequestTimeout
        | ProxyError::TooLarge(_)
        | ProxyError::Loop
        | ProxyError::Unsupported(_)
        | ProxyError::NotImplemented(_) => Flag::Refused,
    }
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> Response<Bytes> {
    let mut text = serde_json::to_vec(value).expect("these values have only text keys");
    text.push(b'\n');
    let mut response = Response::new(Bytes::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to a request that is not forwarded.
pub(super) fn answer(
    shard: &Rc<Shard>,
    route: &Route<'_>,
    head: &request::Parts,
    origin: &Origin,
) -> Result<Done, ProxyError> {
    let fields = &head.headers;
    Ok(Done::Local(match route {
        Route::Page if headers::wants_text(fields) => text(shard),
        Route::Page => {
            let reader = Reader::of(head, origin);
            let page = shard.shared.pages.index(&reader, &shard.snapshot());
            page::respond_unless_known(page, &reader, fields)
        }
        Route::Asset(asset, is_final) => asset.respond(*is_final, fields),
        Route::Live => live(),
        Route::Ready => ready(shard),
        Route::Home | Route::Membership(_) | Route::Forward(_) => home(),
        Route::Status => never_stored(json(&shard.shared.status())),
        Route::Events => {
            check_site(fields)?;
            let watcher = shard.shared.live.watch(|| shard.shared.status());
            return watcher.map(Done::Watch).ok_or(ProxyError::Unavailable(CROWDED));
        }
    }))
}

/// The answer to a page that gets no event stream.
const CROWDED: &str = "too many pages are told of changes; ask for /status.json now and then";

/// A page of another site could not read the events, but would occupy a place.
fn check_site(fields: &HeaderMap) -> Result<(), ProxyError> {
    match fields.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(ProxyError::Forbidden("a page of another site asks for it".into())),
    }
}

/// A stream of server-sent events.
pub(super) fn watch(watcher: Watcher, request_log: RequestLog) -> Response<AnswerBody> {
    let mut response = never_stored(Response::new(AnswerBody::events(watcher, request_log)));
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream"),
        // nginx would otherwise buffer the events.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn never_stored<B>(mut response: Response<B>) -> Response<B> {
    for (name, value) in [(CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The upload page, for clients that ask for plain text.
fn text(shard: &Shard) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(page::text(&shard.snapshot())));
    for (name, value) in
        [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-cache"), (VARY, "accept")]
    {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// An answer, or why there is none.
type Own = Result<Response<Bytes>, ProxyError>;

/// The model repository of the whole fleet; `None` while no endpoint has reported its models.
pub(super) fn index(shard: &Shard, payload: &Payload) -> Option<Own> {
    #[derive(Default, serde::Deserialize)]
    struct Filter {
        #[serde(default)]
        ready: bool,
    }
    let mut index = shard.snapshot().index();
    if index.is_empty() {
        return None;
    }
    let body = payload.as_slice();
    let filter = if body.is_empty() { Ok(Filter::default()) } else { serde_json::from_slice(body) };
    Some(match filter {
        Ok(Filter { ready }) => {
            index.retain(|entry| !ready || entry.state == "READY");
            Ok(json(&index))
        }
        Err(error) => {
            Err(ProxyError::BadRequest(format!("the request does not parse: {error}").into()))
        }
    })
}

/// Whether the process answers at all.
fn live() -> Response<Bytes> {
    json(&serde_json::json!({ "live": true }))
}

/// Whether requests are welcome.
fn ready(shard: &Shard) -> Response<Bytes> {
    let ready = shard.shared.is_ready();
    let mut response = json(&serde_json::json!({ "ready": ready, "live": true }));
    if !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// Redirects to the page.
fn home() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
    response
}

/// A worker's answer that is shown as a page.
#[derive(Debug)]
pub(super) struct Rendered<'a> {
    pub(super) reader: &'a Reader,
    pub(super) purpose: Purpose,
    pub(super) start: Instant,
    pub(super) id: &'a RequestId,
}

impl Rendered<'_> {
    /// Renders a worker's JSON as a page.
    pub(super) async fn render(
        &self,
        shard: &Rc<Shard>,
        reply: Box<Reply>,
    ) -> Result<Response<Bytes>, ProxyError> {
        let status = reply.head.status;
        let endpoint = reply.head.headers.get(headers::ENDPOINT).cloned();
        let text = whole(reply).await?;
        let value: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|_| ProxyError::Upstream("its answer is not JSON"))?;
        let pages = &shard.shared.pages;
        let page = if status.is_success() {
            let outcome = self.outcome(value);
            pages.result(self.reader, &shard.snapshot(), outcome)
        } else {
            let error = value["error"].as_str().unwrap_or("the worker refused the request");
            pages.error(self.reader, status, error, self.id.as_str())
        };
        let mut response = page::respond(page, self.reader);
        *response.status_mut() = status;
        if let Some(endpoint) = endpoint {
            response.headers_mut().insert(headers::ENDPOINT, endpoint);
        }
        Ok(response)
    }

    fn outcome(&self, value: serde_json::Value) -> Outcome {
        if self.purpose == Purpose::Digit {
            let label = value["label"].as_str().unwrap_or("?");
            let text = format!("The result of handwritten digit detection: [{label}]");
            return Outcome::Message(text);
        }
        let elapsed = Instant::now().duration_since(self.start);
        Outcome::Prediction(value, elapsed.as_secs_f64() * 1e3)
    }
}

async fn whole(reply: Box<Reply>) -> Result<Bytes, ProxyError> {
    let mut stream = reply.stream;
    if let Some(bytes) = stream.take_whole() {
        return Ok(bytes);
    }
    let mut text = BytesMut::new();
    while let Some(piece) = std::future::poll_fn(|context| stream.poll_piece(context)).await {
        let piece = piece.map_err(|error| match error {
            BrokenOff::Upstream(fault) => ProxyError::Upstream(fault.as_str()),
            BrokenOff::Overdue => ProxyError::Deadline,
        })?;
        if text.len() + piece.len() > MAX_RENDERED {
            return Err(ProxyError::Upstream("its answer is too long"));
        }
        text.extend_from_slice(&piece);
    }
    Ok(text.freeze())
}
