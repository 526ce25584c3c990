//! The way of a request: checked, collected, sent to an endpoint, answered.
//!
//! Read it from [`answer`] downwards. The body is collected before an endpoint is chosen, because
//! its fields may say where it goes and because an attempt may have to be repeated; it is bounded
//! in size, in time and by a common budget. Classifying a picture changes nothing, so repeating a
//! request is safe as long as the client has not seen a byte of an answer.

mod answer;
mod attempt;
mod collect;
mod hedge;
mod local;
mod orders;
mod outgoing;
mod target;

use std::rc::Rc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version, request};
use hyper::body::Incoming;
use tokio::time::Instant;

pub use answer::Answer;
pub use outgoing::Outgoing;

use crate::access_log::Entry;
use crate::error::{HeadPart, ProxyError};
use crate::headers::{self, Origin};
use crate::lane::{Client, Lane};
use crate::metrics::Flag;
use crate::policy::Kind;
use crate::route::{self, Forward, Purpose, Route};
use answer::Trace;
use attempt::{Job, Reply};
use local::Place;

/// Longest request target.
const MAX_TARGET: usize = 8 * 1024;
/// Most bytes of header fields.
const MAX_FIELDS: usize = 16 * 1024;

/// Answers one request.
pub async fn answer(
    lane: Rc<Lane>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Response<Answer> {
    let start = Instant::now();
    let (head, body) = request.into_parts();
    let head = Rc::new(head);
    let entry =
        lane.log.as_ref().map(|_| Box::new(Entry::new(&head, &client.origin.forwarded_for, start)));
    let mut trace = Trace::new(Rc::clone(&lane), Rc::clone(&client), entry);
    let id = identify(&head, &mut trace);
    let place = Place::new(&head);
    let result = serve(&head, body, &mut trace, (start, &id, &place)).await;
    let mut response = match result {
        Ok(Done::Local(response)) => {
            trace.flag = Flag::Local;
            local::send(response, trace)
        }
        Ok(Done::Reply(reply)) => {
            trace.flag = Flag::Answered;
            trace.status = reply.head.status;
            let Reply { head: mut answer, stream, .. } = *reply;
            headers::prepare_response(&mut answer.headers);
            Response::from_parts(answer, Answer::stream(stream, trace))
        }
        Err(error) => local::fail(&error, &place, &id, trace),
    };
    response.headers_mut().insert(headers::REQUEST_ID, id);
    if lane.is_draining.get() && head.version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What a request came to.
enum Done {
    /// The balancer's own answer.
    Local(Response<bytes::Bytes>),
    /// An endpoint's answer.
    Reply(Box<Reply>),
}

/// The id of a request: the client's, or a new one.
fn identify(head: &request::Parts, trace: &mut Trace) -> HeaderValue {
    let id = headers::request_id(&head.headers).cloned();
    let id = id.unwrap_or_else(|| {
        let (high, low) = (trace.lane().random(), trace.lane().random());
        headers::new_request_id(high, low)
    });
    if let Some(entry) = &mut trace.entry {
        entry.request_id = Some(id.clone());
    }
    id
}

async fn serve(
    head: &request::Parts,
    body: Incoming,
    trace: &mut Trace,
    (start, id, place): (Instant, &HeaderValue, &Place),
) -> Result<Done, ProxyError> {
    headers::check(head)?;
    check_size(head)?;
    let (lane, client) = (Rc::clone(trace.lane()), Rc::clone(trace.client()));
    let uri = &head.uri;
    let forward = match route::route(&head.method, uri.path())? {
        Route::Forward(forward) => forward,
        Route::Page if headers::wants_text(&head.headers) => {
            return Ok(Done::Local(local::text(&lane)));
        }
        Route::Page => return Ok(Done::Local(local::page(&lane, uri.path()))),
        Route::Asset(asset) => return Ok(Done::Local(local::asset(asset))),
        Route::Live => return Ok(Done::Local(local::live())),
        Route::Ready => return Ok(Done::Local(local::ready(&lane))),
        Route::Home => return Ok(Done::Local(local::home())),
    };
    let collected = collect::collect(trace, &head.headers, body).await?;
    if let Some(entry) = &mut trace.entry {
        entry.bytes_in = collected.payload().as_slice().len() as u64;
    }
    if forward.purpose == Purpose::Index
        && let Some(index) = local::index(&lane, collected.payload())
    {
        return index.map(Done::Local);
    }
    let target = target::Target::find(&lane, head, collected.payload(), forward)?;
    let is_form = matches!(forward.purpose, Purpose::Form | Purpose::Digit);
    let wants_page = is_form && place.wants_page;
    let limit = time_limit(&lane, head);
    let is_patient = limit == lane.shared.config.timeouts.request;
    let outgoing = outgoing(head, forward, &client.origin, (&lane, id, wants_page));
    let wanted = target.wanted();
    let deadline = start + limit;
    let payload = collected.payload();
    let job = Job { lane: &lane, outgoing, payload, wanted, deadline, is_patient };
    // A request without a body was collected in no time.
    let now = if payload.as_slice().is_empty() { start } else { Instant::now() };
    let reply = match forward.purpose {
        Purpose::Order => orders::carry_out(&job).await,
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
        let page = local::Rendered { path: uri.path(), purpose: forward.purpose, start, id };
        return page.render(&lane, reply).await.map(Done::Local);
    }
    Ok(Done::Reply(Box::new(reply)))
}

fn check_size(head: &request::Parts) -> Result<(), ProxyError> {
    if head.uri.path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET) {
        return Err(ProxyError::HeadTooLarge(HeadPart::Target));
    }
    let bytes: usize =
        head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > MAX_FIELDS {
        return Err(ProxyError::HeadTooLarge(HeadPart::Fields));
    }
    Ok(())
}

/// The time for this request: the configured limit, or less if the client says so.
fn time_limit(lane: &Lane, head: &request::Parts) -> Duration {
    let limit = lane.shared.config.timeouts.request;
    headers::timeout_ms(&head.headers).map_or(limit, |own| limit.min(Duration::from_millis(own)))
}

/// What goes to an endpoint.
fn outgoing<'a>(
    head: &'a request::Parts,
    forward: Forward<'_>,
    origin: &'a Origin,
    (lane, id, wants_page): (&Lane, &'a HeaderValue, bool),
) -> Outgoing<'a> {
    let parent = head.headers.get(headers::TRACEPARENT);
    Outgoing {
        head,
        target: target::at_endpoint(&head.uri, forward),
        origin,
        id,
        trace: parent.and_then(|parent| headers::child_trace(parent, lane.random())),
        wants_json: wants_page || forward.purpose == Purpose::Digit,
        wants_load: lane.policy_kind() == Kind::Inference,
    }
}
