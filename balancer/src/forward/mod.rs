//! The path of a request: checked, collected, sent to an endpoint, answered.
//!
//! Start reading at [`answer()`]. The body is collected before an endpoint is chosen, because its
//! fields may decide where it goes and because an attempt may have to be repeated; it is bounded in
//! size, in time and by a shared budget. Classifying a picture has no side effects, so repeating a
//! request is safe as long as the client has not seen a byte of an answer.

mod answer;
mod attempt;
pub(crate) mod collect;
mod drive;
mod hedge;
mod join;
mod local;
mod model_control;
mod outgoing;
mod pieces;
mod relay;
mod request_log;
mod stream;
mod target;

use std::borrow::Cow;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

pub use answer::AnswerBody;
use attempt::{PreparedRequest, Reply};
use fleet::Scope;
use fleet::policy::Kind;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Method, Response, Version, request};
use hyper::body::{Body, Incoming};
use local::ErrorContext;
pub use outgoing::Outgoing;
use request_log::RequestLog;
pub use target::Asked;
use tokio::time::Instant;

use crate::access_log::Entry;
use crate::error::{Part, ProxyError};
use crate::headers::{self, HeaderScan, Origin, RequestId, ScannedField};
use crate::page::{Reader, Watcher};
use crate::route::{self, Forward, Purpose, Route};
use crate::shard::{Client, Shard};
use crate::traffic::Flag;

/// Longest request target, in bytes.
const MAX_TARGET: usize = 8 * 1024;
/// Maximum size of the header fields, in bytes.
const MAX_FIELDS: usize = 16 * 1024;
/// Maximum number of header fields; in HTTP/1 the parser itself stops there.
const MAX_FIELD_COUNT: usize = 100;

/// Answers one request. The head is passed as an `Rc`: a request moved by value would be copied
/// with every future that it passes through.
pub async fn answer(
    shard: Rc<Shard>,
    client: Rc<Client>,
    head: Rc<request::Parts>,
    mut body: Incoming,
) -> Result<Response<AnswerBody>, Infallible> {
    let start = shard.write_queue.now();
    let scan = HeaderScan::of(&head.headers);
    let entry = shard
        .log
        .as_ref()
        .map(|_| Box::new(Entry::new(&head, scan.has(ScannedField::UserAgent), start)));
    let mut request_log = RequestLog::new(Rc::clone(&shard), Rc::clone(&client), entry);
    request_log.is_head_request = head.method == Method::HEAD;
    let id = identify(&head.headers, &scan, &mut request_log);
    let error_context = ErrorContext::new(&head, &scan, &client.origin);
    let context =
        RequestContext { head: &head, scan: &scan, start, id: &id, error_context: &error_context };
    let result = serve(context, &mut body, &mut request_log).await;
    if client.is_multiplexed() && !body.is_end_stream() {
        let is_late = matches!(&result, Err(ProxyError::RequestTimeout));
        collect::throw_away(&shard, body, is_late);
    }
    let mut response = match result {
        Ok(Done::Local(response)) => {
            request_log.flag = Flag::Local;
            local::send(response, request_log)
        }
        Ok(Done::Reply(reply)) => {
            request_log.flag = Flag::Answered;
            request_log.status = reply.head.status;
            let Reply { head: mut answer, stream, at } = *reply;
            headers::prepare_response(&mut answer.headers);
            Response::from_parts(answer, AnswerBody::stream(stream, request_log, at))
        }
        Ok(Done::Watch(watcher)) => {
            request_log.flag = Flag::Local;
            local::watch(watcher, request_log)
        }
        Err(error) => local::fail(&error, &error_context, &id, request_log),
    };
    response.headers_mut().insert(headers::REQUEST_ID, id.to_value());
    // What has not arrived yet may never come, so the connection cannot carry another request.
    let is_last = shard.is_draining.get() || client.is_arriving() || client.is_last();
    if is_last && head.version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(head) = Rc::try_unwrap(head) {
        shard.recycle(head.headers);
    }
    Ok(response)
}

/// Outcome of a request.
enum Done {
    /// The balancer's own answer.
    Local(Response<bytes::Bytes>),
    /// A stream of events about the fleet.
    Watch(Watcher),
    /// The answer of an endpoint.
    Reply(Box<Reply>),
}

/// What is known about a request from its head.
#[derive(Debug, Clone, Copy)]
struct RequestContext<'a> {
    head: &'a request::Parts,
    scan: &'a HeaderScan<'a>,
    start: Instant,
    id: &'a RequestId,
    error_context: &'a ErrorContext,
}

/// The id of a request: the client's, or a new one.
fn identify(fields: &HeaderMap, scan: &HeaderScan<'_>, request_log: &mut RequestLog) -> RequestId {
    let given =
        if scan.has(ScannedField::RequestId) { headers::request_id(fields).cloned() } else { None };
    let id = given.map_or_else(
        || RequestId::new(request_log.shard().random(), request_log.shard().random()),
        RequestId::Given,
    );
    if let Some(entry) = &mut request_log.entry {
        entry.request_id = Some(id.clone());
    }
    id
}

async fn serve(
    context: RequestContext<'_>,
    body: &mut Incoming,
    request_log: &mut RequestLog,
) -> Result<Done, ProxyError> {
    let RequestContext { head, scan, .. } = context;
    headers::check(head, scan)?;
    check_size(head, scan)?;
    match route::route(&head.method, head.uri.path())? {
        Route::Forward(forward) => relay(context, &forward, body, request_log).await,
        Route::Membership(wish) => Box::pin(join::answer(wish, head, body, request_log)).await,
        own @ (Route::Page
        | Route::Asset(..)
        | Route::Status
        | Route::Events
        | Route::Live
        | Route::Ready
        | Route::Home) => {
            let origin = &request_log.client().origin;
            local::answer(request_log.shard(), &own, head, origin)
        }
    }
}

/// A worker's answer, as it is or rendered as a page.
async fn relay(
    context: RequestContext<'_>,
    forward: &Forward<'_>,
    body: &mut Incoming,
    request_log: &mut RequestLog,
) -> Result<Done, ProxyError> {
    let RequestContext { head, start, .. } = context;
    let (shard, client) = (Rc::clone(request_log.shard()), Rc::clone(request_log.client()));
    if forward.purpose == Purpose::ModelControl {
        model_control::check(&shard.shared.config, head, &client.origin)?;
    }
    let has_body = !body.is_end_stream();
    let collected = collect::collect(request_log, body).await?;
    client.body_arrived(shard.write_queue.now());
    if let Some(entry) = &mut request_log.entry {
        entry.bytes_in = collected.payload().as_slice().len() as u64;
    }
    if forward.purpose == Purpose::Index
        && let Some(index) = local::index(&shard, collected.payload())
    {
        return index.map(Done::Local);
    }
    let limit = time_limit(&shard, &context);
    let deadline = start + limit;
    let target = target::Target::find(&shard, head, &collected, forward, deadline).await?;
    let is_form = matches!(forward.purpose, Purpose::Form | Purpose::Digit);
    let wants_page = is_form && context.error_context.wants_page();
    let scope = scope(&shard, forward.purpose, limit);
    let at_endpoint = target.at_endpoint(&head.uri, forward);
    let wants_json = wants_page || forward.purpose == Purpose::Digit;
    let outgoing = outgoing(&shard, &context, at_endpoint, &client.origin, wants_json);
    let prepared = PreparedRequest {
        shard: &shard,
        outgoing,
        payload: collected.payload(),
        wanted: target.wanted(),
        deadline,
        scope,
    };
    // Collecting a request without a body takes no time.
    let now = if has_body { shard.write_queue.now() } else { start };
    let reply = match forward.purpose {
        Purpose::ModelControl => Box::pin(model_control::carry_out(&prepared)).await,
        Purpose::Api | Purpose::TfServing | Purpose::Index | Purpose::Form | Purpose::Digit => {
            prepared.run(now, request_log).await.map_err(|error| forward.worded(error))
        }
    }?;
    if let Some(entry) = &mut request_log.entry {
        entry.upstream = Some(reply.at.duration_since(start));
    }
    let as_page =
        wants_page || (forward.purpose == Purpose::Digit && reply.head.status.is_success());
    if as_page {
        let reader = &Reader::of(head, &client.origin);
        let page = local::Rendered { reader, purpose: forward.purpose, start, id: context.id };
        return Box::pin(page.render(&shard, reply)).await.map(Done::Local);
    }
    Ok(Done::Reply(reply))
}

fn check_size(head: &request::Parts, scan: &HeaderScan<'_>) -> Result<(), ProxyError> {
    if head.uri.path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET) {
        return Err(ProxyError::TooLarge(Part::Target));
    }
    if scan.bytes > MAX_FIELDS || scan.count > MAX_FIELD_COUNT {
        return Err(ProxyError::TooLarge(Part::Fields));
    }
    Ok(())
}

/// The time limit of this request: the configured one, or a shorter one that the client sets.
fn time_limit(shard: &Shard, context: &RequestContext<'_>) -> Duration {
    let limit = shard.shared.config.timeouts.request;
    if !context.scan.has(ScannedField::TimeoutMs) {
        return limit;
    }
    let own = headers::timeout_ms(&context.head.headers).map(Duration::from_millis);
    own.map_or(limit, |own| limit.min(own))
}

/// How much of an attempt with the full time limit counts for its endpoint.
fn scope(shard: &Shard, purpose: Purpose, limit: Duration) -> Scope {
    if purpose == Purpose::ModelControl {
        Scope::OnlyConnections
    } else if limit == shard.shared.config.timeouts.request {
        Scope::Everything
    } else {
        Scope::NotLateness
    }
}

/// The request that goes to an endpoint.
fn outgoing<'a>(
    shard: &Shard,
    context: &RequestContext<'a>,
    target: Cow<'a, str>,
    origin: &'a Origin,
    wants_json: bool,
) -> Outgoing<'a> {
    let head = context.head;
    let parent = if context.scan.has(ScannedField::Traceparent) {
        head.headers.get(headers::TRACEPARENT)
    } else {
        None
    };
    Outgoing {
        head,
        target,
        origin,
        id: context.id.as_bytes(),
        trace: parent.and_then(|parent| headers::child_trace(parent, shard.random())),
        wants_json,
        wants_load: shard.policy_kind() == Kind::Inference,
    }
}
