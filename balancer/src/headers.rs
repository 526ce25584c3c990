//! The header fields that the balancer interprets, and the names of its own; pure.
//!
//! Requests that two programs might interpret differently are rejected here, before anything else
//! is done with them. What a client sends about itself is limited in length and characters before
//! it is repeated anywhere.

use std::collections::HashSet;
use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, TRANSFER_ENCODING, VIA,
};
use http::{HeaderMap, HeaderValue, Method, Version, request};
use message::accept;

use crate::error::ProxyError;

/// `X-Forwarded-For`
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-Request-Id`
pub const REQUEST_ID: HeaderName = HeaderName::from_static(wire::header::REQUEST_ID);
/// The name of the endpoint.
pub const ENDPOINT: HeaderName = HeaderName::from_static(wire::header::ENDPOINT);
/// The remaining time, in milliseconds.
pub const TIMEOUT_MS: HeaderName = HeaderName::from_static(wire::header::TIMEOUT_MS);
/// W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The load report requested from a worker (ORCA).
pub const LOAD_FORMAT: HeaderName = HeaderName::from_static("endpoint-load-metrics-format");

/// The name of this balancer in `Via`.
const PSEUDONYM: &str = "imagefleet";
/// Maximum number of balancers of this kind that a request may have passed. A few in a row make
/// sense; a request that has passed more is in a loop.
const MAX_PASSES: usize = 4;

/// Longest request id that is accepted from a client.
const MAX_REQUEST_ID: usize = 128;

/// The sender of a request, as described by the fields sent to the endpoint.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Value of `X-Forwarded-For`.
    pub forwarded_for: HeaderValue,
    /// Whether the client is a proxy whose `X-Forwarded-*` are kept.
    pub is_trusted: bool,
    /// The scheme of the connection: `http` or `https`.
    pub scheme: &'static str,
    /// The address that the client connected to, if anything depends on it.
    pub local: Option<IpAddr>,
    /// `X-Forwarded-For` and `X-Forwarded-Proto` as sent to an endpoint.
    pub(crate) lines: Box<[u8]>,
}

impl Origin {
    /// A client at an address that connected over `http` or `https`, and is trusted or not.
    pub fn new(forwarded_for: HeaderValue, scheme: &'static str, is_trusted: bool) -> Self {
        let address = forwarded_for.as_bytes();
        let parts: [&[u8]; 5] =
            [b"x-forwarded-for: ", address, b"\r\nx-forwarded-proto: ", scheme.as_bytes(), b"\r\n"];
        let lines = parts.concat().into();
        Self { forwarded_for, is_trusted, scheme, local: None, lines }
    }
}

/// A field whose presence matters to the balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ScannedField {
    /// `Accept`
    Accept,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Traceparent`
    Traceparent,
    /// `X-Request-Id`
    RequestId,
    /// `X-Imagefleet-Timeout-Ms`
    TimeoutMs,
    /// `User-Agent`
    UserAgent,
    /// `Via`
    Via,
}

/// The result of one pass over the fields of a head. Most heads have few of the fields that matter
/// here, so looking up each of them costs more than one pass over all fields present.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeaderScan<'a> {
    /// One bit for each [`ScannedField`].
    known: u8,
    /// Number of `Host` lines.
    hosts: usize,
    host: Option<&'a HeaderValue>,
    /// Bytes of all fields.
    pub bytes: usize,
    /// Number of fields.
    pub count: usize,
}

impl<'a> HeaderScan<'a> {
    /// Scans every field once.
    pub fn of(fields: &'a HeaderMap) -> Self {
        let mut scan = Self::default();
        for (name, value) in fields {
            let name = name.as_str();
            scan.bytes += name.len() + value.len() + 4;
            scan.count += 1;
            let known = match name {
                "host" => {
                    scan.hosts += 1;
                    scan.host = Some(value);
                    continue;
                }
                "accept" => ScannedField::Accept,
                "transfer-encoding" => ScannedField::TransferEncoding,
                "traceparent" => ScannedField::Traceparent,
                wire::header::REQUEST_ID => ScannedField::RequestId,
                wire::header::TIMEOUT_MS => ScannedField::TimeoutMs,
                "user-agent" => ScannedField::UserAgent,
                "via" => ScannedField::Via,
                _ => continue,
            };
            scan.known |= 1 << known as u8;
        }
        scan
    }

    /// Whether there is such a field.
    pub fn has(&self, known: ScannedField) -> bool {
        self.known & 1 << known as u8 != 0
    }
}

/// Rejects requests that no endpoint should see.
pub fn check(head: &request::Parts, scan: &HeaderScan<'_>) -> Result<(), ProxyError> {
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        let allow = "GET, HEAD, POST";
        return Err(ProxyError::MethodNotAllowed { method: head.method.to_string(), allow });
    }
    if scan.hosts > 1 {
        return Err(ProxyError::BadRequest("more than one Host field".into()));
    }
    let host = scan.host;
    match host {
        Some(host) if !is_host(host.as_bytes()) => {
            return Err(ProxyError::BadRequest("the Host field is not a host".into()));
        }
        None if head.version >= Version::HTTP_11 => {
            return Err(ProxyError::BadRequest("the Host field is missing".into()));
        }
        Some(_) | None => {}
    }
    if let Some(authority) = head.uri.authority()
        && let scheme = head.uri.scheme_str()
        && host.is_some_and(|host| !is_same_host(host.as_bytes(), authority.as_str(), scheme))
    {
        let text = "the request target and the Host field name different hosts";
        return Err(ProxyError::BadRequest(text.into()));
    }
    if scan.has(ScannedField::Via) && passes(&head.headers) >= MAX_PASSES {
        return Err(ProxyError::Loop);
    }
    if scan.has(ScannedField::TransferEncoding) { check_coding(&head.headers) } else { Ok(()) }
}

/// How many balancers of this kind a request has passed, according to `Via` (RFC 9110, 7.6.3).
fn passes(headers: &HeaderMap) -> usize {
    let values = headers.get_all(VIA).iter().filter_map(|value| value.to_str().ok());
    let hops = values.flat_map(|value| value.split(','));
    hops.filter(|hop| hop.split_ascii_whitespace().nth(1) == Some(PSEUDONYM)).count()
}

/// Rejects bodies whose end is ambiguous.
fn check_coding(fields: &HeaderMap) -> Result<(), ProxyError> {
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            if fields.contains_key(CONTENT_LENGTH) {
                let text = "Content-Length together with Transfer-Encoding";
                return Err(ProxyError::BadRequest(text.into()));
            }
        }
        _ => {
            return Err(ProxyError::NotImplemented("no transfer coding but chunked is understood"));
        }
    }
    Ok(())
}

/// Whether two host names are equivalent under a scheme, whose default port may be omitted
/// (RFC 9110, 4.2.3).
fn is_same_host(one: &[u8], other: &str, scheme: Option<&str>) -> bool {
    let port: &[u8] = match scheme {
        Some("http") => b":80",
        Some("https") => b":443",
        Some(_) | None => b":",
    };
    let bare = |host: &[u8]| {
        let rest = host.strip_suffix(port).or(host.strip_suffix(b":")).unwrap_or(host);
        // The end of an IPv6 address is not a port.
        if rest.starts_with(b"[") == rest.ends_with(b"]") { rest.len() } else { host.len() }
    };
    let other = other.as_bytes();
    one[..bare(one)].eq_ignore_ascii_case(&other[..bare(other)])
}

/// Whether this can be the value of a Host field: `name`, `name:port`, `1.2.3.4`, `[::1]:80`.
fn is_host(host: &[u8]) -> bool {
    host.len() <= 255
        && host.iter().all(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~' | b'%')
        })
}

/// The fields that a message names in Connection. A client cannot have those removed that identify
/// it or define the message. It may list thousands of names, so each is looked up once.
pub fn named_by_connection(headers: &HeaderMap) -> HashSet<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens
        .map(<[u8]>::trim_ascii)
        .filter(|token| {
            !token.eq_ignore_ascii_case(b"close") && !token.eq_ignore_ascii_case(b"keep-alive")
        })
        .filter(|token| std::str::from_utf8(token).is_ok_and(|name| headers.contains_key(name)))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| *name != HOST && *name != CONTENT_TYPE)
        .collect()
}

/// Prepares the head of an endpoint's response for the client; the fields of the connection were
/// dropped when it was read.
pub fn prepare_response(headers: &mut HeaderMap) {
    headers.append(VIA, HeaderValue::from_static("1.1 imagefleet"));
}

/// The id that the client gave its request, if it is safe to repeat everywhere.
pub fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(REQUEST_ID).filter(|id| {
        (1..=MAX_REQUEST_ID).contains(&id.len())
            && id.as_bytes().iter().all(|byte| {
                byte.is_ascii_alphanumeric()
                    || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=')
            })
    })
}

/// The id of a request.
#[derive(Debug, Clone)]
pub enum RequestId {
    /// The id that the client sent.
    Given(HeaderValue),
    /// A new one: 32 hexadecimal digits.
    New([u8; 32]),
}

impl RequestId {
    /// A new id from two random numbers.
    pub fn new(high: u64, low: u64) -> Self {
        let mut text = [0; 32];
        text[..16].copy_from_slice(&hex(high));
        text[16..].copy_from_slice(&hex(low));
        Self::New(text)
    }

    /// The id as it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Given(id) => id.as_bytes(),
            Self::New(digits) => digits,
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The id as the value of a field.
    pub fn to_value(&self) -> HeaderValue {
        match self {
            Self::Given(id) => id.clone(),
            // Digits are always allowed in a value.
            Self::New(digits) => {
                HeaderValue::from_bytes(digits).unwrap_or(HeaderValue::from_static("0"))
            }
        }
    }
}

/// The 16 hexadecimal digits of a number, computed in parallel: each digit in its own byte, then
/// the distance from `9` to `a` added where needed.
fn hex(number: u64) -> [u8; 16] {
    let mut wide = u128::from(number);
    wide = (wide | wide << 32) & 0x0000_0000_ffff_ffff_0000_0000_ffff_ffff;
    wide = (wide | wide << 16) & 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff;
    wide = (wide | wide << 8) & 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff;
    wide = (wide | wide << 4) & 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
    let ones = 0x0101_0101_0101_0101_0101_0101_0101_0101_u128;
    let letters = (wide + ones * 6) >> 4 & ones;
    (wide + ones * u128::from(b'0') + letters * u128::from(b'a' - b'9' - 1)).to_be_bytes()
}

/// A `traceparent` with `span` as the new parent, if the given value is valid.
pub fn child_trace(parent: &HeaderValue, span: u64) -> Option<HeaderValue> {
    let text = parent.to_str().ok()?;
    let mut fields = text.split('-');
    let (version, trace) = (fields.next()?, fields.next()?);
    let (parent, flags) = (fields.next()?, fields.next()?);
    let hex = |field: &str, length| {
        field.len() == length && field.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |field: &str| field.bytes().all(|byte| byte == b'0');
    let valid =
        hex(version, 2) && version != "ff" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    if !valid || zero(trace) || zero(parent) || (version == "00" && fields.next().is_some()) {
        return None;
    }
    HeaderValue::try_from(format!("00-{trace}-{:016x}-{flags}", span.max(1))).ok()
}

/// Whether the client prefers a page to JSON, as a browser does.
pub fn wants_page(headers: &HeaderMap) -> bool {
    accept::preferred(headers, &[accept::JSON, accept::HTML]) == Some(accept::HTML)
}

/// Whether the client prefers plain text to a page.
pub fn wants_text(headers: &HeaderMap) -> bool {
    accept::preferred(headers, &[accept::HTML, accept::TEXT]) == Some(accept::TEXT)
}

/// The milliseconds that the client is willing to wait.
pub fn timeout_ms(headers: &HeaderMap) -> Option<u64> {
    headers.get(TIMEOUT_MS)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
