//! The head that an endpoint sees, for requests from clients and attackers.

use std::net::SocketAddr;

use fleet::{EndpointId, State};
use http::Request;
use tokio::time::Instant;

use super::*;

fn endpoint() -> Endpoint {
    let address = SocketAddr::from(([192, 0, 2, 9], 8501));
    Endpoint::new(EndpointId(0), "worker1", address, State::up(), Instant::now())
}

fn origin(is_trusted: bool) -> Origin {
    let forwarded_for = HeaderValue::from_static("192.0.2.1");
    Origin::new(forwarded_for, "http", is_trusted)
}

/// The lines of the head for `fields`, the request line first.
fn lines(fields: &[(&'static str, &'static str)], is_trusted: bool) -> Vec<String> {
    let (mut head, ()) = Request::post("/submit").body(()).expect("valid").into_parts();
    for (name, value) in fields {
        head.headers.append(*name, HeaderValue::from_static(value));
    }
    let outgoing = Outgoing {
        head: &head,
        target: Cow::Borrowed("/predict?a=b"),
        origin: &origin(is_trusted),
        id: b"own-id",
        trace: None,
        wants_json: false,
        wants_load: true,
    };
    let mut out = Vec::new();
    outgoing.write(&endpoint(), 1500, 7, &mut out);
    let text = String::from_utf8(out).expect("text");
    let text = text.strip_suffix("\r\n\r\n").expect("an empty line at the end");
    text.split("\r\n").map(str::to_owned).collect()
}

fn values(lines: &[String], name: &str) -> Vec<String> {
    let start = format!("{name}: ");
    lines.iter().filter_map(|line| Some(line.strip_prefix(&start)?.to_owned())).collect()
}

#[test]
fn the_endpoint_learns_what_it_needs_and_no_more() {
    let sent = [("host", "a.example"), ("content-type", "image/png"), ("via", "1.0 other")];
    let lines = lines(&sent, false);
    assert_eq!(
        lines,
        [
            "POST /predict?a=b HTTP/1.1",
            "host: a.example",
            "content-type: image/png",
            "via: 1.0 other",
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-proto: http",
            "x-forwarded-host: a.example",
            "via: 1.1 imagefleet",
            "x-request-id: own-id",
            "x-imagefleet-timeout-ms: 1500",
            "x-imagefleet-endpoint: worker1",
            "endpoint-load-metrics-format: json",
            "content-length: 7",
        ]
    );
}

#[test]
fn hop_by_hop_fields_and_those_that_connection_names_stay_here() {
    let lines = lines(
        &[
            ("host", "a"),
            ("connection", "close, X-Private"),
            ("connection", "x-other"),
            ("x-private", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("upgrade", "websocket"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("expect", "100-continue"),
            ("content-type", "image/png"),
            ("x-imagefleet-endpoint", "forged"),
            ("x-request-id", "not fit"),
            ("traceparent", "not fit"),
        ],
        false,
    );
    let passed: Vec<_> = lines[1..3].iter().map(String::as_str).collect();
    assert_eq!(passed, ["host: a", "content-type: image/png"]);
    assert_eq!(lines[3], "x-forwarded-for: 192.0.2.1");
    assert_eq!(values(&lines, "content-length"), ["7"]);
    assert_eq!(values(&lines, "x-imagefleet-endpoint"), ["worker1"]);
    assert_eq!(values(&lines, "x-request-id"), ["own-id"]);
    assert!(values(&lines, "traceparent").is_empty() && values(&lines, "connection").is_empty());
}

#[test]
fn connection_cannot_remove_what_the_request_means() {
    let sent = [("host", "a"), ("content-type", "b"), ("connection", "host, content-type")];
    let lines = lines(&sent, false);
    assert_eq!(lines[1..3], ["host: a", "content-type: b"]);
}

#[test]
fn forwarded_fields_of_strangers_are_overwritten_and_of_trusted_proxies_kept() {
    let sent = [
        ("host", "h"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "inner"),
    ];
    let stranger = lines(&sent, false);
    assert_eq!(values(&stranger, "x-forwarded-for"), ["192.0.2.1"]);
    assert_eq!(values(&stranger, "x-forwarded-proto"), ["http"]);
    assert_eq!(values(&stranger, "x-forwarded-host"), ["h"]);
    let trusted = lines(&sent, true);
    assert_eq!(values(&trusted, "x-forwarded-for"), ["6.6.6.6", "192.0.2.1"]);
    assert_eq!(values(&trusted, "x-forwarded-proto"), ["https"]);
    assert_eq!(values(&trusted, "x-forwarded-host"), ["inner"]);
}

#[test]
fn what_a_trusted_proxy_says_is_believed_field_by_field_and_the_rest_is_what_is_seen_here() {
    for (said, proto, host) in [
        (&[("x-forwarded-proto", "https")][..], "https", "h"),
        (&[("x-forwarded-host", "inner")], "http", "inner"),
        (&[("x-forwarded-proto", "https"), ("x-forwarded-host", "inner")], "https", "inner"),
        (&[("x-forwarded-for", "6.6.6.6")], "http", "h"),
        (&[], "http", "h"),
    ] {
        let lines = lines(&[&[("host", "h")], said].concat(), true);
        assert_eq!(values(&lines, "x-forwarded-proto"), [proto], "{said:?}");
        assert_eq!(values(&lines, "x-forwarded-host"), [host], "{said:?}");
        let clients = values(&lines, "x-forwarded-for");
        assert_eq!(clients.last().map(String::as_str), Some("192.0.2.1"), "{said:?}");
    }
}

#[test]
fn a_request_without_a_host_gets_the_endpoints_own() {
    assert_eq!(values(&lines(&[], false), "host"), ["192.0.2.9:8501"]);
}
