//! The way of a request: checked, collected, sent to an endpoint, answered.
//!
//! Read it from [`answer`] downwards. The body is collected before an endpoint is chosen, because
//! its fields may say where it goes and because an attempt may have to be repeated; it is bounded
//! in size, in time and by a common budget. Classifying a picture changes nothing, so repeating a
//! request is safe as long as the client has not seen a byte of an answer.

mod answer;
mod attempt;
pub(crate) mod collect;
mod drive;
mod hedge;
mod join;
mod local;
mod orders;
mod outgoing;
mod pieces;
mod relay;
mod stream;
mod target;
mod trace;

use std::borrow::Cow;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

pub use answer::Answer;
use attempt::{Job, Reply};
use fleet::Scope;
use fleet::policy::Kind;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Method, Response, Version, request};
use hyper::body::{Body, Incoming};
use local::Place;
pub use outgoing::Outgoing;
pub use target::Asked;
use tokio::time::Instant;
use trace::Trace;

use crate::access_log::Entry;
use crate::error::{Part, ProxyError};
use crate::headers::{self, Known, Origin, RequestId, Seen};
use crate::lane::{Client, Lane};
use crate::page::{Reader, Watcher};
use crate::route::{self, Purpose, Route};
use crate::traffic::Flag;

/// Longest request target, in bytes.
const MAX_TARGET: usize = 8 * 1024;
/// Most bytes of header fields.
const MAX_FIELDS: usize = 16 * 1024;
/// Most header fields; in HTTP/1 the parser itself stops there.
const MAX_FIELD_COUNT: usize = 100;

/// Answers one request. Its head comes as what is kept of it: a request moved whole would be copied
/// with every future that it passes through.
pub async fn answer(
    lane: Rc<Lane>,
    client: Rc<Client>,
    head: Rc<request::Parts>,
    mut body: Incoming,
) -> Result<Response<Answer>, Infallible> {
    let start = lane.outbox.now();
    let seen = Seen::of(&head.headers);
    let entry =
        lane.log.as_ref().map(|_| Box::new(Entry::new(&head, seen.has(Known::UserAgent), start)));
    let mut trace = Trace::new(Rc::clone(&lane), Rc::clone(&client), entry);
    trace.is_head_request = head.method == Method::HEAD;
    let id = identify(&head.headers, &seen, &mut trace);
    let place = Place::new(&head, &seen, &client.origin);
    let about = About { head: &head, seen: &seen, start, id: &id, place: &place };
    let result = serve(about, &mut body, &mut trace).await;
    if client.is_multiplexed() && !body.is_end_stream() {
        let is_late = matches!(&result, Err(ProxyError::RequestTimeout));
        collect::throw_away(&lane, body, is_late);
    }
    let mut response = match result {
        Ok(Done::Local(response)) => {
            trace.flag = Flag::Local;
            local::send(response, trace)
        }
        Ok(Done::Reply(reply)) => {
            trace.flag = Flag::Answered;
            trace.status = reply.head.status;
            let Reply { head: mut answer, stream, at } = *reply;
            headers::prepare_response(&mut answer.headers);
            Response::from_parts(answer, Answer::stream(stream, trace, at))
        }
        Ok(Done::Watch(watcher)) => {
            trace.flag = Flag::Local;
            local::watch(watcher, trace)
        }
        Err(error) => local::fail(&error, &place, &id, trace),
    };
    response.headers_mut().insert(headers::REQUEST_ID, id.to_value());
    // What is not here yet may never come: the connection cannot carry another request.
    let is_last = lane.is_draining.get() || client.is_arriving() || client.is_last();
    if is_last && head.version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(head) = Rc::try_unwrap(head) {
        lane.recycle(head.headers);
    }
    Ok(response)
}

/// What a request came to.
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
struct About<'a> {
    head: &'a request::Parts,
    seen: &'a Seen<'a>,
    start: Instant,
    id: &'a RequestId,
    place: &'a Place,
}

/// The id of a request: the client's, or a new one.
fn identify(fields: &HeaderMap, seen: &Seen<'_>, trace: &mut Trace) -> RequestId {
    let given =
        if seen.has(Known::RequestId) { headers::request_id(fields).cloned() } else { None };
    let id = given.map_or_else(
        || RequestId::new(trace.lane().random(), trace.lane().random()),
        RequestId::Given,
    );
    if let Some(entry) = &mut trace.entry {
        entry.request_id = Some(id.clone());
    }
    id
}

async fn serve(
    about: About<'_>,
    body: &mut Incoming,
    trace: &mut Trace,
) -> Result<Done, ProxyError> {
    let About { head, seen, start, id, place } = about;
    headers::check(head, seen)?;
    check_size(head, seen)?;
    let (lane, client) = (Rc::clone(trace.lane()), Rc::clone(trace.client()));
    let uri = &head.uri;
    let forward = match route::route(&head.method, uri.path())? {
        Route::Forward(forward) => forward,
        own @ (Route::Page
        | Route::Asset(..)
        | Route::Status
        | Route::Events
        | Route::Live
        | Route::Ready
        | Route::Home) => return local::answer(&lane, &own, head, &client.origin),
        Route::Membership(wish) => return Box::pin(join::answer(wish, head, body, trace)).await,
    };
    if forward.purpose == Purpose::Order {
        orders::check(&lane.shared.config, head, &client.origin)?;
    }
    let collected = collect::collect(trace, body).await?;
    client.body_arrived(lane.outbox.now());
    if let Some(entry) = &mut trace.entry {
        entry.bytes_in = collected.payload().as_slice().len() as u64;
    }
    if forward.purpose == Purpose::Index
        && let Some(index) = local::index(&lane, collected.payload())
    {
        return index.map(Done::Local);
    }
    let limit = time_limit(&lane, &about);
    let deadline = start + limit;
    let target = target::Target::find(&lane, head, &collected, &forward, deadline).await?;
    let is_form = matches!(forward.purpose, Purpose::Form | Purpose::Digit);
    let wants_page = is_form && place.wants_page();
    let scope = scope(&lane, forward.purpose, limit);
    let at_endpoint = target.at_endpoint(uri, &forward);
    let wants_json = wants_page || forward.purpose == Purpose::Digit;
    let outgoing = outgoing(&lane, &about, at_endpoint, &client.origin, wants_json);
    let payload = collected.payload();
    let job = Job { lane: &lane, outgoing, payload, wanted: target.wanted(), deadline, scope };
    // A request without a body was collected in no time.
    let now = if payload.as_slice().is_empty() { start } else { lane.outbox.now() };
    let reply = match forward.purpose {
        Purpose::Order => Box::pin(orders::carry_out(&job)).await,
        Purpose::Api | Purpose::TfServing | Purpose::Index | Purpose::Form | Purpose::Digit => {
            job.run(now, trace).await.map_err(|error| forward.worded(error))
        }
    }?;
    if let Some(entry) = &mut trace.entry {
        entry.upstream = Some(reply.at.duration_since(start));
    }
    let as_page =
        wants_page || (forward.purpose == Purpose::Digit && reply.head.status.is_success());
    if as_page {
        let reader = &Reader::of(head, &client.origin);
        let page = local::Rendered { reader, purpose: forward.purpose, start, id };
        return Box::pin(page.render(&lane, reply)).await.map(Done::Local);
    }
    Ok(Done::Reply(reply))
}

fn check_size(head: &request::Parts, seen: &Seen<'_>) -> Result<(), ProxyError> {
    if head.uri.path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET) {
        return Err(ProxyError::TooLarge(Part::Target));
    }
    if seen.bytes > MAX_FIELDS || seen.count > MAX_FIELD_COUNT {
        return Err(ProxyError::TooLarge(Part::Fields));
    }
    Ok(())
}

/// The time limit of this request: the configured one, or a shorter one that the client sets.
fn time_limit(lane: &Lane, about: &About<'_>) -> Duration {
    let limit = lane.shared.config.timeouts.request;
    if !about.seen.has(Known::TimeoutMs) {
        return limit;
    }
    let own = headers::timeout_ms(&about.head.headers).map(Duration::from_millis);
    own.map_or(limit, |own| limit.min(own))
}

/// What of an attempt counts for its endpoint.
fn scope(lane: &Lane, purpose: Purpose, limit: Duration) -> Scope {
    if purpose == Purpose::Order {
        Scope::OnlyConnections
    } else if limit == lane.shared.config.timeouts.request {
        Scope::Everything
    } else {
        Scope::NotLateness
    }
}

/// What goes to an endpoint.
fn outgoing<'a>(
    lane: &Lane,
    about: &About<'a>,
    target: Cow<'a, str>,
    origin: &'a Origin,
    wants_json: bool,
) -> Outgoing<'a> {
    let head = about.head;
    let parent = if about.seen.has(Known::Traceparent) {
        head.headers.get(headers::TRACEPARENT)
    } else {
        None
    };
    Outgoing {
        head,
        target,
        origin,
        id: about.id.as_bytes(),
        trace: parent.and_then(|parent| headers::child_trace(parent, lane.random())),
        wants_json,
        wants_load: lane.policy_kind() == Kind::Inference,
    }
}
