//! What the content type says about a body: one of the two form encodings, or anything else.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::field::{is_token, parameter, split};
use crate::{Coding, Refusal, malformed, shown};

/// How a body is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentType<'a> {
    /// `multipart/form-data` with this boundary.
    Multipart(Cow<'a, [u8]>),
    /// `application/x-www-form-urlencoded`, which some clients send with any body.
    Urlencoded,
    /// Anything else: the body is the file itself.
    Other,
}

/// Longest boundary (RFC 2046, 5.1.1).
const LONGEST_BOUNDARY: usize = 70;

impl<'a> ContentType<'a> {
    /// Reads the field, which may appear once.
    pub fn of(fields: &'a HeaderMap) -> Result<Self, Refusal> {
        let Some(value) = fields.get(CONTENT_TYPE) else { return Ok(Self::Other) };
        let has_repeated = fields.len() > fields.keys_len();
        if has_repeated && fields.get_all(CONTENT_TYPE).iter().nth(1).is_some() {
            return Err(malformed("more than one Content-Type field"));
        }
        Self::read(value.as_bytes())
    }

    /// The coding to be undone before [`crate::Submission::read`] gets a body of this type; `None`
    /// for one that need not be inspected, because only forms have parameters.
    pub fn packed(&self, fields: &HeaderMap) -> Result<Option<Coding>, Refusal> {
        match self {
            Self::Multipart(_) | Self::Urlencoded => Coding::of(fields),
            Self::Other => Ok(None),
        }
    }

    fn read(value: &'a [u8]) -> Result<Self, Refusal> {
        // Nearly all bodies are plain pictures.
        let is_plain = |byte: &u8| !matches!(byte, b',' | b'"');
        if value.starts_with(b"image/") && value.iter().all(is_plain) {
            return Ok(Self::Other);
        }
        let mut pieces = split(value, b';');
        let media = pieces.next().unwrap_or_default();
        if media.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            return Ok(Self::Urlencoded);
        }
        if media.eq_ignore_ascii_case(b"multipart/form-data") {
            return boundary(pieces).map(Self::Multipart);
        }
        // Two fields that a proxy has merged into one.
        if media.contains(&b',') {
            return Err(malformed("more than one type in the Content-Type field"));
        }
        let is_multipart = |start: &[u8]| start.eq_ignore_ascii_case(b"multipart/");
        if media.get(.."multipart/".len()).is_some_and(is_multipart) {
            let text = format!("{} is not read here: send multipart/form-data", shown(media));
            return Err(Refusal::Unsupported(text.into()));
        }
        Ok(Self::Other)
    }
}

fn boundary<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Cow<'a, [u8]>, Refusal> {
    let mut boundary = None;
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        let (name, value) = parameter(piece)
            .ok_or_else(|| malformed("a parameter of the Content-Type field does not parse"))?;
        if name.eq_ignore_ascii_case(b"boundary") && boundary.replace(value).is_some() {
            return Err(malformed("more than one boundary in the Content-Type field"));
        }
    }
    let boundary = boundary.ok_or_else(|| {
        malformed("the Content-Type field has no boundary: let the client library write it")
    })?;
    if is_boundary(&boundary) {
        return Ok(boundary);
    }
    Err(malformed("the boundary in the Content-Type field is not 1 to 70 visible characters"))
}

/// A boundary may contain spaces, but not at its end, where padding follows. Some clients use
/// characters that the RFC does not list.
fn is_boundary(boundary: &[u8]) -> bool {
    let is_allowed = |byte: u8| is_token(byte) || b"'()+_,-./:=? ;<>@[]{}".contains(&byte);
    (1..=LONGEST_BOUNDARY).contains(&boundary.len())
        && boundary.last() != Some(&b' ')
        && boundary.iter().copied().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(text: &str) -> Result<ContentType<'_>, Refusal> {
        ContentType::read(text.as_bytes())
    }

    #[test]
    fn boundaries_are_read_as_clients_write_them() {
        let longest = "b".repeat(70);
        for (parameters, expected) in [
            ("; boundary=abc", "abc"),
            (";boundary=abc ", "abc"),
            (" ; charset=utf-8;; BOUNDARY=\"a b\";", "a b"),
            ("; boundary=\"X\\X\"", "XX"),
            ("; x=\"ü;boundary=no\"; boundary=XX", "XX"),
            ("; boundary=----=_Part_3_1.2", "----=_Part_3_1.2"),
            ("; boundary=a,b", "a,b"),
            (&format!("; boundary={longest}"), &*longest),
        ] {
            let text = format!("Multipart/Form-Data{parameters}");
            let expected = ContentType::Multipart(expected.as_bytes().into());
            assert_eq!(read(&text), Ok(expected), "{parameters}");
        }
    }

    #[test]
    fn what_is_not_certain_is_refused() {
        for text in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"a \"",
            "multipart/form-data; boundary=\"a",
            "multipart/form-data; boundary =a",
            "multipart/form-data; boundary=a; boundary=a",
            "multipart/form-data; boundary=a, multipart/form-data; boundary=b",
            "image/png, multipart/form-data; boundary=b",
            "multipart/form-data; boundary",
            "multipart/form-data; boundary=é",
            &format!("multipart/form-data; boundary={}", "b".repeat(71)),
        ] {
            assert!(matches!(read(text), Err(Refusal::Malformed(_))), "{text}");
        }
        assert!(matches!(read("multipart/mixed; boundary=a"), Err(Refusal::Unsupported(_))));
        let mut fields = HeaderMap::new();
        for line in ["image/png", "multipart/form-data; boundary=XX"] {
            fields.append(CONTENT_TYPE, HeaderValue::from_static(line));
        }
        assert!(ContentType::of(&fields).is_err());
    }

    #[test]
    fn everything_else_is_what_it_is() {
        assert_eq!(
            read("APPLICATION/X-WWW-Form-Urlencoded; charset=x"),
            Ok(ContentType::Urlencoded)
        );
        for other in ["", "image/png; boundary=abc", "image", "application/json", "multipar"] {
            assert_eq!(read(other), Ok(ContentType::Other), "{other}");
        }
        assert_eq!(ContentType::of(&HeaderMap::new()), Ok(ContentType::Other));
    }
}
