//! The files of the page, compressed at build time.
//!
//! Every file has its own name, and a path that also names the edition of all of them. The content
//! under the latter never changes, so browsers may keep it without revalidation; files that load
//! each other by relative addresses stay within their edition.

use std::fmt;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::negotiation::{has, takes_gzip};

/// A file of the page.
pub struct Asset {
    name: &'static str,
    kind: &'static str,
    digest: &'static str,
    tag: &'static str,
    plain: &'static [u8],
    packed: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The folder of the editions.
pub(super) const FOLDER: &str = "assets/";

impl fmt::Debug for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl PartialEq for Asset {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Asset {}

/// The style sheet of the pages.
pub(super) fn style() -> Inline {
    Inline::of("style.css")
}

/// The script that runs before a page is painted.
pub(super) fn first_script() -> Inline {
    Inline::of("theme.js")
}

/// A file embedded in the pages: a browser that had to request it would show nothing until then.
#[derive(Debug)]
pub(super) struct Inline {
    /// The text between the tags.
    pub text: &'static str,
    /// Its name in the content security policy.
    pub digest: &'static str,
}

impl Inline {
    /// A test checks that the files exist and are text.
    fn of(name: &str) -> Self {
        let asset = ASSETS.iter().find(|asset| asset.name == name);
        let text = asset.and_then(|asset| str::from_utf8(asset.plain).ok()).unwrap_or_default();
        Self { text, digest: asset.map_or("", |asset| asset.digest) }
    }
}

/// The folder of the current edition, relative to the root.
pub(super) fn folder() -> String {
    format!("{FOLDER}{EDITION}/")
}

impl Asset {
    /// The file at a path, and whether its content never changes. A page of another edition, as of
    /// a process that was replaced, gets the file of this one.
    pub fn find(path: &str) -> Option<(&'static Self, bool)> {
        let path = path.strip_prefix('/')?;
        let (edition, name) = match path.strip_prefix(FOLDER) {
            Some(rest) => rest.split_once('/').map(|(edition, name)| (Some(edition), name))?,
            None => (None, path),
        };
        let name = if name == "favicon.ico" { "favicon.svg" } else { name };
        let asset = ASSETS.iter().find(|asset| asset.name == name)?;
        Some((asset, edition == Some(EDITION)))
    }

    /// The response for a client with these fields.
    pub fn respond(&self, is_final: bool, fields: &HeaderMap) -> Response<Bytes> {
        let caching = if is_final { "public, max-age=31536000, immutable" } else { "no-cache" };
        let mut response = Response::new(Bytes::new());
        for (name, value) in [
            (CACHE_CONTROL, caching),
            (ETAG, self.tag),
            (VARY, "accept-encoding"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        if has(fields, self.tag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        let bytes = if takes_gzip(fields) {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            self.packed
        } else {
            self.plain
        };
        *response.body_mut() = Bytes::from_static(bytes);
        response
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use http::header::{ACCEPT_ENCODING, IF_NONE_MATCH};

    use super::*;

    fn fields(pairs: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(_, &'static str)| {
            (http::HeaderName::clone(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn every_file_is_found_by_name_and_by_edition() {
        for path in ["/style.css", "/app.js", "/favicon.svg", "/favicon.ico"] {
            assert!(matches!(Asset::find(path), Some((_, false))), "{path}");
            let final_path = format!("/{}{}", folder(), &path[1..]);
            assert!(matches!(Asset::find(&final_path), Some((_, true))), "{final_path}");
        }
        let older = Asset::find("/assets/0123456789abcdef/style.css");
        assert!(matches!(older, Some((_, false))), "it must not be kept for good");
        for path in ["/index.html", "/assets/style.css", "/texts.en.json", "/", "style.css", "/../"]
        {
            assert_eq!(Asset::find(path), None, "{path}");
        }
    }

    #[test]
    fn what_stands_within_a_page_ends_where_its_element_ends() {
        for (inline, element) in [(style(), "style"), (first_script(), "script")] {
            assert!(!inline.text.is_empty(), "{element}");
            assert!(inline.digest.starts_with("sha256-"), "{element}");
            for end in ["</", "<!--", "\r"] {
                assert!(!inline.text.contains(end), "{element}: {end:?}");
            }
        }
    }

    #[test]
    fn a_packed_file_unpacks_to_the_plain_one() {
        for asset in ASSETS {
            let mut unpacked = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(asset.packed);
            decoder.read_to_end(&mut unpacked).expect("gzip");
            assert_eq!(unpacked, asset.plain, "{}", asset.name);
        }
    }

    #[test]
    fn who_has_the_file_is_not_sent_it_again() {
        let (asset, _) = Asset::find("/style.css").expect("there");
        let packed = asset.respond(true, &fields(&[(ACCEPT_ENCODING, "br, gzip")]));
        assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
        assert!(packed.body().len() < asset.plain.len() / 2);
        assert!(packed.headers()[CACHE_CONTROL].to_str().expect("text").contains("immutable"));
        let again = asset.respond(false, &fields(&[(IF_NONE_MATCH, asset.tag)]));
        assert_eq!((again.status(), again.body().len()), (StatusCode::NOT_MODIFIED, 0));
        let plain = asset.respond(false, &HeaderMap::new());
        assert_eq!(plain.headers().get(CONTENT_ENCODING), None);
        assert_eq!(plain.body(), asset.plain);
    }
}
