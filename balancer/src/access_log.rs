//! One line per request, written in pieces.
//!
//! Every thread formats its lines into a buffer of its own and hands it to the file when it is large
//! or a second old, so that a request costs some formatting and no system call. The file is opened
//! for appending: lines of several threads never mix, because each write holds whole lines.

use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderName, HeaderValue, REFERER, USER_AGENT};
use http::request;
use tokio::time::Instant;

use crate::config::LogFormat;
use crate::headers::RequestId;
use crate::log_file::LogFile;
use crate::metrics::Flag;
use crate::upstream::Endpoint;

/// A buffer is written when it holds this much.
const FULL: usize = 32 * 1024;

/// What a line says about a request.
#[derive(Debug)]
pub struct Entry {
    /// When its head had arrived.
    pub start: Instant,
    /// The head itself.
    pub head: Rc<request::Parts>,
    /// `X-Request-Id`
    pub request_id: Option<RequestId>,
    /// Who answered.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Attempts that were made.
    pub tries: u32,
    /// Time until the endpoint answered.
    pub upstream: Option<Duration>,
    /// Bytes of the request body.
    pub bytes_in: u64,
}

impl Entry {
    /// The beginning of a request.
    pub fn new(head: &Rc<request::Parts>, start: Instant) -> Self {
        Self {
            start,
            head: Rc::clone(head),
            request_id: None,
            endpoint: None,
            tries: 0,
            upstream: None,
            bytes_in: 0,
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// When.
    pub now: Instant,
    /// The status of the answer.
    pub status: http::StatusCode,
    /// Bytes of its body that were sent.
    pub bytes_out: u64,
    /// What became of it.
    pub flag: Flag,
}

/// One thread's buffer of lines.
#[derive(Debug)]
pub struct Buffer {
    file: Arc<LogFile>,
    format: LogFormat,
    lines: Vec<u8>,
    /// The second that `stamp` stands for, by the process's clock.
    second: Option<Instant>,
    stamp: String,
    /// When the process's clock showed this, the wall clock showed that.
    origin: (Instant, SystemTime),
}

impl Buffer {
    /// An empty buffer in front of `file`.
    pub fn new(file: Arc<LogFile>, format: LogFormat) -> Self {
        let origin = (Instant::now(), SystemTime::now());
        let lines = Vec::with_capacity(FULL + 4096);
        Self { file, format, lines, second: None, stamp: String::new(), origin }
    }

    /// Adds the line of a request; `client` is who asked, as `X-Forwarded-For` tells the endpoint.
    pub fn add(&mut self, entry: &Entry, client: &HeaderValue, end: End) {
        let millisecond = self.set_stamp(end.now);
        match self.format {
            LogFormat::Json => self.add_json(entry, client, end, millisecond),
            LogFormat::Combined => self.add_combined(entry, client, end),
        }
        if self.lines.len() >= FULL {
            self.flush();
        }
    }

    /// Hands everything to the file.
    pub fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        if let Err(error) = self.file.append(&self.lines) {
            tracing::warn!(%error, "access log");
        }
        self.lines.clear();
    }

    /// Brings `stamp` up to the second; returns the milliseconds.
    fn set_stamp(&mut self, now: Instant) -> u32 {
        let into = self.second.and_then(|second| now.checked_duration_since(second));
        if let Some(into) = into.filter(|into| into.as_secs() == 0) {
            return into.subsec_millis();
        }
        let wall = self.origin.1 + now.duration_since(self.origin.0);
        let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.second = now.checked_sub(Duration::from_nanos(since.subsec_nanos().into()));
        self.stamp = match self.format {
            LogFormat::Json => {
                let text = humantime::format_rfc3339_seconds(wall).to_string();
                text.trim_end_matches('Z').to_owned()
            }
            LogFormat::Combined => combined_stamp(wall),
        };
        since.subsec_millis()
    }

    fn add_json(&mut self, entry: &Entry, client: &HeaderValue, end: End, millisecond: u32) {
        let out = &mut self.lines;
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(self.stamp.as_bytes());
        out.push(b'.');
        padded(out, millisecond);
        // Addresses, methods and request ids hold nothing that JSON would have to escape.
        out.extend_from_slice(b"Z\",\"client\":\"");
        out.extend_from_slice(client.as_bytes());
        out.extend_from_slice(b"\",\"method\":\"");
        out.extend_from_slice(entry.head.method.as_str().as_bytes());
        out.extend_from_slice(b"\",\"target\":");
        quoted(out, target(entry).as_bytes());
        out.extend_from_slice(b",\"status\":");
        out.extend_from_slice(end.status.as_str().as_bytes());
        out.extend_from_slice(b",\"bytes_in\":");
        number(out, entry.bytes_in);
        out.extend_from_slice(b",\"bytes_out\":");
        number(out, end.bytes_out);
        out.extend_from_slice(b",\"duration_us\":");
        number(out, microseconds(end.now.duration_since(entry.start)));
        if let Some(upstream) = entry.upstream {
            out.extend_from_slice(b",\"upstream_us\":");
            number(out, microseconds(upstream));
        }
        if let Some(endpoint) = &entry.endpoint {
            out.extend_from_slice(b",\"endpoint\":");
            out.extend_from_slice(endpoint.quoted().as_bytes());
        }
        out.extend_from_slice(b",\"tries\":");
        number(out, u64::from(entry.tries));
        out.extend_from_slice(b",\"outcome\":\"");
        out.extend_from_slice(end.flag.as_str().as_bytes());
        if let Some(id) = &entry.request_id {
            out.extend_from_slice(b"\",\"request_id\":\"");
            out.extend_from_slice(id.as_bytes());
        }
        out.push(b'"');
        if let Some(agent) = entry.head.headers.get(USER_AGENT) {
            out.extend_from_slice(b",\"agent\":");
            quoted(out, agent.as_bytes());
        }
        out.extend_from_slice(b"}\n");
    }

    fn add_combined(&mut self, entry: &Entry, client: &HeaderValue, end: End) {
        let shown = |name: HeaderName| {
            let value = entry.head.headers.get(name);
            let text = value.map_or("-".into(), |v| String::from_utf8_lossy(v.as_bytes()));
            text.replace(['"', '\\'], "_")
        };
        let client = String::from_utf8_lossy(client.as_bytes());
        let written = writeln!(
            self.lines,
            "{client} - - [{}] \"{} {} {:?}\" {} {} \"{}\" \"{}\"",
            self.stamp,
            entry.head.method,
            target(entry),
            entry.head.version,
            end.status.as_u16(),
            end.bytes_out,
            shown(REFERER),
            shown(USER_AGENT),
        );
        written.expect("a buffer takes everything");
    }
}

fn target(entry: &Entry) -> &str {
    entry.head.uri.path_and_query().map_or("*", http::uri::PathAndQuery::as_str)
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Three digits.
fn padded(out: &mut Vec<u8>, millisecond: u32) {
    for unit in [100, 10, 1] {
        out.push(b'0' + u8::try_from(millisecond / unit % 10).expect("one digit"));
    }
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A JSON string of bytes that may be anything.
fn quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let is_odd = |byte: &u8| !matches!(byte, b' '..=b'~') || *byte == b'"' || *byte == b'\\';
    let is_plain = if text.len() < 32 {
        !text.iter().any(is_odd)
    } else {
        // Counting instead of looking for the first is what the compiler can do sixteen at a time.
        text.iter().filter(|byte| is_odd(byte)).count() == 0
    };
    if is_plain {
        out.extend_from_slice(text);
    } else {
        for character in String::from_utf8_lossy(text).chars() {
            match character {
                '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
                ' '.. => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
                control => out.extend_from_slice(format!("\\u{:04x}", control as u32).as_bytes()),
            }
        }
    }
    out.push(b'"');
}

/// `21/Nov/2026:10:00:00 +0000`
fn combined_stamp(wall: SystemTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = humantime::format_rfc3339_seconds(wall).to_string();
    let month = text[5..7].parse::<usize>().map_or("Jan", |month| MONTHS[(month - 1) % 12]);
    format!("{}/{month}/{}:{} +0000", &text[8..10], &text[..4], &text[11..19])
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::upstream::{EndpointId, State};

    fn line(format: LogFormat, target: &'static str, agent: &'static [u8]) -> String {
        let (mut head, ()) = http::Request::get(target).body(()).expect("valid").into_parts();
        let agent = HeaderValue::from_bytes(agent).expect("valid");
        head.headers.insert(USER_AGENT, agent);
        let now = Instant::now();
        let client = HeaderValue::from_static("192.0.2.7");
        let mut entry = Entry::new(&Rc::new(head), now);
        let address = ([127, 0, 0, 1], 1).into();
        let endpoint = Endpoint::new(EndpointId(0), "a \"worker\"", address, State::up(), now);
        entry.endpoint = Some(Arc::new(endpoint));
        let mut path = tempfile::NamedTempFile::new().expect("a file");
        let file = LogFile::open(path.path()).expect("opened");
        let mut buffer = Buffer::new(Arc::new(file), format);
        let now = now + Duration::from_micros(1500);
        let status = http::StatusCode::OK;
        buffer.add(&entry, &client, End { now, status, bytes_out: 42, flag: Flag::Answered });
        buffer.flush();
        let mut text = String::new();
        path.read_to_string(&mut text).expect("text");
        text
    }

    #[test]
    fn a_json_line_is_valid_json_whatever_the_client_sent() {
        let text = line(LogFormat::Json, "/x?a=%22b", b"\"quote\\ \xff\xfe\ttab");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["target"], "/x?a=%22b");
        assert_eq!(value["status"], 200);
        assert_eq!(value["duration_us"], 1500);
        assert_eq!(value["bytes_out"], 42);
        assert_eq!(value["outcome"], "answered");
        assert_eq!(value["endpoint"], "a \"worker\"");
        assert!(value["agent"].as_str().expect("text").contains("\"quote\\ "));
        let time = value["time"].as_str().expect("text");
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    }

    #[test]
    fn the_combined_format_is_that_of_apache() {
        let text = line(LogFormat::Combined, "/x", b"curl \"8\"");
        assert!(text.starts_with("192.0.2.7 - - ["), "{text}");
        assert!(text.contains("+0000] \"GET /x HTTP/1.1\" 200 42 \"-\" \"curl _8_\""), "{text}");
    }
}
