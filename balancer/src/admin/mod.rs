//! The port for operators: metrics, the state of the fleet, and verbs that change it.
//!
//! It listens on the loopback interface by default and carries no client traffic, so it is served
//! by the control runtime. Every verb is a POST and returns the resulting state of the fleet.
//! [`crate::permission`] decides who may request what, before anything else; only health is open to
//! every client, because the public port reports it too.

mod connections;
mod report;
mod verbs;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, LOCATION, REFERRER_POLICY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use wire::operator::Caller;

use crate::headers;
use crate::metrics;
use crate::page::{self, Asset, Reader};
use crate::permission::{self, Denied};
use crate::shared::Shared;

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Serves the admin port forever, except while `lent` is true: then another process does, and
/// `pause` reports that this one accepts nothing.
pub async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    lent: watch::Receiver<bool>,
    pause: watch::Sender<bool>,
) {
    connections::serve(shared, listener, lent, pause, answer).await;
}

fn answer(
    shared: &Arc<Shared>,
    request: &Request<Incoming>,
    local: Option<IpAddr>,
) -> Response<Full<Bytes>> {
    let mut response = match permitted(shared, request, local) {
        Ok(()) => respond_to(shared, request),
        Err(denied) => refuse(&denied, headers::wants_page(request.headers())),
    };
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (RESOURCE_POLICY, "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn permitted(
    shared: &Shared,
    request: &Request<Incoming>,
    local: Option<IpAddr>,
) -> Result<(), Denied> {
    let permission = &shared.config.permission;
    let caller = Caller { headers: request.headers(), uri: request.uri() };
    match *request.method() {
        Method::GET | Method::HEAD if is_health(request.uri().path()) => Ok(()),
        Method::GET | Method::HEAD => permission.check_read(&caller, local),
        _ => permission.check_model_control(&caller, request.version(), local),
    }
}

fn is_health(path: &str) -> bool {
    matches!(path, wire::path::LIVE | wire::path::READY)
}

fn refuse(denied: &Denied, is_browser: bool) -> Response<Full<Bytes>> {
    match denied {
        Denied::Token => {
            let mut response = fail(StatusCode::UNAUTHORIZED, &denied.to_string());
            response.headers_mut().insert(WWW_AUTHENTICATE, permission::CHALLENGE);
            if is_browser {
                response.headers_mut().append(WWW_AUTHENTICATE, permission::PASSWORD_CHALLENGE);
            }
            response
        }
        Denied::Stranger(_) | Denied::OldVersion => {
            fail(StatusCode::FORBIDDEN, &denied.to_string())
        }
    }
}

fn respond_to(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::GET | &Method::HEAD, "/") => to_fleet(),
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            respond(StatusCode::OK, kind, metrics::encode(shared))
        }
        (&Method::GET | &Method::HEAD, "/fleet") if headers::wants_page(request.headers()) => {
            page(shared, request)
        }
        (&Method::GET | &Method::HEAD, "/fleet.json" | "/fleet") => {
            fleet_response(shared, request.uri().query())
        }
        (&Method::GET | &Method::HEAD, "/targets.json") => targets(shared),
        (&Method::GET | &Method::HEAD, wire::path::LIVE) => health(shared, true),
        (&Method::GET | &Method::HEAD, wire::path::READY) => health(shared, shared.is_ready()),
        (&Method::GET | &Method::HEAD, _) if path.starts_with("/fleet/") => {
            not_allowed("verbs are POST", "POST")
        }
        (&Method::GET | &Method::HEAD, _) => match Asset::find(path) {
            Some((asset, is_final)) => asset.respond(is_final, request.headers()).map(Full::new),
            None => fail(
                StatusCode::NOT_FOUND,
                "there are /fleet, /fleet.json, /targets.json, /metrics and /v2/health here",
            ),
        },
        (&Method::POST, _) => match verbs::change(shared, path, request.uri().query()) {
            // The client is a page without scripts.
            Ok(()) if headers::wants_page(request.headers()) => to_fleet(),
            Ok(()) => fleet_response(shared, None),
            Err((status, text)) => fail(status, &text),
        },
        _ => not_allowed("use GET or POST", "GET, HEAD, POST"),
    }
}

/// Redirects to the fleet, for a request without a path.
fn to_fleet() -> Response<Full<Bytes>> {
    let mut response =
        respond(StatusCode::SEE_OTHER, "text/plain", "the fleet is at /fleet\n".into());
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/fleet"));
    response
}

fn not_allowed(text: &str, allow: &'static str) -> Response<Full<Bytes>> {
    let mut response = fail(StatusCode::METHOD_NOT_ALLOWED, text);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// Health, and the id of the process: it distinguishes two that share their addresses for a while.
fn health(shared: &Shared, is_well: bool) -> Response<Full<Bytes>> {
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let health = json!({ "live": true, "ready": shared.is_ready(), "pid": std::process::id() });
    respond(status, "application/json", format!("{health}\n"))
}

/// The fleet as a page, for people.
fn page(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let reader = Reader::new(request.uri(), request.headers(), None);
    let page = shared.pages.fleet(&reader, report::fleet(shared, false));
    let mut response = page::respond(page, &reader).map(Full::new);
    // The forms of a page without scripts must send their origin.
    let policy = HeaderValue::from_static("same-origin");
    response.headers_mut().insert(REFERRER_POLICY, policy);
    response
}

fn fleet_response(shared: &Shared, query: Option<&str>) -> Response<Full<Bytes>> {
    let has_history = query.is_some_and(|query| query.split('&').any(|pair| pair == "history=1"));
    let fleet = report::fleet(shared, has_history);
    let text = if has_history { format!("{fleet}\n") } else { format!("{fleet:#}\n") };
    respond(StatusCode::OK, "application/json", text)
}

/// The addresses of the workers for Prometheus, in the format of its `http_sd_configs`.
fn targets(shared: &Shared) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, "application/json", format!("{}\n", report::targets(shared)))
}

fn fail(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, "application/json", format!("{}\n", json!({ "error": text })))
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
