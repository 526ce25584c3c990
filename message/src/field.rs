//! The grammar that header fields share: lists, parameters, quoted strings (RFC 9110, 5.6).

use std::borrow::Cow;

/// Whether a token may contain this byte.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The pieces between separators outside of quoted strings, without surrounding white space.
pub(crate) fn split(mut value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut is_over = false;
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        let end = piece_end(value, separator);
        let piece = &value[..end];
        is_over = end == value.len();
        value = value.get(end + 1..).unwrap_or_default();
        Some(piece.trim_ascii())
    })
}

fn piece_end(value: &[u8], separator: u8) -> usize {
    // Hardly any value has quotes.
    match memchr::memchr2(b'"', separator, value) {
        Some(at) if value[at] == b'"' => {}
        end => return end.unwrap_or(value.len()),
    }
    let mut is_quoted = false;
    let mut is_escaped = false;
    let ends = |byte: &u8| {
        if is_escaped {
            is_escaped = false;
            return false;
        }
        match *byte {
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            byte if byte == separator && !is_quoted => return true,
            _ => {}
        }
        false
    };
    value.iter().position(ends).unwrap_or(value.len())
}

/// Bytes of a message, or what they stand for.
pub(crate) type Octets<'a> = Cow<'a, [u8]>;

/// A parameter: its name as written, and its value without quotes.
pub(crate) type Parameter<'a> = (&'a [u8], Octets<'a>);

/// Reads a parameter; `None` if it is not one.
///
/// An unquoted value may contain characters that a token may not: mail libraries write boundaries
/// such as `----=_Part_1` without quotes.
pub(crate) fn parameter(piece: &[u8]) -> Option<Parameter<'_>> {
    let at = memchr::memchr(b'=', piece)?;
    let (name, value) = (&piece[..at], &piece[at + 1..]);
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return None;
    }
    if let Some(quoted) = value.strip_prefix(b"\"") {
        return Some((name, unquoted(quoted)?));
    }
    let is_plain = |byte: &u8| *byte > b' ' && *byte != 0x7f && *byte != b'"';
    value.iter().all(is_plain).then_some((name, Cow::Borrowed(value)))
}

/// The text before the closing quote, which must be the last byte, with escapes removed.
fn unquoted(text: &[u8]) -> Option<Octets<'_>> {
    let is_text = |byte: &u8| (*byte >= b' ' || *byte == b'\t') && *byte != 0x7f;
    if !text.iter().all(is_text) {
        return None;
    }
    let (last, inside) = text.split_last()?;
    if *last != b'"' {
        return None;
    }
    if memchr::memchr2(b'\\', b'"', inside).is_none() {
        return Some(Cow::Borrowed(inside));
    }
    let mut value = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return None,
            // Without a next byte, the last one is an escaped quote and not a closing one.
            b'\\' => value.push(*bytes.next()?),
            other => value.push(*other),
        }
    }
    Some(Cow::Owned(value))
}

#[cfg(test)]
mod tests {
    use super::{parameter, split};

    #[test]
    fn separators_within_quotes_separate_nothing() {
        let split = |text: &'static str| split(text.as_bytes(), b';').collect::<Vec<_>>();
        assert_eq!(split("a; b=\"c;d\" ;e"), [b"a".as_slice(), b"b=\"c;d\"", b"e"]);
        assert_eq!(split(r#"a="\";b";c"#), [br#"a="\";b""#.as_slice(), b"c"]);
        assert_eq!(split(r#"a="never closed; b"#), [br#"a="never closed; b"#.as_slice()]);
        assert_eq!(split("a;"), [b"a".as_slice(), b""]);
        assert_eq!(split(""), [b"".as_slice()]);
    }

    #[test]
    fn a_parameter_is_a_token_and_a_value() {
        for (text, expected) in [
            ("a=b", Some(("a", "b"))),
            ("a=\"b c\"", Some(("a", "b c"))),
            (r#"a="\"b\\""#, Some(("a", r#""b\"#))),
            ("boundary=----=_Part_0:1/2", Some(("boundary", "----=_Part_0:1/2"))),
            ("a=", Some(("a", ""))),
            ("a=\"\"", Some(("a", ""))),
            ("a", None),
            ("=b", None),
            ("a =b", None),
            ("a= b", None),
            ("a=b c", None),
            ("a=\"b", None),
            ("a=\"b\"c", None),
            (r#"a="b\""#, None),
            ("a=b\"c\"", None),
            ("a=\"b\u{7f}\"", None),
        ] {
            let expected = expected.map(|(name, value)| (name.as_bytes(), value.as_bytes().into()));
            assert_eq!(parameter(text.as_bytes()), expected, "{text}");
        }
    }
}
