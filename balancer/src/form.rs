//! The few form fields that the balancer reads; pure.
//!
//! The body is forwarded as it came. Only the text part `number_backend_servers` (and `model`, to
//! know who serves it) is looked for, wherever it stands. What is not a proper multipart body is
//! left to the worker to refuse, which says what is wrong in its own words.

use std::borrow::Cow;

use memchr::memmem;

use crate::error::ProxyError;

/// Fields that decide where a request goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// The value of `number_backend_servers`.
    pub servers: Option<Cow<'a, str>>,
    /// The value of `model`.
    pub model: Option<Cow<'a, str>>,
}

/// No body has more parts than this; the rest is not looked at.
const MAX_PARTS: usize = 64;
/// No part has a longer head.
const MAX_HEAD: usize = 8 * 1024;
/// No field that is read here is longer.
const MAX_VALUE: usize = 256;

/// The boundary in a `multipart/form-data` content type.
pub fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let parameter = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then_some(value.trim())
    })?;
    let boundary = parameter.trim_matches('"');
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

/// Reads the fields from a multipart body.
pub fn read<'a>(body: &'a [u8], boundary: &str) -> Fields<'a> {
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let mut fields = Fields::default();
    // The first delimiter may stand at the very start, without its line break.
    let mut rest = match body.strip_prefix(&delimiter.as_bytes()[2..]) {
        Some(rest) => rest,
        None => match finder.find(body) {
            Some(at) => &body[at + delimiter.len()..],
            None => return fields,
        },
    };
    for _ in 0..MAX_PARTS {
        let Some(part) = rest.strip_prefix(b"\r\n") else { return fields };
        let window = &part[..part.len().min(MAX_HEAD)];
        let Some(end) = memmem::find(window, b"\r\n\r\n") else { return fields };
        let content = &part[end + 4..];
        let name = field_name(&part[..end]);
        let Some(length) = finder.find(content) else { return fields };
        match name {
            Some("number_backend_servers") => fields.servers = Some(text(&content[..length])),
            Some("model") => fields.model = Some(text(&content[..length])),
            Some(_) | None => {}
        }
        rest = &content[length + delimiter.len()..];
    }
    fields
}

fn text(value: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&value[..value.len().min(MAX_VALUE)])
}

/// The `name` in the content disposition of a part's head.
fn field_name(head: &[u8]) -> Option<&str> {
    let head = std::str::from_utf8(head).ok()?;
    let disposition = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    disposition.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("name").then(|| value.trim().trim_matches('"'))
    })
}

/// How many endpoints of the list take part: from 1 to `available`.
pub fn parse_servers(value: &str, available: usize) -> Result<usize, ProxyError> {
    let count = value.trim().parse::<usize>().ok();
    count.filter(|count| (1..=available).contains(count)).ok_or_else(|| {
        let shown: String = value.trim().chars().take(40).collect();
        let text = format!(
            "number_backend_servers must be a whole number from 1 to {available}, not {shown:?}"
        );
        ProxyError::BadRequest(text.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(parts: &[(&str, &str)]) -> Vec<u8> {
        let part = |(head, value): &(&str, &str)| {
            format!("--XY\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n")
        };
        let body: String = parts.iter().map(part).collect();
        (body + "--XY--\r\n").into_bytes()
    }

    #[test]
    fn the_field_is_found_before_and_after_the_image() {
        let image = (r#"name="image"; filename="image""#, "\u{1}\r\n--X\r\n\r\nnot a part");
        let servers = (r#"name="number_backend_servers""#, "4");
        for parts in [[image, servers], [servers, image]] {
            assert_eq!(read(&body(&parts), "XY").servers.as_deref(), Some("4"));
        }
    }

    #[test]
    fn an_image_that_contains_the_field_as_text_is_only_an_image() {
        let trick = "Content-Disposition: form-data; name=\"number_backend_servers\"\r\n\r\n3";
        let parts = [(r#"name="image""#, trick)];
        assert_eq!(read(&body(&parts), "XY"), Fields::default());
    }

    #[test]
    fn unquoted_names_and_the_model_are_understood() {
        let fields = body(&[("name=model", "mnist"), ("NAME=number_backend_servers", " 2 ")]);
        let read = read(&fields, "XY");
        assert_eq!(read.model.as_deref(), Some("mnist"));
        assert_eq!(parse_servers(&read.servers.expect("it is there"), 4), Ok(2));
    }

    #[test]
    fn every_cut_of_a_body_is_survived() {
        let whole = body(&[(r#"name="image""#, "data"), (r#"name="number_backend_servers""#, "1")]);
        for end in 0..whole.len() {
            let _fields = read(&whole[..end], "XY");
            let _fields = read(&whole[end..], "XY");
        }
    }

    #[test]
    fn boundaries_are_read_as_clients_write_them() {
        for (content_type, expected) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("Multipart/Form-Data;charset=utf-8; BOUNDARY=\"a b\"", Some("a b")),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("image/png; boundary=abc", None),
        ] {
            assert_eq!(boundary(content_type), expected, "{content_type}");
        }
    }

    #[test]
    fn a_count_is_a_whole_number_within_the_list() {
        assert_eq!(parse_servers("1", 4), Ok(1));
        assert_eq!(parse_servers("4", 4), Ok(4));
        for wrong in ["0", "5", "-1", "NaN", "", "1.5", "99999999999999999999999", "two"] {
            assert!(parse_servers(wrong, 4).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_body_and_no_content_type_panics(
            pieces in proptest::collection::vec(
                prop_oneof![
                    Just("--XY".to_owned()), Just("\r\n".to_owned()), Just("--".to_owned()),
                    Just("Content-Disposition: form-data; name=model".to_owned()),
                    "(?s).{0,12}",
                ],
                0..24,
            ),
            content_type in "multipart/form-data; ?(boundary=)?.{0,80}",
        ) {
            let _fields = read(pieces.concat().as_bytes(), "XY");
            let _boundary = boundary(&content_type);
            let _count = parse_servers(&content_type, 4);
        }
    }
}
