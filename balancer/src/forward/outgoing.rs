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
pub(super) struct Outgoing<'a> {
    /// The client's head.
    pub(super) head: &'a request::Parts,
    /// Path and query at the endpoint.
    pub(super) target: Cow<'a, str>,
    /// Who asks.
    pub(super) origin: &'a Origin,
    /// The request's id.
    pub(super) id: &'a HeaderValue,
    /// The span of this hop, where the client sent a trace.
    pub(super) trace: Option<HeaderValue>,
    /// Whether the answer must be JSON, whatever the client accepts.
    pub(super) wants_json: bool,
    /// Whether a load report is asked for.
    pub(super) wants_load: bool,
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
    pub(super) fn write(
        &self,
        endpoint: &Endpoint,
        timeout_ms: u64,
        body: usize,
        out: &mut Vec<u8>,
    ) {
        out.reserve(1024);
        out.extend_from_slice(self.head.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        self.write_client_fields(endpoint, out);
        self.write_origin(out);
        field(out, "via", via(self.head.version));
        field(out, headers::REQUEST_ID.as_str(), self.id.as_bytes());
        let mut digits = itoa::Buffer::new();
        field(out, headers::TIMEOUT_MS.as_str(), digits.format(timeout_ms).as_bytes());
        field(out, headers::ENDPOINT.as_str(), endpoint.label().as_bytes());
        if self.wants_load {
            field(out, headers::LOAD_FORMAT.as_str(), b"json");
        }
        if self.wants_json {
            field(out, "accept", b"application/json");
        }
        if let Some(trace) = &self.trace {
            field(out, headers::TRACEPARENT.as_str(), trace.as_bytes());
        }
        let method = &self.head.method;
        if body > 0 || method == Method::POST || method == Method::PUT || method == Method::PATCH {
            field(out, "content-length", digits.format(body).as_bytes());
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
                field(out, name.as_str(), value.as_bytes());
            }
        }
        if !has_host {
            field(out, "host", endpoint.address().to_string().as_bytes());
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
            text if text == headers::REQUEST_ID.as_str()
                || text == headers::TIMEOUT_MS.as_str()
                || text == headers::ENDPOINT.as_str() =>
            {
                Fate::Dropped
            }
            text if self.wants_load && text == headers::LOAD_FORMAT.as_str() => Fate::Dropped,
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
        field(out, headers::FORWARDED_FOR.as_str(), self.origin.forwarded_for.as_bytes());
        let is_trusted = self.is_trusted();
        if !is_trusted || !fields.contains_key(headers::FORWARDED_PROTO) {
            let proto: &[u8] = if self.origin.is_encrypted { b"https" } else { b"http" };
            field(out, headers::FORWARDED_PROTO.as_str(), proto);
        }
        if !is_trusted && let Some(host) = fields.get(HOST) {
            field(out, headers::FORWARDED_HOST.as_str(), host.as_bytes());
        }
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn via(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_2 => b"2 imagefleet",
        Version::HTTP_10 => b"1.0 imagefleet",
        _ => b"1.1 imagefleet",
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
