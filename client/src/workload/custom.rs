//! What the user overrides in every request: a method, header fields, a body, statuses.

use std::path::Path;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method};

use super::Statuses;
use crate::error::Error;
use crate::input;

/// Changes to all requests of a workload.
#[derive(Debug, Clone, Default)]
pub struct Custom {
    /// Used instead of the workload's own.
    pub method: Option<Method>,
    /// Used in place of fields of the same names.
    pub headers: HeaderMap,
    /// What counts as success instead of 2xx.
    pub statuses: Option<Statuses>,
}

/// A header field.
pub type Field = (HeaderName, HeaderValue);

/// Reads `Name: value`. Fields that decide where a message ends are refused.
pub fn header(text: &str) -> Result<Field, String> {
    let (name, value) = text.split_once(':').ok_or("a header is `Name: value`")?;
    let name: HeaderName = name.trim().parse().map_err(|_| format!("{name:?} names no header"))?;
    if [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&name) {
        return Err(format!("{name} follows from the body and from --no-keep-alive"));
    }
    let value = HeaderValue::from_str(value.trim());
    Ok((name, value.map_err(|_| "a header's value is one line of text")?))
}

/// Largest body: no service that is measured takes more.
pub(crate) const MAX_BODY: u64 = 1 << 30;

/// The body that `text` names: itself, the content of the file named after an `@`, or standard
/// input for `@-`.
pub fn read_body(text: &str) -> anyhow::Result<Bytes> {
    let Some(file) = text.strip_prefix('@') else { return Ok(Bytes::from(text.to_owned())) };
    let body = match file {
        "" => {
            return Err(
                Error::Usage("--body @FILE: the name of a file is missing".to_owned()).into()
            );
        }
        "-" => input::read_from(std::io::stdin().lock(), "standard input", MAX_BODY),
        _ => input::read(Path::new(file), MAX_BODY),
    };
    body.map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::{header, read_body};

    #[test]
    fn a_header_is_a_name_and_a_value() {
        let (name, value) = header("X-Test:  a: b ").unwrap();
        assert_eq!((name.as_str(), value.as_bytes()), ("x-test", &b"a: b"[..]));
        for text in ["no colon", ": value", "a b: c", "x: a\nb", "Content-Length: 3"] {
            assert!(header(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_body_is_a_text_or_a_file() {
        assert_eq!(read_body("{\"a\":1}").unwrap(), "{\"a\":1}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("body");
        std::fs::write(&file, [0, 159, 1]).unwrap();
        assert_eq!(read_body(&format!("@{}", file.display())).unwrap(), &[0, 159, 1][..]);
        assert!(read_body("@/nonexistent").is_err());
    }
}
