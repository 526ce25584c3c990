//! Reads the paths under `/v1`, letter case ignored, as TF Serving's two patterns have them.

/// A path that TF Serving knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route<'a> {
    /// The model, absent in `/v1/models`.
    pub(super) model: Option<&'a str>,
    pub(super) version: Version<'a>,
    pub(super) verb: Verb,
}

/// The version that a path names, as it stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version<'a> {
    Latest,
    /// Decimal digits, any number of them.
    Number(&'a str),
    Label(&'a str),
}

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Predict,
    Classify,
    Regress,
    Status,
    Metadata,
}

/// Reads a path; `None` is a malformed request.
pub(super) fn parse(path: &str) -> Option<Route<'_>> {
    let rest = strip_prefix(path, "/v1/models")?;
    if rest.is_empty() {
        return Some(Route { model: None, version: Version::Latest, verb: Verb::Status });
    }
    let rest = rest.strip_prefix('/')?;
    let (model, rest) = name(rest)?;
    let (version, rest) = version(rest)?;
    Some(Route { model: Some(model), version, verb: verb(rest)? })
}

fn verb(rest: &str) -> Option<Verb> {
    let known = [
        ("", Verb::Status),
        ("/metadata", Verb::Metadata),
        (":predict", Verb::Predict),
        (":classify", Verb::Classify),
        (":regress", Verb::Regress),
    ];
    known.into_iter().find(|(text, _)| rest.eq_ignore_ascii_case(text)).map(|(_, verb)| verb)
}

fn version(rest: &str) -> Option<(Version<'_>, &str)> {
    if let Some(rest) = strip_prefix(rest, "/versions/") {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = rest.split_at(digits);
        return (digits > 0).then_some((Version::Number(number), rest));
    }
    if let Some(rest) = strip_prefix(rest, "/labels/") {
        let (label, rest) = name(rest)?;
        return Some((Version::Label(label), rest));
    }
    Some((Version::Latest, rest))
}

/// A name: everything up to the next slash or colon, at least one character.
fn name(text: &str) -> Option<(&str, &str)> {
    let end = text.find(['/', ':']).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let start = text.get(..prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use super::{Route, Verb, Version, parse};
    use proptest::prelude::*;

    #[test]
    fn every_form_of_the_patterns_reads() {
        for (path, model, version, verb) in [
            ("/v1/models/half:predict", "half", Version::Latest, Verb::Predict),
            ("/V1/Models/half/Versions/12:CLASSIFY", "half", Version::Number("12"), Verb::Classify),
            (
                "/v1/models/half/labels/stable:regress",
                "half",
                Version::Label("stable"),
                Verb::Regress,
            ),
            ("/v1/models/half", "half", Version::Latest, Verb::Status),
            ("/v1/models/half/versions/3/metadata", "half", Version::Number("3"), Verb::Metadata),
        ] {
            assert_eq!(parse(path), Some(Route { model: Some(model), version, verb }), "{path}");
        }
        assert_eq!(parse("/v1/models").unwrap().model, None);
    }

    #[test]
    fn anything_else_is_malformed() {
        for path in [
            "/v1",
            "/v1/foo",
            "/v1/models/",
            "/v1/models/half:explain",
            "/v1/models/half/versions/x",
            "/v1/models/half/versions/:predict",
            "/v1/models/half/versions/1/labels/a",
            "/v1/models/:predict",
            "/v1/modelsx",
            "/v1/models/half/metadata:predict",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "/v1/models.{0,40}") {
            let _route = parse(&path);
        }
    }
}
