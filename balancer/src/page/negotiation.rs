//! What a browser's header fields say about how it wants a page; pure.

use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A language that the page speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Language {
    /// English, where a browser prefers neither language.
    #[default]
    English,
    /// German (Deutsch).
    German,
}

impl Language {
    /// Every language that the pages have.
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

    /// The one that `?lang=` names, or the one that the browser prefers.
    pub fn of(query: Option<&str>, fields: &HeaderMap) -> Self {
        let mut pairs = query.unwrap_or_default().split('&');
        let named = pairs.find_map(|pair| pair.strip_prefix("lang=")).and_then(Self::of_tag);
        named.or_else(|| Self::preferred(fields)).unwrap_or_default()
    }

    fn preferred(fields: &HeaderMap) -> Option<Self> {
        let known = |(tag, quality)| Some((Self::of_tag(tag)?, quality));
        let ranges = listed(fields, &ACCEPT_LANGUAGE).filter_map(known);
        let welcome = ranges.filter(|(_, quality)| *quality > 0.0);
        // Of several that are equal the first counts.
        let best = welcome.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map(|(language, _)| language)
    }
}

/// Whether a client takes gzip.
pub(super) fn takes_gzip(fields: &HeaderMap) -> bool {
    let mut any = false;
    for (coding, quality) in listed(fields, &ACCEPT_ENCODING) {
        match coding {
            "gzip" | "x-gzip" => return quality > 0.0,
            "*" => any = quality > 0.0,
            _ => {}
        }
    }
    any
}

/// Whether a client has what this tag stands for.
pub(super) fn has(fields: &HeaderMap, tag: &str) -> bool {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let lines = fields.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|known| bare(known) == bare(tag))
}

/// What a field lists, each with its quality from 0 to 1; a broken quality counts as none.
fn listed<'a>(
    fields: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = (&'a str, f32)> + use<'a> {
    let text = |value: &'a HeaderValue| value.to_str().ok();
    let items = fields.get_all(name).iter().filter_map(text).flat_map(|line| line.split(','));
    items.map(|item| {
        let (value, parameters) = item.split_once(';').unwrap_or((item, ""));
        let quality = parameters.trim().strip_prefix("q=").map_or(1.0, |quality| {
            quality.trim().parse::<f32>().unwrap_or_default().clamp(0.0, 1.0)
        });
        (value.trim(), quality)
    })
}

#[cfg(test)]
mod tests {
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
    }
}
