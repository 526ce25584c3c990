//! Writes the head of a request as it goes to an endpoint; pure.
//!
//! The client's fields are copied straight from where they are, without what belongs to the
//! client's connection, and the balancer's own fields follow. The body is always framed anew from
//! what was collected, so no framing field of the client ever reaches an endpoint: that is what
//! makes request smuggling impossible.

use std::borrow::Cow;

use http::header::{CONNECTION, HOST, HeaderName};
use http::{HeaderValue, Method, Version, request};

use crate::headers::{self, Origin};
use crate::upstream::Endpoint;

/// A request for an endpoint.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The client's head.
    pub head: &'a request::Parts,
    /// Path and query at the endpoint.
    pub target: Cow<'a, str>,
    /// Who asks.
    pub origin: &'a Origin,
    /// The request's id.
    pub id: &'a HeaderValue,
    /// The span of this hop, where the client sent a trace.
    pub trace: Option<HeaderValue>,
    /// Whether the answer must be JSON, whatever the client accepts.
    pub wants_json: bool,
    /// Whether a load report is asked for.
    pub wants_load: bool,
}

/// What happens to a field of the client.
enum Fate {
    /// It is passed on.
    Kept,
    /// It is passed on if the client is a proxy that is trusted.
    Trusted,
    /// It stays here, or the balancer says it itself.
    Dropped,
}

impl Outgoing<'_> {
    /// Appends the head, the empty line included.
    pub fn write(&self, endpoint: &Endpoint, timeout_ms: u64, body: usize, out: &mut Vec<u8>) {
        out.reserve(1024);
        out.extend_from_slice(self.head.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        self.write_client_fields(endpoint, out);
        self.write_origin(out);
        out.extend_from_slice(via(self.head.version));
        line(out, b"x-request-id: ", self.id.as_bytes());
        let mut digits = itoa::Buffer::new();
        line(out, b"x-imagefleet-timeout-ms: ", digits.format(timeout_ms).as_bytes());
        line(out, b"x-imagefleet-endpoint: ", endpoint.label().as_bytes());
        if self.wants_load {
            out.extend_from_slice(b"endpoint-load-metrics-format: json\r\n");
        }
        if self.wants_json {
            out.extend_from_slice(b"accept: application/json\r\n");
        }
        if let Some(trace) = &self.trace {
            line(out, b"traceparent: ", trace.as_bytes());
        }
        let method = &self.head.method;
        if body > 0 || method == Method::POST || method == Method::PUT || method == Method::PATCH {
            line(out, b"content-length: ", digits.format(body).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_client_fields(&self, endpoint: &Endpoint, out: &mut Vec<u8>) {
        let fields = &self.head.headers;
        let named = if fields.contains_key(CONNECTION) {
            headers::named_by_connection(fields)
        } else {
            Vec::new()
        };
        let mut has_host = false;
        for (name, value) in fields {
            has_host |= name == HOST;
            let is_kept = match self.fate(name) {
                Fate::Kept => true,
                Fate::Trusted => self.is_trusted(),
                Fate::Dropped => false,
            };
            if is_kept && !named.contains(name) {
                out.extend_from_slice(name.as_str().as_bytes());
                line(out, b": ", value.as_bytes());
            }
        }
        if !has_host {
            line(out, b"host: ", endpoint.address().to_string().as_bytes());
        }
    }

    fn fate(&self, name: &HeaderName) -> Fate {
        match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer"
            | "transfer-encoding" | "upgrade" | "content-length" | "expect" | "traceparent" => {
                Fate::Dropped
            }
            "accept" if self.wants_json => Fate::Dropped,
            "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" => Fate::Trusted,
            "x-request-id" | "x-imagefleet-timeout-ms" | "x-imagefleet-endpoint" => Fate::Dropped,
            "endpoint-load-metrics-format" if self.wants_load => Fate::Dropped,
            _ => Fate::Kept,
        }
    }

    /// Whether what the client says about its own client is passed on.
    fn is_trusted(&self) -> bool {
        self.origin.is_trusted && self.head.headers.contains_key(headers::FORWARDED_FOR)
    }

    /// What an endpoint should know about the client.
    fn write_origin(&self, out: &mut Vec<u8>) {
        let fields = &self.head.headers;
        line(out, b"x-forwarded-for: ", self.origin.forwarded_for.as_bytes());
        let is_trusted = self.is_trusted();
        if !is_trusted || !fields.contains_key(headers::FORWARDED_PROTO) {
            let proto: &[u8] = if self.origin.is_encrypted { b"https" } else { b"http" };
            line(out, b"x-forwarded-proto: ", proto);
        }
        if !is_trusted && let Some(host) = fields.get(HOST) {
            line(out, b"x-forwarded-host: ", host.as_bytes());
        }
    }
}

/// The rest of a line; few and long pieces are cheaper than many short ones.
fn line(out: &mut Vec<u8>, start: &[u8], value: &[u8]) {
    out.extend_from_slice(start);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn via(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_2 => b"via: 2 imagefleet\r\n",
        Version::HTTP_10 => b"via: 1.0 imagefleet\r\n",
        _ => b"via: 1.1 imagefleet\r\n",
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
