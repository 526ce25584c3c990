//! The port for operators: metrics, the state of the fleet, and verbs that change it.
//!
//! It listens on the loopback interface unless told otherwise and carries no client traffic, so it
//! is served by the control runtime. Every verb is a POST and answers with the fleet as it then is.
//! Who may ask for what is decided by [`crate::permission`], before anything else; only health
//! is told to everybody, because the public port tells it too.

mod connections;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use fleet::policy::Kind;
use fleet::{Chosen, Endpoint, Event};
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, LOCATION, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use wire::operator::Caller;

use crate::headers;
use crate::log::changes::tell;
use crate::metrics;
use crate::page;
use crate::permission::{self, Denied};
use crate::route::Asset;
use crate::shared::Shared;

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Serves the admin port for ever, except while `lent` is true: then another process does.
pub async fn run(shared: Arc<Shared>, listener: TcpListener, lent: watch::Receiver<bool>) {
    connections::serve(shared, listener, lent, answer).await;
}

fn answer(
    shared: &Arc<Shared>,
    request: &Request<Incoming>,
    local: Option<IpAddr>,
) -> Response<Full<Bytes>> {
    let mut response = match permitted(shared, request, local) {
        Ok(()) => respond_to(shared, request),
        Err(denied) => refuse(&denied),
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
        _ => permission.check_order(&caller, request.version(), local),
    }
}

fn is_health(path: &str) -> bool {
    matches!(path, wire::path::LIVE | wire::path::READY)
}

fn refuse(denied: &Denied) -> Response<Full<Bytes>> {
    match denied {
        Denied::Token => {
            let mut response = fail(StatusCode::UNAUTHORIZED, &denied.to_string());
            response.headers_mut().insert(WWW_AUTHENTICATE, permission::CHALLENGE);
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
            page(shared)
        }
        (&Method::GET | &Method::HEAD, "/fleet.json" | "/fleet") => fleet_response(shared),
        (&Method::GET | &Method::HEAD, "/style.css") => file(Asset::Style),
        (&Method::GET | &Method::HEAD, "/favicon.svg" | "/favicon.ico") => file(Asset::Icon),
        (&Method::GET | &Method::HEAD, wire::path::LIVE) => health(shared, true),
        (&Method::GET | &Method::HEAD, wire::path::READY) => health(shared, shared.is_ready()),
        (&Method::GET | &Method::HEAD, _) if path.starts_with("/fleet/") => {
            not_allowed("verbs are POST", "POST")
        }
        (&Method::GET | &Method::HEAD, _) => fail(
            StatusCode::NOT_FOUND,
            "there are /fleet, /fleet.json, /metrics and /v2/health here",
        ),
        (&Method::POST, _) => match change(shared, path, request.uri().query()) {
            Ok(()) => fleet_response(shared),
            Err((status, text)) => fail(status, &text),
        },
        _ => not_allowed("use GET or POST", "GET, HEAD, POST"),
    }
}

/// To whoever types the address alone.
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

/// Which process answers is told too: two that share their addresses for a while are told apart.
fn health(shared: &Shared, is_well: bool) -> Response<Full<Bytes>> {
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let health = json!({ "live": true, "ready": shared.is_ready(), "pid": std::process::id() });
    respond(status, "application/json", format!("{health}\n"))
}
type Refusal = (StatusCode, String);

/// `POST /fleet/policy?name=p2c`, `/fleet/NAME/drain`, `/fleet/NAME/undrain`,
/// `/fleet/NAME/weight?value=3`
fn change(shared: &Shared, path: &str, query: Option<&str>) -> Result<(), Refusal> {
    let unknown = || (StatusCode::NOT_FOUND, format!("there is no verb at {path}"));
    let rest = path.strip_prefix("/fleet/").ok_or_else(unknown)?;
    if rest == "policy" {
        return set_policy(shared, parameter(query, "name").unwrap_or_default());
    }
    let (name, verb) = rest.rsplit_once('/').ok_or_else(unknown)?;
    let snapshot = shared.fleet.pool.snapshot();
    let endpoint = snapshot.all().iter().find(|endpoint| endpoint.name() == name);
    let endpoint = endpoint
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("there is no endpoint {name:?}")))?;
    match verb {
        "drain" => tell(&shared.fleet.pool.apply(endpoint, Event::Drain, Instant::now())),
        "undrain" => tell(&shared.fleet.pool.apply(endpoint, Event::Undrain, Instant::now())),
        "weight" => {
            let weight = parameter(query, "value").and_then(|value| value.parse().ok());
            let text = "weight?value=N takes a number from 0 to 1000";
            let weight: u32 = weight
                .filter(|weight| *weight <= 1000)
                .ok_or_else(|| (StatusCode::BAD_REQUEST, text.to_owned()))?;
            tell(&shared.fleet.pool.set_weight(endpoint, weight));
        }
        _ => return Err(unknown()),
    }
    tracing::info!(endpoint = name, verb, "operator");
    Ok(())
}

fn set_policy(shared: &Shared, name: &str) -> Result<(), Refusal> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL.into_iter().map(Kind::as_str).collect();
        (StatusCode::BAD_REQUEST, format!("policy?name= takes one of {}", names.join(", ")))
    })?;
    shared.fleet.policy.store(Arc::new(Chosen::new(kind)));
    tracing::info!(policy = name, "operator");
    Ok(())
}

fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    query?
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, value)| value)
}

/// The fleet for people.
fn page(shared: &Shared) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(shared.pages.fleet(fleet(shared))));
    page::set_headers(response.headers_mut());
    response
}

fn file(asset: Asset) -> Response<Full<Bytes>> {
    let (kind, bytes) = page::asset(asset);
    let mut response = Response::new(Full::new(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn fleet_response(shared: &Shared) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, "application/json", format!("{:#}\n", fleet(shared)))
}

fn fleet(shared: &Shared) -> Value {
    let snapshot = shared.fleet.pool.snapshot();
    let now = Instant::now();
    let endpoints: Vec<Value> = snapshot.all().iter().map(|one| endpoint(one, now)).collect();
    json!({
        "policy": shared.fleet.policy.load().kind.as_str(),
        "ready": shared.is_ready(),
        "draining": shared.is_draining.load(Relaxed),
        "panic_mode": snapshot.is_panicking(),
        "models": snapshot.models(),
        "active_requests": shared.traffic.active.load(Relaxed),
        "connections": shared.connections.used(),
        "endpoints": endpoints,
    })
}

fn endpoint(endpoint: &Endpoint, now: Instant) -> Value {
    let counters = endpoint.counters();
    let models: Vec<Value> = endpoint
        .models()
        .iter()
        .flat_map(|models| models.iter())
        .map(|model| json!({"name": model.name, "version": model.version, "state": model.state}))
        .collect();
    json!({
        "name": endpoint.name(),
        "address": endpoint.address().to_string(),
        "state": endpoint.state().availability().as_str(),
        "in_flight": endpoint.in_flight(),
        "in_flight_limit": (endpoint.limit() != u32::MAX).then(|| endpoint.limit()),
        "weight": endpoint.weight(),
        "reported_queue": endpoint.reported_queue(),
        "service_time_ms": endpoint.service_time(now) / 1e6,
        "succeeded": counters.succeeded.load(Relaxed),
        "failed": counters.failed.load(Relaxed),
        "ejections": counters.ejections.load(Relaxed),
        "models": models,
    })
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
