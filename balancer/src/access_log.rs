//! One line per request, written in pieces.
//!
//! Every thread formats its lines into its own buffer and hands it to the log's writer when it is
//! large or a second old, so a request costs some formatting and no system call. Lines of different
//! threads never mix, because only whole lines are handed over.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fleet::Endpoint;
use http::header::{HeaderValue, REFERER, USER_AGENT};
use http::{Version, request};
use tokio::time::Instant;

use crate::config::LogFormat;
use crate::headers::RequestId;
use crate::log::{Appended, LogWriter, text};
use crate::traffic::Flag;

/// A buffer is written when it reaches this size: rarely, because each write wakes a thread.
const FULL: usize = 60 * 1024;

/// The contents of a line about a request.
#[derive(Debug)]
pub struct Entry {
    /// When its head was complete.
    pub start: Instant,
    /// The request's head as the client sent it.
    pub head: Rc<request::Parts>,
    /// Whether the request has a `User-Agent`.
    pub has_agent: bool,
    /// The value of `X-Request-Id`: the client's, or a new one.
    pub request_id: Option<RequestId>,
    /// The endpoint that answered.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Attempts that were made.
    pub tries: u32,
    /// Time until the endpoint answered.
    pub upstream: Option<Duration>,
    /// Bytes of the request body.
    pub bytes_in: u64,
}

impl Entry {
    /// An entry for a request that has just begun.
    pub fn new(head: &Rc<request::Parts>, has_agent: bool, start: Instant) -> Self {
        Self {
            start,
            head: Rc::clone(head),
            has_agent,
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
    /// When the last byte of the answer had been sent, or the request had ended otherwise.
    pub now: Instant,
    /// The status of the answer.
    pub status: http::StatusCode,
    /// Bytes of its body that were sent.
    pub bytes_out: u64,
    /// The outcome of the request.
    pub flag: Flag,
}

/// One thread's buffer of lines.
#[derive(Debug)]
pub struct Buffer {
    log: Arc<LogWriter>,
    format: LogFormat,
    lines: Vec<u8>,
    /// Start of the second that `stamp` represents.
    second: Option<Instant>,
    stamp: String,
}

/// Flushes, so that requests cut off when a thread ends are logged too.
impl Drop for Buffer {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Buffer {
    /// An empty buffer in front of `log`.
    pub fn new(log: Arc<LogWriter>, format: LogFormat) -> Self {
        let lines = Vec::with_capacity(FULL + 4096);
        Self { log, format, lines, second: None, stamp: String::new() }
    }

    /// Adds the line of a request; `client` is the address that `X-Forwarded-For` names.
    pub fn add(&mut self, entry: &Entry, client: &HeaderValue, end: End) {
        let millisecond = self.set_stamp(end.now, SystemTime::now);
        match self.format {
            LogFormat::Json => self.add_json(entry, client, end, millisecond),
            LogFormat::Combined => self.add_combined(entry, client, end),
            LogFormat::Text => self.add_text(entry, client, end, millisecond),
        }
        if self.lines.len() >= FULL {
            self.flush();
        }
    }

    /// Adds a line for input that is not a request; `reason` is what the parser objected to.
    pub fn add_unread(&mut self, client: &HeaderValue, end: End, reason: &str) {
        let millisecond = self.set_stamp(end.now, SystemTime::now);
        let (client, status) = (String::from_utf8_lossy(client.as_bytes()), end.status.as_str());
        let (stamp, outcome, out) = (&self.stamp, end.flag.as_str(), &mut self.lines);
        match self.format {
            LogFormat::Json => {
                let start =
                    format!("{{\"time\":\"{stamp}.{millisecond:03}Z\",\"client\":\"{client}\",");
                let rest = format!("\"status\":{status},\"outcome\":\"{outcome}\",\"reason\":");
                out.extend_from_slice(start.as_bytes());
                out.extend_from_slice(rest.as_bytes());
                text::json(out, reason.as_bytes());
                out.extend_from_slice(b"}\n");
            }
            LogFormat::Text => {
                let start =
                    format!("{stamp}.{millisecond:03}Z {client} \"-\" {status} 0 0.000ms - ");
                out.extend_from_slice(start.as_bytes());
                out.extend_from_slice(outcome.as_bytes());
                out.extend_from_slice(b" \"");
                text::combined(out, reason.as_bytes());
                out.extend_from_slice(b"\"\n");
            }
            LogFormat::Combined => {
                let line = format!("{client} - - [{stamp}] \"-\" {status} 0 \"-\" \"-\"\n");
                out.extend_from_slice(line.as_bytes());
            }
        }
        if self.lines.len() >= FULL {
            self.flush();
        }
    }

    /// Hands everything to the log.
    pub fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        if self.log.hand_over(&mut self.lines) == (Appended::Dropped { is_first: true }) {
            tracing::warn!(log = self.log.name(), "log is not read, lines are dropped");
        }
    }

    /// Updates `stamp` to the current second and returns the milliseconds. The wall clock is read
    /// once per second, so the log follows adjustments of the clock.
    fn set_stamp(&mut self, now: Instant, wall: impl FnOnce() -> SystemTime) -> u32 {
        let into = self.second.and_then(|second| now.checked_duration_since(second));
        if let Some(into) = into.filter(|into| into.as_secs() == 0) {
            return into.subsec_millis();
        }
        let wall = wall();
        let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.second = now.checked_sub(Duration::from_nanos(since.subsec_nanos().into()));
        self.stamp = match self.format {
            LogFormat::Json | LogFormat::Text => {
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
        // Addresses, methods and request ids contain nothing that JSON would have to escape.
        out.extend_from_slice(b"Z\",\"client\":\"");
        out.extend_from_slice(client.as_bytes());
        out.extend_from_slice(b"\",\"method\":\"");
        out.extend_from_slice(entry.head.method.as_str().as_bytes());
        out.extend_from_slice(b"\",\"target\":");
        text::json(out, target(entry).as_bytes());
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
        if entry.has_agent
            && let Some(agent) = entry.head.headers.get(USER_AGENT)
        {
            out.extend_from_slice(b",\"agent\":");
            text::json(out, agent.as_bytes());
        }
        out.extend_from_slice(b"}\n");
    }

    fn add_text(&mut self, entry: &Entry, client: &HeaderValue, end: End, millisecond: u32) {
        let out = &mut self.lines;
        out.extend_from_slice(self.stamp.as_bytes());
        out.push(b'.');
        padded(out, millisecond);
        out.extend_from_slice(b"Z ");
        out.extend_from_slice(client.as_bytes());
        out.extend_from_slice(b" \"");
        out.extend_from_slice(entry.head.method.as_str().as_bytes());
        out.push(b' ');
        text::combined(out, target(entry).as_bytes());
        out.extend_from_slice(b"\" ");
        out.extend_from_slice(end.status.as_str().as_bytes());
        out.push(b' ');
        number(out, end.bytes_out);
        out.push(b' ');
        let duration = microseconds(end.now.duration_since(entry.start));
        number(out, duration / 1000);
        out.push(b'.');
        padded(out, u32::try_from(duration % 1000).expect("below 1000"));
        out.extend_from_slice(b"ms ");
        let endpoint = entry.endpoint.as_ref().map_or("-", |endpoint| endpoint.name());
        text::combined(out, endpoint.as_bytes());
        out.push(b' ');
        out.extend_from_slice(end.flag.as_str().as_bytes());
        out.push(b'\n');
    }

    fn add_combined(&mut self, entry: &Entry, client: &HeaderValue, end: End) {
        let out = &mut self.lines;
        out.extend_from_slice(client.as_bytes());
        out.extend_from_slice(b" - - [");
        out.extend_from_slice(self.stamp.as_bytes());
        out.extend_from_slice(b"] \"");
        out.extend_from_slice(entry.head.method.as_str().as_bytes());
        out.push(b' ');
        text::combined(out, target(entry).as_bytes());
        out.push(b' ');
        out.extend_from_slice(version(entry.head.version).as_bytes());
        out.extend_from_slice(b"\" ");
        out.extend_from_slice(end.status.as_str().as_bytes());
        out.push(b' ');
        number(out, end.bytes_out);
        for name in [REFERER, USER_AGENT] {
            out.extend_from_slice(b" \"");
            match entry.head.headers.get(name) {
                Some(value) => text::combined(out, value.as_bytes()),
                None => out.push(b'-'),
            }
            out.push(b'"');
        }
        out.push(b'\n');
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

fn target(entry: &Entry) -> &str {
    entry.head.uri.path_and_query().map_or("*", http::uri::PathAndQuery::as_str)
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Writes milliseconds with three digits.
fn padded(out: &mut Vec<u8>, millisecond: u32) {
    for unit in [100, 10, 1] {
        out.push(b'0' + u8::try_from(millisecond / unit % 10).expect("one digit"));
    }
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The time in the format of Apache's logs: `21/Nov/2026:10:00:00 +0000`.
fn combined_stamp(wall: SystemTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = humantime::format_rfc3339_seconds(wall).to_string();
    let month = text[5..7].parse::<usize>().map_or("Jan", |month| MONTHS[(month - 1) % 12]);
    format!("{}/{month}/{}:{} +0000", &text[8..10], &text[..4], &text[11..19])
}

#[cfg(test)]
mod tests {
    use fleet::{EndpointId, State};

    use super::*;
    use crate::log::Destination;

    fn line(format: LogFormat, target: &'static str, agent: &'static [u8]) -> String {
        let (mut head, ()) = http::Request::get(target).body(()).expect("valid").into_parts();
        let agent = HeaderValue::from_bytes(agent).expect("valid");
        head.headers.insert(USER_AGENT, agent);
        let now = Instant::now();
        let client = HeaderValue::from_static("192.0.2.7");
        let mut entry = Entry::new(&Rc::new(head), true, now);
        let address = ([127, 0, 0, 1], 1).into();
        let endpoint = Endpoint::new(EndpointId(0), "a \"worker\"", address, State::up(), now);
        entry.endpoint = Some(Arc::new(endpoint));
        let place = tempfile::NamedTempFile::new().expect("a file");
        let mut buffer = Buffer::new(Arc::new(log(place.path())), format);
        let now = now + Duration::from_micros(1500);
        let status = http::StatusCode::OK;
        buffer.add(&entry, &client, End { now, status, bytes_out: 42, flag: Flag::Answered });
        buffer.flush();
        assert!(buffer.log.flush(Duration::from_secs(20)));
        std::fs::read_to_string(place.path()).expect("text")
    }

    fn log(path: &std::path::Path) -> LogWriter {
        LogWriter::start("access", &Destination::new(path), 1 << 20).expect("started")
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
    fn a_line_for_people_says_who_asked_for_what_and_who_answered() {
        let text = line(LogFormat::Text, "/x", b"curl");
        let rest = "Z 192.0.2.7 \"GET /x\" 200 42 1.500ms a \\x22worker\\x22 answered\n";
        assert!(text.ends_with(rest), "{text}");
    }

    #[test]
    fn the_combined_format_is_that_of_apache() {
        let text = line(LogFormat::Combined, "/x", b"curl \"8\"");
        assert!(text.starts_with("192.0.2.7 - - ["), "{text}");
        assert!(
            text.contains("+0000] \"GET /x HTTP/1.1\" 200 42 \"-\" \"curl \\x228\\x22\""),
            "{text}"
        );
    }

    #[test]
    fn a_client_cannot_forge_a_line_or_move_a_terminals_cursor() {
        for format in [LogFormat::Json, LogFormat::Combined, LogFormat::Text] {
            let text = line(format, "/a\"\u{9b}31m", b"\" 200 1 \"-\" \xc2\x9b2J \xff\\");
            assert!(text.trim_end().bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text}");
            assert_eq!(text.lines().count(), 1);
            if format == LogFormat::Combined {
                assert_eq!(text.matches('"').count(), 6, "three quoted fields: {text}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_shows_in_the_next_second() {
        let place = tempfile::NamedTempFile::new().expect("a file");
        let mut buffer = Buffer::new(Arc::new(log(place.path())), LogFormat::Json);
        let (now, start) = (Instant::now() + Duration::from_hours(1), SystemTime::UNIX_EPOCH);
        let mut stamp = |after: u64, wall: u64| {
            let wall = start + Duration::from_millis(wall);
            let millisecond = buffer.set_stamp(now + Duration::from_millis(after), || wall);
            format!("{}.{millisecond:03}", buffer.stamp)
        };
        assert_eq!(stamp(0, 3_600_250), "1970-01-01T01:00:00.250");
        assert_eq!(stamp(500, 0), "1970-01-01T01:00:00.750", "not asked in the same second");
        assert_eq!(stamp(800, 32_400_050), "1970-01-01T09:00:00.050", "set forward");
        assert_eq!(stamp(1_800, 1_000), "1970-01-01T00:00:01.000", "set back");
        assert_eq!(stamp(2_100, 0), "1970-01-01T00:00:01.300");
    }
}
