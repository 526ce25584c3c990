//! Where a redirect leads: the few forms of a `Location` header, resolved against its origin.

use axum::http::Uri;

/// The next address; `None` for one we do not follow.
pub(super) fn follow(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let (scheme, authority) = (from.scheme_str()?, from.authority()?.as_str());
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    check(&absolute)
}

/// An `http` or `https` address with a host and without credentials.
pub(super) fn check(text: &str) -> Option<Uri> {
    let uri: Uri = text.trim().parse().ok()?;
    let authority = uri.authority()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
    (known && plain).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::{check, follow};

    #[test]
    fn every_form_of_location_is_joined() {
        let from = "https://a.example/x/y.jpg".parse().unwrap();
        for (location, wanted) in [
            ("http://b.example/z", "http://b.example/z"),
            ("//b.example/z", "https://b.example/z"),
            ("/z#part", "https://a.example/z"),
            ("z?q=1", "https://a.example/x/z?q=1"),
        ] {
            assert_eq!(follow(&from, location).unwrap().to_string(), wanted);
        }
    }

    #[test]
    fn other_schemes_and_credentials_are_refused() {
        for text in [
            "file:///etc/passwd",
            "ftp://a.example/x",
            "http://user@a.example/",
            "/x",
            "",
            "http://",
        ] {
            assert_eq!(check(text), None, "{text}");
        }
    }
}
