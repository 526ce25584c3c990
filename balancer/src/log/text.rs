//! Escapes untrusted text for a log: it can neither begin a line nor end a quotation, and sends no
//! control characters to a terminal. Pure.

use std::fmt::Write;

/// Writes arbitrary bytes as a JSON string. Everything but printable ASCII is escaped, because JSON
/// itself allows C1 control characters, directional marks and line separators.
pub(crate) fn json(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        for character in String::from_utf8_lossy(text).chars() {
            match character {
                '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
                ' '..='~' => out.push(character as u8),
                odd => {
                    for unit in odd.encode_utf16(&mut [0; 2]) {
                        out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                    }
                }
            }
        }
    }
    out.push(b'"');
}

/// The inside of a quoted field as nginx and Apache write it: `\xHH` for every byte that is not
/// printable ASCII, for quotes and for backslashes.
pub(crate) fn combined(out: &mut Vec<u8>, text: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if is_plain(text) {
        return out.extend_from_slice(text);
    }
    for byte in text {
        if is_odd(*byte) {
            let digit = |value: u8| DIGITS[usize::from(value)];
            out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 15)]);
        } else {
            out.push(*byte);
        }
    }
}

/// Text for people: unchanged, except for characters that a terminal would not show.
pub(crate) fn message(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => out.push(character),
            other => out.extend(other.escape_debug()),
        }
    }
}

/// The value of a `name=value`, quoted if its end could be mistaken.
pub(crate) fn value(out: &mut String, text: &str) {
    let is_simple = |character: char| character.is_ascii_graphic() && !"\"'\\=".contains(character);
    if !text.is_empty() && text.chars().all(is_simple) {
        return out.push_str(text);
    }
    out.push('"');
    for character in text.chars() {
        match character {
            '\'' => out.push(character),
            other => out.extend(other.escape_debug()),
        }
    }
    out.push('"');
}

/// Bytes that should be text, with invalid ones as `\xHH`.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let written = write!(text, "\\x{byte:02x}");
            written.expect("a string takes everything");
        }
    }
    text
}

fn is_odd(byte: u8) -> bool {
    !matches!(byte, b' '..=b'~') || byte == b'"' || byte == b'\\'
}

fn is_plain(text: &[u8]) -> bool {
    if text.len() < 32 {
        !text.iter().any(|byte| is_odd(*byte))
    } else {
        // Unlike a search for the first one, counting is vectorised by the compiler, 16 at a time.
        text.iter().filter(|byte| is_odd(**byte)).count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quotes, a backslash, line ends, an escape, C1's CSI, DEL, a change of direction, and bytes
    /// that are not text.
    const HOSTILE: &[u8] =
        b"a\"b\\c\r\nd\x1b[31me\xc2\x9bmf\x7fg\xe2\x80\xaeh\xff\xfei\xe2\x80\xa8";

    fn is_harmless(text: &[u8]) -> bool {
        text.iter().all(|byte| matches!(byte, b' '..=b'~'))
    }

    #[test]
    fn nothing_in_a_json_string_ends_it_or_speaks_to_a_terminal() {
        let mut out = Vec::new();
        json(&mut out, HOSTILE);
        assert!(is_harmless(&out));
        let read: String = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(read, String::from_utf8_lossy(HOSTILE));
        out.clear();
        json(&mut out, "zwölf 🚢".as_bytes());
        assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), "zwölf 🚢");
    }

    #[test]
    fn nothing_in_a_combined_field_ends_it_or_speaks_to_a_terminal() {
        let mut out = Vec::new();
        combined(&mut out, HOSTILE);
        assert!(is_harmless(&out) && !out.contains(&b'"'));
        assert!(out.starts_with(br"a\x22b\x5cc\x0d\x0ad\x1b[31me\xc2\x9bm"));
    }

    #[test]
    fn messages_and_values_stay_on_their_line() {
        let text = String::from_utf8_lossy(HOSTILE);
        let (mut words, mut quoted) = (String::new(), String::new());
        message(&mut words, &text);
        value(&mut quoted, &text);
        for out in [&words, &quoted] {
            assert!(
                !out.contains(['\n', '\r', '\u{1b}', '\u{9b}', '\u{202e}', '\u{2028}']),
                "{out}"
            );
        }
        assert!(quoted.starts_with(r#""a\"b\\c"#), "{quoted}");
    }

    #[test]
    fn values_are_quoted_only_where_that_tells_something() {
        for (text, shown) in [
            ("worker1", "worker1"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("", "\"\""),
            ("two words", "\"two words\""),
            ("a=b", "\"a=b\""),
            ("it's zwölf", "\"it's zwölf\""),
        ] {
            let mut out = String::new();
            value(&mut out, text);
            assert_eq!(out, shown);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_numbers() {
        assert_eq!(lossy(b"caf\xe9 ol\xc3\xa9"), "caf\\xe9 olé");
    }
}
