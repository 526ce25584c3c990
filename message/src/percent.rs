//! Percent encoding, decoded strictly: a `%` must be followed by two hexadecimal digits.

use std::borrow::Cow;

/// What a `+` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plus {
    /// A space: in queries and forms.
    Space,
    /// Itself: in paths.
    Plus,
}

/// The bytes that a text encodes; `None` if an escape is malformed.
pub(crate) fn decode(text: &[u8], plus: Plus) -> Option<Cow<'_, [u8]>> {
    let is_special = |byte: &u8| *byte == b'%' || (*byte == b'+' && plus == Plus::Space);
    if !text.iter().any(is_special) {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(*bytes.next()?)? << 4 | digit(*bytes.next()?)?,
            b'+' if plus == Plus::Space => b' ',
            other => *other,
        });
    }
    Some(Cow::Owned(decoded))
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Encodes a text for a path or a query.
pub fn encode_text(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let digit = |value: u8| char::from(b"0123456789ABCDEF"[usize::from(value)]);
            encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    encoded
}

/// Decodes to a text; `None` if the result is not UTF-8.
pub fn decode_text(text: &str) -> Option<Cow<'_, str>> {
    match decode(text.as_bytes(), Plus::Plus)? {
        Cow::Borrowed(_) => Some(Cow::Borrowed(text)),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use super::{Plus, decode, decode_text, encode_text};

    #[test]
    fn escapes_are_whole_or_nothing() {
        for (text, expected) in [
            ("iris%5Fmodel", Some("iris_model")),
            ("iris%5fmodel", Some("iris_model")),
            ("a+b", Some("a+b")),
            ("%C3%BC", Some("ü")),
            ("%C3", None),
            ("%", None),
            ("%5", None),
            ("%zz", None),
            ("%+5", None),
        ] {
            assert_eq!(decode_text(text).as_deref(), expected, "{text}");
        }
        assert_eq!(decode(b"a+b%2B", Plus::Space).as_deref(), Some(b"a b+".as_slice()));
    }

    #[test]
    fn what_is_encoded_is_read_back_in_paths_and_queries() {
        assert_eq!(encode_text("iris_model-2.0~"), "iris_model-2.0~");
        assert_eq!(encode_text("a+b &ü/%"), "a%2Bb%20%26%C3%BC%2F%25");
        for text in ["", "iris_model", "a+b &ü/%", "\u{1f33c}=?#"] {
            let encoded = encode_text(text);
            assert_eq!(decode_text(&encoded).as_deref(), Some(text));
            assert_eq!(decode(encoded.as_bytes(), Plus::Space).as_deref(), Some(text.as_bytes()));
        }
    }
}
