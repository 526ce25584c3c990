//! How a browser wants a page, according to its header fields; pure.

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, IF_NONE_MATCH};
use message::accept::listed;

/// A language of the pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Language {
    /// English, the default if a browser prefers neither language.
    #[default]
    English,
    /// German (Deutsch).
    German,
}

impl Language {
    /// Every language of the pages.
    pub const ALL: [Self; 2] = [Self::English, Self::German];

    /// Its tag (RFC 5646).
    pub fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::German => "de",
        }
    }

    fn of_tag(tag: &str) -> Option<Self> {
        let primary = tag.split('-').next().unwrap_or_default();
        Self::ALL.into_iter().find(|language| language.tag().eq_ignore_ascii_case(primary))
    }

    /// The language that `?lang=` names, or the one that the browser prefers.
    pub fn of(query: Option<&str>, fields: &HeaderMap) -> Self {
        let mut pairs = query.unwrap_or_default().split('&');
        let named = pairs.find_map(|pair| pair.strip_prefix("lang=")).and_then(Self::of_tag);
        named.or_else(|| Self::preferred(fields)).unwrap_or_default()
    }

    fn preferred(fields: &HeaderMap) -> Option<Self> {
        let known = |(tag, quality)| Some((Self::of_tag(std::str::from_utf8(tag).ok()?)?, quality));
        let ranges = listed(fields, &ACCEPT_LANGUAGE).filter_map(known);
        let welcome = ranges.filter(|(_, quality)| *quality > 0);
        // Of several equal ones, the first counts.
        let best = welcome.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map(|(language, _)| language)
    }
}

/// Whether a client accepts gzip.
pub(super) fn takes_gzip(fields: &HeaderMap) -> bool {
    let mut any = false;
    for (coding, quality) in listed(fields, &ACCEPT_ENCODING) {
        let is = |name: &[u8]| coding.eq_ignore_ascii_case(name);
        if is(b"gzip") || is(b"x-gzip") {
            return quality > 0;
        }
        if coding == b"*" {
            any = quality > 0;
        }
    }
    any
}

/// Whether a client has the version with this entity tag.
pub(super) fn has(fields: &HeaderMap, tag: &str) -> bool {
    let tag = bare(tag);
    let lines = fields.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(bare).any(|known| known == tag || known == "*")
}

/// An entity tag without the mark of a weak one.
fn bare(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn language(query: Option<&str>, value: &'static str) -> &'static str {
        let mut fields = HeaderMap::new();
        fields.insert(ACCEPT_LANGUAGE, HeaderValue::from_static(value));
        Language::of(query, &fields).tag()
    }

    #[test]
    fn the_address_says_the_language_or_else_the_browser_does() {
        for (value, expected) in [
            ("", "en"),
            ("de", "de"),
            ("de-AT,en;q=0.8", "de"),
            ("fr,en;q=0.5,de;q=0.9", "de"),
            ("fr", "en"),
            ("de;q=0", "en"),
            ("en,de", "en"),
            ("de;q=x,en;q=0.1", "en"),
        ] {
            assert_eq!(language(None, value), expected, "{value}");
        }
        assert_eq!(language(Some("x=1&lang=de"), "en"), "de");
        assert_eq!(language(Some("lang=xx"), "de"), "de");
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (value, expected) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, gzip;q=0.5", true),
            ("*", true),
            ("*, gzip;q=0", false),
            ("gzip;q=0.000", false),
            ("gzip;Q=0", false),
            ("GZIP; q=0.2", true),
            ("gzip;q=x", false),
            ("identity", false),
            ("", false),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(takes_gzip(&fields), expected, "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_tag_is_known_among_others() {
        let mut fields = HeaderMap::new();
        fields.insert(IF_NONE_MATCH, HeaderValue::from_static("\"a\", W/\"b\""));
        assert!(has(&fields, "W/\"b\"") && has(&fields, "W/\"a\"") && !has(&fields, "W/\"c\""));
        fields.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        assert!(has(&fields, "W/\"c\""), "whatever there is");
    }
}
