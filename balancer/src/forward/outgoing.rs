//! Writes the head of a request as it goes to an endpoint; pure.
//!
//! The client's fields are copied directly, except those that concern the client's connection, and
//! the balancer's own fields follow. The body is always framed anew from what was collected, so no
//! framing field of the client ever reaches an endpoint: this makes request smuggling impossible.

use std::borrow::Cow;

use fleet::Endpoint;
use http::header::{CONNECTION, HOST, HeaderName};
use http::{HeaderValue, Method, Version, request};

use crate::headers::{self, Origin};

/// A request for an endpoint.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The head of the client's request.
    pub head: &'a request::Parts,
    /// Path and query at the endpoint.
    pub target: Cow<'a, str>,
    /// Where the request came from.
    pub origin: &'a Origin,
    /// The value of `X-Request-Id`.
    pub id: &'a [u8],
    /// The span of this hop, if the client sent a trace.
    pub trace: Option<HeaderValue>,
    /// Whether the answer must be JSON, whatever the client accepts.
    pub wants_json: bool,
    /// Whether a load report is requested.
    pub wants_load: bool,
}

/// What happens to a field of the client.
enum Fate {
    /// It is passed on.
    Kept,
    /// It is passed on if the client is a trusted proxy.
    Trusted,
    /// It is not passed on, or the balancer sends its own.
    Dropped,
}

impl Outgoing<'_> {
    /// Appends the head, including the empty line.
    pub fn write(&self, endpoint: &Endpoint, timeout_ms: u64, body: usize, out: &mut Vec<u8>) {
        out.reserve(1024);
        out.extend_from_slice(self.head.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let host = self.write_client_fields(endpoint, out);
        self.write_origin(host, out);
        out.extend_from_slice(via(self.head.version));
        out.extend_from_slice(self.id);
        let mut digits = itoa::Buffer::new();
        line(out, b"\r\nx-imagefleet-timeout-ms: ", digits.format(timeout_ms).as_bytes());
        out.extend_from_slice(endpoint.line());
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

    /// Writes the client's fields; returns the Host field.
    fn write_client_fields(&self, endpoint: &Endpoint, out: &mut Vec<u8>) -> Option<&HeaderValue> {
        let start = out.len();
        let mut host = None;
        let mut has_connection = false;
        for (name, value) in &self.head.headers {
            if name == HOST {
                host = Some(value);
            }
            has_connection |= name == CONNECTION;
            self.write_field(name, value, out);
        }
        if has_connection {
            let named = headers::named_by_connection(&self.head.headers);
            if !named.is_empty() {
                out.truncate(start);
                let fields = self.head.headers.iter().filter(|(name, _)| !named.contains(*name));
                fields.for_each(|(name, value)| self.write_field(name, value, out));
            }
        }
        if host.is_none() {
            line(out, b"host: ", endpoint.address().to_string().as_bytes());
        }
        host
    }

    fn write_field(&self, name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
        let is_kept = match self.fate(name) {
            Fate::Kept => true,
            Fate::Trusted => self.origin.is_trusted,
            Fate::Dropped => false,
        };
        if is_kept {
            out.extend_from_slice(name.as_str().as_bytes());
            line(out, b": ", value.as_bytes());
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

    /// Writes what an endpoint should know about the client.
    fn write_origin(&self, host: Option<&HeaderValue>, out: &mut Vec<u8>) {
        // A trusted proxy may have sent each of these; those that it did not send are known here.
        let is_said =
            |name: &HeaderName| self.origin.is_trusted && self.head.headers.contains_key(name);
        if is_said(&headers::FORWARDED_PROTO) {
            line(out, b"x-forwarded-for: ", self.origin.forwarded_for.as_bytes());
        } else {
            out.extend_from_slice(&self.origin.lines);
        }
        if let Some(host) = host
            && !is_said(&headers::FORWARDED_HOST)
        {
            line(out, b"x-forwarded-host: ", host.as_bytes());
        }
    }
}

/// Appends `start`, the value and a line break; a few long pieces are cheaper than many short ones.
fn line(out: &mut Vec<u8>, start: &[u8], value: &[u8]) {
    out.extend_from_slice(start);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The `Via` line and the start of the next.
fn via(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_2 => b"via: 2 imagefleet\r\nx-request-id: ",
        Version::HTTP_10 => b"via: 1.0 imagefleet\r\nx-request-id: ",
        _ => b"via: 1.1 imagefleet\r\nx-request-id: ",
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
