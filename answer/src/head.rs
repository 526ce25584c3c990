//! Reads the head of an answer; pure.
//!
//! Fields that concern the connection are handled here and go no further: the framing becomes a
//! [`Framing`], `Connection` decides whether the connection can be reused, and the load report is
//! set aside. The remaining values are not copied: they are slices of the received bytes.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, SERVER,
};
use http::{Response, StatusCode, response};

use crate::framing::{Chunk, Framing};

/// A worker's load report (ORCA). It is for the program that sent the request and goes no further.
pub const LOAD: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// Maximum number of fields in a response.
const MAX_FIELDS: usize = 100;
/// Longest head of a response, in bytes.
const MAX_HEAD: usize = 64 * 1024 - 1;

/// The head of a response.
#[derive(Debug)]
pub struct Head {
    /// The head, as the client gets it.
    pub parts: response::Parts,
    /// The worker's load report, if it sent one.
    pub report: Option<HeaderValue>,
    /// Where the body ends.
    pub(crate) framing: Framing,
    /// Whether the connection can carry another request.
    pub(crate) keeps: bool,
}

/// The received bytes are not the head of a response, or they exceed the limits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a response")]
pub struct Malformed;

/// Takes a head from `input`, if all of it has arrived. Interim responses are skipped. `spare`
/// provides an empty map for the fields.
pub(crate) fn parse(
    input: &mut BytesMut,
    is_head_request: bool,
    spare: impl FnOnce() -> HeaderMap,
) -> Result<Option<Head>, Malformed> {
    loop {
        if input.is_empty() {
            return Ok(None);
        }
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut spans = [Span::default(); MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let parsed = config.parse_response_with_uninit_headers(&mut response, input, &mut fields);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return Ok(None),
            Ok(_) | Err(_) => return Err(Malformed),
        };
        let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(Malformed)?;
        let is_latest = response.version == Some(1);
        let start = input.as_ptr() as usize;
        let count = response.headers.len();
        for (span, field) in spans.iter_mut().zip(response.headers.iter()) {
            *span = Span::of(field, start);
        }
        let bytes = input.split_to(length).freeze();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            // No upgrade was requested.
            return Err(Malformed);
        }
        if !status.is_informational() {
            let about = BodyContext { status, is_latest, is_head_request };
            return read(&bytes, &spans[..count], &about, spare()).map(Some);
        }
    }
}

/// Decides when a partial head is worth parsing again. If an endpoint sends a long head in tiny
/// pieces, all of it would otherwise be parsed for every piece.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// Length of the input at the last attempt.
    seen: usize,
}

/// Heads up to this size, as is usual, are parsed whenever a part of them arrives.
const USUAL_HEAD: usize = 4 * 1024;

impl Looks {
    /// Whether to parse again: the end of a head may have arrived, or the input has grown a lot.
    pub(crate) fn is_due(&self, input: &[u8]) -> bool {
        if input.len() <= USUAL_HEAD || input.len() >= self.seen + self.seen / 8 {
            return true;
        }
        let new = &input[self.seen.saturating_sub(3).min(input.len())..];
        let mut ends = memchr::memchr_iter(b'\n', new);
        ends.any(|end| matches!(&new[end + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
    }

    /// Records an attempt that found no complete head.
    pub(crate) fn note(&mut self, input: &[u8]) {
        self.seen = input.len();
    }
}

/// Byte ranges of a field's name and value.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    name: (u16, u16),
    value: (u16, u16),
}

impl Span {
    fn of(field: &httparse::Header<'_>, start: usize) -> Self {
        let at = |part: &[u8]| {
            let begin = part.as_ptr() as usize - start;
            let place = |at: usize| u16::try_from(at).expect("a head is short");
            (place(begin), place(begin + part.len()))
        };
        Self { name: at(field.name.as_bytes()), value: at(field.value) }
    }
}

/// What determines the body besides the fields.
struct BodyContext {
    status: StatusCode,
    /// Whether the response is HTTP/1.1.
    is_latest: bool,
    /// Whether the response answers a HEAD request.
    is_head_request: bool,
}

fn range((begin, end): (u16, u16)) -> Range<usize> {
    begin.into()..end.into()
}

fn read(
    bytes: &Bytes,
    spans: &[Span],
    about: &BodyContext,
    mut fields: HeaderMap,
) -> Result<Head, Malformed> {
    let BodyContext { status, is_latest, is_head_request } = *about;
    let mut links = Links { keeps: is_latest, ..Links::default() };
    let mut report = None;
    for span in spans {
        let value = &bytes[range(span.value)];
        let whole = || HeaderValue::from_maybe_shared(bytes.slice(range(span.value)));
        let (name, fate) = links.take(&bytes[range(span.name)], value)?;
        match fate {
            Fate::Kept if name == CONTENT_TYPE && value == JSON.as_bytes() => {
                fields.append(name, JSON);
            }
            Fate::Kept => {
                fields.append(name, whole().map_err(|_| Malformed)?);
            }
            Fate::Report => report = whole().ok(),
            Fate::Dropped => {}
        }
    }
    if links.is_chunked && !is_latest {
        // There are no chunks before HTTP/1.1, so such an answer may mean anything (RFC 9112, 6.1).
        return Err(Malformed);
    }
    links.remove_named(&mut fields);
    let framing = links.framing(status, is_head_request);
    if let Some(length) = links.length
        && !links.is_chunked
        && is_bodiless(status, is_head_request)
    {
        // The length describes a body that is not sent; that of a body which is sent is set anew.
        fields.insert(CONTENT_LENGTH, length.into());
    }
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    parts.headers = fields;
    let keeps = links.keeps && framing != Framing::UntilClose;
    Ok(Head { parts, report, framing, keeps })
}

/// Content type of most answers: a constant need not be validated again, nor share memory.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What happens to a field.
enum Fate {
    Kept,
    Dropped,
    Report,
}

/// What the fields say about the connection and the framing.
#[derive(Debug, Default)]
struct Links {
    keeps: bool,
    is_chunked: bool,
    length: Option<u64>,
    named: Vec<HeaderName>,
}

impl Links {
    /// Returns the name of a field and what happens to it. The names that every response has are
    /// recognised without a lookup.
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(HeaderName, Fate), Malformed> {
        match name {
            b"content-type" | b"Content-Type" => return Ok((CONTENT_TYPE, Fate::Kept)),
            b"date" | b"Date" => return Ok((DATE, Fate::Kept)),
            b"server" | b"Server" => return Ok((SERVER, Fate::Kept)),
            _ => {}
        }
        let name = match name {
            b"content-length" | b"Content-Length" => CONTENT_LENGTH,
            b"connection" | b"Connection" => CONNECTION,
            _ => HeaderName::from_bytes(name).map_err(|_| Malformed)?,
        };
        match name.as_str() {
            "content-length" => {
                let length = length(value).ok_or(Malformed)?;
                if self.length.replace(length).is_some_and(|before| before != length) {
                    return Err(Malformed);
                }
            }
            "connection" => self.connection(value),
            "transfer-encoding" => {
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed);
                }
                self.is_chunked = true;
            }
            "keep-alive" | "proxy-connection" | "te" | "trailer" | "upgrade" => {}
            _ if name == LOAD => return Ok((name, Fate::Report)),
            _ => return Ok((name, Fate::Kept)),
        }
        Ok((name, Fate::Dropped))
    }

    fn connection(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.keeps = false;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                // The default in HTTP/1.1; an older endpoint is not expected to honour it.
            } else if let Ok(name) = HeaderName::from_bytes(token) {
                self.named.push(name);
            }
        }
    }

    fn remove_named(&self, fields: &mut HeaderMap) {
        for name in &self.named {
            if *name != CONTENT_TYPE && *name != CONTENT_LENGTH && *name != CONNECTION {
                fields.remove(name);
            }
        }
    }

    fn framing(&mut self, status: StatusCode, is_head_request: bool) -> Framing {
        if self.is_chunked && self.length.is_some() {
            // Chunks win (RFC 9112, 6.3), but an endpoint that sends both gets no further request.
            self.keeps = false;
        }
        match (is_bodiless(status, is_head_request), self.is_chunked, self.length) {
            (true, ..) => Framing::Length(0),
            (false, true, _) => Framing::Chunked(Chunk::Size),
            (false, false, Some(length)) => Framing::Length(length),
            (false, false, None) => Framing::UntilClose,
        }
    }
}

/// Whether a response has no body, whatever its fields say.
fn is_bodiless(status: StatusCode, is_head_request: bool) -> bool {
    is_head_request || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// The value of a Content-Length field: digits and nothing else.
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
