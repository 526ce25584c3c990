//! Name-value pairs of queries and `application/x-www-form-urlencoded` bodies.

use std::borrow::Cow;

use crate::percent::{Plus, decode};

/// The pairs of a text, not decoded.
pub(crate) fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        (&pair[..at], pair.get(at + 1..).unwrap_or_default())
    })
}

/// Decodes a name or a value; `None` if an escape is malformed.
pub(crate) fn text(encoded: &[u8]) -> Option<Cow<'_, [u8]>> {
    decode(encoded, Plus::Space)
}

/// The body without its line break if it can be a form: a line of text. Every image has other bytes
/// near its start.
pub(crate) fn line(body: &[u8]) -> Option<&[u8]> {
    let line = body.strip_suffix(b"\n").unwrap_or(body);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_text = |line: &str| !line.bytes().any(|byte| byte < b' ' || byte == 0x7f);
    std::str::from_utf8(line).ok().filter(|line| is_text(line)).map(str::as_bytes)
}

#[cfg(test)]
mod tests {
    use super::{line, pairs};

    #[test]
    fn a_pair_may_lack_its_value() {
        let pairs: Vec<_> = pairs(b"a=1&&b&c==d&=e").collect();
        let text =
            |(name, value): (&'static str, &'static str)| (name.as_bytes(), value.as_bytes());
        assert_eq!(pairs, [("a", "1"), ("b", ""), ("c", "=d"), ("", "e")].map(text));
    }

    #[test]
    fn pictures_are_no_line_of_text() {
        for (body, is_line) in [
            (b"model=a\r\n".as_slice(), true),
            (b"IMAGE_URL=http://a/b c.png", true),
            (b"\x89PNG\r\n", false),
            (b"GIF89a\x01\x00", false),
            (b"a=b\nc=d", false),
            (b"\xff\xd8\xff", false),
        ] {
            assert_eq!(line(body).is_some(), is_line, "{body:?}");
        }
    }
}
