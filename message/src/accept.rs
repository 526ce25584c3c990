//! Which form of an answer a client prefers (RFC 9110, 12.4.2 and 12.5.1).
//!
//! An offered form takes its quality from the most specific range that matches it. Among equal
//! qualities, a form that is named wins over one that matches a wildcard, then the first one wins.
//! A range with a malformed quality is ignored.

use std::cmp::Reverse;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::field::{parameter, split};

/// `application/json`
pub const JSON: &str = "application/json";
/// `text/html`, for browsers
pub const HTML: &str = "text/html";
/// `text/plain`
pub const TEXT: &str = "text/plain";

/// How specifically a range matches a media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    /// `*/*`: any type.
    Any,
    /// `text/*`
    Type,
    /// `text/html`
    Exact,
}

/// How much a form is preferred; larger is better. Quality in thousandths, then how specifically it
/// is named, then how early.
type Rank = (u16, Match, Reverse<usize>);

/// The media type in `offered` that the client prefers; `None` if it accepts none or does not say.
pub fn preferred<'a>(fields: &HeaderMap, offered: &[&'a str]) -> Option<&'a str> {
    let ranked = offered.iter().filter_map(|media| Some((rank(fields, media)?, *media)));
    // `max_by_key` returns the last of equal elements; reversed, that is the first that is offered.
    ranked.rev().max_by_key(|(rank, _)| *rank).map(|(_, media)| media)
}

/// Whether the client asks for `media` by name; wildcards do not count.
pub fn names(fields: &HeaderMap, media: &str) -> bool {
    rank(fields, media).is_some_and(|(_, named, _)| named == Match::Exact)
}

/// The values in a field such as `Accept-Encoding`, each with its quality in thousandths; those
/// with a malformed quality are left out.
pub fn listed<'a>(
    fields: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = (&'a [u8], u16)> + use<'a> {
    let items = fields.get_all(name).iter().flat_map(|line| split(line.as_bytes(), b','));
    items.filter_map(|item| {
        let mut pieces = split(item, b';');
        let value = pieces.next()?;
        Some((value, quality(pieces)?))
    })
}

/// The rank of a media type; `None` if it is not acceptable.
fn rank(fields: &HeaderMap, media: &str) -> Option<Rank> {
    let lines = fields.get_all(ACCEPT).iter();
    let ranges = lines.flat_map(|line| split(HeaderValue::as_bytes(line), b','));
    let mut best = None;
    for (at, range) in ranges.enumerate() {
        let mut pieces = split(range, b';');
        let matched = pieces.next().and_then(|range| match_of(range, media));
        if let (Some(matched), Some(quality)) = (matched, quality(pieces)) {
            best = best.max(Some((matched, quality, Reverse(at))));
        }
    }
    let (matched, quality, at) = best?;
    (quality > 0).then_some((quality, matched, at))
}

fn match_of(range: &[u8], media: &str) -> Option<Match> {
    if range.eq_ignore_ascii_case(media.as_bytes()) {
        return Some(Match::Exact);
    }
    if range == b"*/*" {
        return Some(Match::Any);
    }
    let kind = range.strip_suffix(b"*")?;
    let own = media.as_bytes().get(..kind.len())?;
    (kind.ends_with(b"/") && kind.eq_ignore_ascii_case(own)).then_some(Match::Type)
}

/// The quality among the parameters of a range, in thousandths; `None` if it is malformed.
fn quality<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> Option<u16> {
    let quality = pieces.find_map(|piece| match parameter(piece) {
        Some((name, value)) if name.eq_ignore_ascii_case(b"q") => Some(thousandths(&value)),
        Some(_) => None,
        None => (!piece.is_empty()).then_some(None),
    });
    quality.unwrap_or(Some(1000))
}

/// `1`, `0.5`, `1.000`: at most three digits after the point, at most 1.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, part) = match text {
        [whole @ (b'0' | b'1')] | [whole @ (b'0' | b'1'), b'.'] => (*whole, [].as_slice()),
        [whole @ (b'0' | b'1'), b'.', part @ ..] if part.len() <= 3 => (*whole, part),
        _ => return None,
    };
    let mut value = u16::from(whole - b'0');
    for at in 0..3 {
        let digit = part.get(at).copied().unwrap_or(b'0');
        value = value * 10 + digit.is_ascii_digit().then(|| u16::from(digit - b'0'))?;
    }
    (value <= 1000).then_some(value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn fields(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).expect("valid"))])
    }

    #[test]
    fn the_better_of_json_and_a_page_is_found() {
        for (accept, expected) in [
            ("text/html", Some(HTML)),
            ("TEXT/HTML", Some(HTML)),
            ("text/html;q=0", None),
            ("application/json, text/html;q=0.1", Some(JSON)),
            ("application/json;q=1.0, text/html;q=0.5, */*;q=0.1", Some(JSON)),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some(HTML)),
            ("text/html, */*", Some(HTML)),
            ("*/*, text/html;q=0.999", Some(JSON)),
            ("*/*", Some(JSON)),
            ("*/*;q=0", None),
            ("text/*", Some(HTML)),
            ("text/*, text/html;q=0", None),
            ("text/html;q=0, */*", Some(JSON)),
            ("application/json, text/html", Some(JSON)),
            ("text/html, application/json", Some(HTML)),
            ("text/html;Q=0.5, application/json;q=0.25", Some(HTML)),
            ("text/html;charset=utf-8;q=0.3, application/json;q=0.2", Some(HTML)),
            ("text/plain;x=\"a,text/html;q=1\", application/json;q=0.1", Some(JSON)),
            ("text/html;q=2, application/json;q=0.1", Some(JSON)),
            ("text/html;q=0.0001, application/json;q=0", None),
            ("image/png", None),
            ("", None),
        ] {
            assert_eq!(preferred(&fields(accept), &[JSON, HTML]), expected, "{accept}");
        }
        assert_eq!(preferred(&HeaderMap::new(), &[JSON, HTML]), None);
    }

    #[test]
    fn only_a_name_names() {
        for (accept, named) in [
            ("application/json", true),
            ("text/plain, application/JSON;q=0.5", true),
            ("*/*", false),
            ("application/*", false),
            ("application/json;q=0, */*", false),
            ("application/json ; q=0.000", false),
        ] {
            assert_eq!(names(&fields(accept), JSON), named, "{accept}");
        }
    }

    #[test]
    fn an_item_has_the_quality_that_is_written_beside_it() {
        let fields = fields("gzip;q=0.5, br ; Q=0, a;q=2, *;q=0.25, de");
        let items = listed(&fields, &ACCEPT)
            .map(|(item, quality)| (item.escape_ascii().to_string(), quality));
        let expected = [("gzip", 500), ("br", 0), ("*", 250), ("de", 1000)];
        assert_eq!(
            items.collect::<Vec<_>>(),
            expected.map(|(item, quality)| (item.to_owned(), quality))
        );
    }

    #[test]
    fn several_lines_are_one_list() {
        let mut fields = fields("text/html;q=0.2");
        fields.append(ACCEPT, HeaderValue::from_static("application/json;q=0.1"));
        assert_eq!(preferred(&fields, &[JSON, HTML]), Some(HTML));
    }

    proptest! {
        #[test]
        fn a_quality_of_zero_excludes_and_no_text_panics(accept in "[ -~]{0,60}") {
            let refused = format!("{}, text/html;q=0", accept.replace(['"', 'h'], ""));
            prop_assert_ne!(preferred(&fields(&refused), &[JSON, HTML]), Some(HTML));
            let _any = preferred(&fields(&accept), &[JSON, HTML]);
        }
    }
}
