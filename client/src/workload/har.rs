//! Recorded requests: the HTTP archives (HAR 1.2) that browsers and proxies save.
//!
//! Each request goes to the target with its own method, path, query, fields and body, at its
//! recorded instant, counted from the first request. Fields that belong to a connection are left
//! out, and so are entries that are not HTTP requests (`data:` and `ws:` addresses).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde::Deserialize;

use super::Item;
use crate::error::Error;
use crate::input;

/// Requests and when each of them is due, in that order.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The recorded requests, in the order of their instants.
    pub items: Vec<Item>,
    /// Their instants, from the first one on.
    pub instants: Arc<[Duration]>,
}

/// Largest archive that is read.
const MAX_BYTES: u64 = 1 << 30;

/// Fields that describe a connection, or follow from the body and the target.
const NOT_OURS: [&str; 8] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

#[derive(Debug, Deserialize)]
struct Archive {
    log: Log,
}

#[derive(Debug, Deserialize)]
struct Log {
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    started_date_time: String,
    request: Recorded,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recorded {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<Pair>,
    post_data: Option<PostData>,
}

#[derive(Debug, Deserialize)]
struct Pair {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostData {
    #[serde(default)]
    mime_type: String,
    #[serde(default)]
    text: String,
    /// `base64` if the content is not text.
    encoding: Option<String>,
    /// The fields of a form; some programs write them instead of a text.
    #[serde(default)]
    params: Vec<Param>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Param {
    name: String,
    #[serde(default)]
    value: String,
}

/// Reads the requests of an HTTP archive.
pub fn read(file: &Path) -> anyhow::Result<Recording> {
    let shown = || file.display().to_string();
    let text = input::read(file, MAX_BYTES)?;
    parse(&text).map_err(|reason| Error::Usage(format!("{}: {reason}", shown())).into())
}

fn parse(text: &[u8]) -> Result<Recording, String> {
    // Some programs begin the file with a byte order mark.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let archive: Archive =
        serde_json::from_slice(text).map_err(|error| format!("no HTTP archive: {error}"))?;
    let mut recorded = Vec::new();
    for (number, entry) in archive.log.entries.iter().enumerate() {
        let item = item(&entry.request).map_err(|why| format!("entry {}: {why}", number + 1))?;
        let Some(item) = item else { continue };
        let at = instant(&entry.started_date_time)
            .ok_or_else(|| format!("entry {}: no startedDateTime", number + 1))?;
        recorded.push((at, item));
    }
    recorded.sort_by_key(|(at, _)| *at);
    let first = recorded.first().map(|(at, _)| *at).ok_or("no HTTP request in it")?;
    let since = |at: SystemTime| at.duration_since(first).unwrap_or_default();
    let instants = recorded.iter().map(|(at, _)| since(*at)).collect();
    Ok(Recording { items: recorded.into_iter().map(|(_, item)| item).collect(), instants })
}

/// The request to send; `None` if it is not an HTTP request.
fn item(recorded: &Recorded) -> Result<Option<Item>, String> {
    if !recorded.url.starts_with("http://") && !recorded.url.starts_with("https://") {
        return Ok(None);
    }
    let uri: Uri = recorded.url.parse().map_err(|error| format!("{}: {error}", recorded.url))?;
    let route = uri.path_and_query().map_or("/", |path| path.as_str());
    let method = Method::from_bytes(recorded.method.as_bytes())
        .map_err(|_| format!("{:?} is no method", recorded.method))?;
    let (body, kind) = match &recorded.post_data {
        None => (Bytes::new(), None),
        Some(data) => {
            let kind = HeaderValue::from_str(&data.mime_type).ok().filter(|kind| !kind.is_empty());
            (body(data)?, kind)
        }
    };
    let headers = fields(&recorded.headers);
    // The header that was sent counts, not what the archive makes of it.
    let kind = headers.get(CONTENT_TYPE).cloned().or(kind);
    let item = Item::new(&format!("{method} {}", uri.path()), method, body, kind);
    Ok(Some(Item { route: Some(route.to_owned()), headers, ..item }))
}

/// The posted body.
fn body(data: &PostData) -> Result<Bytes, String> {
    const FORM: &str = "application/x-www-form-urlencoded";
    if data.encoding.as_deref() == Some("base64") {
        let bytes = BASE64_STANDARD.decode(data.text.trim());
        return bytes.map(Bytes::from).map_err(|error| format!("postData: {error}"));
    }
    if !data.text.is_empty() || data.params.is_empty() {
        return Ok(Bytes::from(data.text.clone()));
    }
    if !data.mime_type.is_empty() && !data.mime_type.to_ascii_lowercase().starts_with(FORM) {
        let kind = &data.mime_type;
        return Err(format!("the archive has the fields of a form ({kind}), but not its text"));
    }
    let fields = data.params.iter().map(|Param { name, value }| (name, value));
    let mut form = form_urlencoded::Serializer::new(String::new());
    Ok(Bytes::from(form.extend_pairs(fields).finish()))
}

/// The fields that make up the same request on another connection. HTTP/2's pseudo-fields, which
/// begin with a colon, are left out.
fn fields(recorded: &[Pair]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for Pair { name, value } in recorded {
        let name = HeaderName::try_from(name.as_str()).ok();
        let name = name.filter(|name| !NOT_OURS.contains(&name.as_str()) && name != HOST);
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            fields.append(name, value);
        }
    }
    fields
}

/// An instant as archives write it: `2026-01-31T12:30:00.123+01:00`, or with a `Z`.
fn instant(text: &str) -> Option<SystemTime> {
    if let Ok(at) = humantime::parse_rfc3339(text) {
        return Some(at);
    }
    let (time, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, offset) = offset.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let offset = Duration::from_secs(hours.checked_mul(3600)? + minutes.checked_mul(60)?);
    let local = humantime::parse_rfc3339(&format!("{time}Z")).ok()?;
    match sign {
        "+" => local.checked_sub(offset),
        "-" => local.checked_add(offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{instant, parse};

    const ARCHIVE: &str = r#"{"log": {"version": "1.2", "creator": {"name": "a browser"}, "entries": [
        {"startedDateTime": "2026-01-31T12:00:01.500+01:00", "time": 3, "request": {"method": "POST",
         "url": "https://host.example/submit?model=mnist", "httpVersion": "h2",
         "headers": [{"name": ":authority", "value": "host.example"}, {"name": "Host", "value": "x"},
                     {"name": "X-Trace", "value": "1"}, {"name": "Content-Length", "value": "9"}],
         "postData": {"mimeType": "application/json", "text": "{\"a\": 1}"}}},
        {"startedDateTime": "2026-01-31T11:00:00.000Z", "request": {"method": "GET",
         "url": "http://host.example/", "headers": []}},
        {"startedDateTime": "2026-01-31T11:00:00.000Z", "request": {"method": "GET",
         "url": "data:image/png;base64,AA==", "headers": []}}]}}"#;

    #[test]
    fn an_archive_is_requests_at_their_instants() {
        let recording = parse(ARCHIVE.as_bytes()).unwrap();
        assert_eq!(*recording.instants, [0, 1500].map(Duration::from_millis));
        let [page, submit] = &recording.items[..] else { panic!("two requests") };
        assert_eq!((page.method.as_str(), page.route.as_deref()), ("GET", Some("/")));
        assert_eq!(submit.route.as_deref(), Some("/submit?model=mnist"));
        assert_eq!(submit.body, "{\"a\": 1}");
        assert_eq!(submit.content_type.as_ref().unwrap(), "application/json");
        assert_eq!(submit.headers.len(), 1, "what belongs to a connection is left out");
        assert_eq!(submit.headers["x-trace"], "1");
    }

    #[test]
    fn a_body_that_is_recorded_as_fields_or_as_base64_is_sent_as_it_was() {
        let posted = |data: &str| {
            let archive =
                ARCHIVE.replace(r#""mimeType": "application/json", "text": "{\"a\": 1}""#, data);
            assert_ne!(archive, ARCHIVE);
            parse(archive.as_bytes()).map(|it| it.items[1].body.clone())
        };
        let form = r#""mimeType": "application/x-www-form-urlencoded; charset=utf-8", "params":
            [{"name": "a b", "value": "1&2"}, {"name": "c", "value": "ü"}]"#;
        assert_eq!(posted(form).unwrap(), "a+b=1%262&c=%C3%BC");
        let binary = r#""mimeType": "image/png", "encoding": "base64", "text": "AP8B""#;
        assert_eq!(posted(binary).unwrap(), &[0, 255, 1][..]);
        let parts = r#""mimeType": "multipart/form-data; boundary=x", "params":
            [{"name": "image", "fileName": "a.png"}]"#;
        let error = posted(parts).unwrap_err();
        assert!(error.starts_with("entry 1: ") && error.contains("not its text"), "{error}");
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        for text in ["", "[]", "{\"log\": {\"entries\": []}}", &ARCHIVE.replace("POST", "P T")] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(ARCHIVE.replace("11:00", "eleven").as_bytes()).is_err());
        for text in ["", "Z", "2026-01-31T11:00:00", "2026-01-31T11:00:00+x:00", "äöü+01:0"] {
            assert!(instant(text).is_none(), "{text}");
        }
    }
}
