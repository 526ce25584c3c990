//! The paths under `/v1`, matched like the two patterns of TF Serving: without regard to case.

use http::{Method, StatusCode};

use crate::model::{Model, Version, name_in};
use crate::{Refusal, malformed};

/// A request that TF Serving knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// The model that it names.
    pub model: Model<'a>,
    /// What is asked of it.
    pub verb: Verb,
}

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `:predict`
    Predict,
    /// `:classify`
    Classify,
    /// `:regress`
    Regress,
    /// The states of a model's versions.
    Status,
    /// `/metadata`
    Metadata,
}

impl Verb {
    /// Whether the model is run, on the body of a POST; the other verbs only read.
    pub fn runs_the_model(self) -> bool {
        match self {
            Self::Predict | Self::Classify | Self::Regress => true,
            Self::Status | Self::Metadata => false,
        }
    }
}

/// Whether a path belongs to TF Serving's API, valid or not.
pub fn owns(path: &str) -> bool {
    strip_prefix(path, "/v1").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Reads a request line; the refusals have TF Serving's texts.
pub fn read<'a>(method: &Method, path: &'a str) -> Result<Request<'a>, Refusal> {
    let bad = || malformed(format!("Malformed request: {method} {path}"));
    let Parsed { model, version, verb } = parse(path).ok_or_else(bad)?;
    let wanted = if verb.runs_the_model() { Method::POST } else { Method::GET };
    if *method != wanted {
        return Err(bad());
    }
    let name = model.ok_or_else(|| malformed("Missing model name in request."))?;
    let version = match version {
        Text::Latest => Version::Latest,
        Text::Label(label) => Version::Label(label),
        Text::Number(digits) => {
            let number = digits.parse::<i64>().ok().and_then(|number| number.try_into().ok());
            Version::Number(number.ok_or_else(|| {
                malformed(format!("Failed to convert version: {digits} to numeric."))
            })?)
        }
    };
    Ok(Request { model: Model { name, version }, verb })
}

/// The answer for a model, a version or a label that does not exist.
pub fn missing(model: &Model<'_>) -> (StatusCode, String) {
    let text = match &model.version {
        Version::Label(label) => {
            let text = format!("Unrecognized servable version label: {label}");
            return (StatusCode::BAD_REQUEST, text);
        }
        Version::Latest | Version::Number(_) => wanted(model),
    };
    (StatusCode::NOT_FOUND, format!("Servable not found for request: {text}"))
}

/// A model as the error texts name it.
pub fn wanted(model: &Model<'_>) -> String {
    match &model.version {
        Version::Latest => format!("Latest({})", model.name),
        Version::Number(number) => format!("Specific({}, {number})", model.name),
        Version::Label(label) => label.clone().into_owned(),
    }
}

/// A name in a path.
type Name<'a> = std::borrow::Cow<'a, str>;

/// The parts of a path.
struct Parsed<'a> {
    model: Option<Name<'a>>,
    version: Text<'a>,
    verb: Verb,
}

/// A version as written in a path.
enum Text<'a> {
    Latest,
    /// Decimal digits, any number of them.
    Number(&'a str),
    Label(Name<'a>),
}

fn parse(path: &str) -> Option<Parsed<'_>> {
    let rest = strip_prefix(path, "/v1/models")?;
    if rest.is_empty() {
        return Some(Parsed { model: None, version: Text::Latest, verb: Verb::Status });
    }
    let (model, rest) = name_in(rest.strip_prefix('/')?, b"/:")?;
    let (version, rest) = version(rest)?;
    Some(Parsed { model: Some(model), version, verb: verb(rest)? })
}

fn version(rest: &str) -> Option<(Text<'_>, &str)> {
    if let Some(rest) = strip_prefix(rest, "/versions/") {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = rest.split_at(digits);
        return (digits > 0).then_some((Text::Number(number), rest));
    }
    if let Some(rest) = strip_prefix(rest, "/labels/") {
        let (label, rest) = name_in(rest, b"/:")?;
        return Some((Text::Label(label), rest));
    }
    Some((Text::Latest, rest))
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

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let start = text.get(..prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(name: &'static str, number: u64) -> Model<'static> {
        Model { name: name.into(), version: Version::Number(number) }
    }

    #[test]
    fn every_form_of_the_patterns_reads() {
        let stable = Model { name: "half".into(), version: Version::Label("stable".into()) };
        for (path, model, verb) in [
            ("/v1/models/half:predict", Model::latest("half"), Verb::Predict),
            ("/V1/Models/half/Versions/12:CLASSIFY", number("half", 12), Verb::Classify),
            ("/v1/models/half/labels/stable:regress", stable, Verb::Regress),
            ("/v1/models/half", Model::latest("half"), Verb::Status),
            ("/v1/models/half/versions/3/metadata", number("half", 3), Verb::Metadata),
            ("/v1/models/iris%5Fmodel:predict", Model::latest("iris_model"), Verb::Predict),
            ("/v1/models/iris%5fmodel/versions/01:predict", number("iris_model", 1), Verb::Predict),
            ("/v1/models/a%3Apredict", Model::latest("a:predict"), Verb::Status),
        ] {
            let method = if verb.runs_the_model() { Method::POST } else { Method::GET };
            assert_eq!(read(&method, path), Ok(Request { model, verb }), "{path}");
        }
    }

    #[test]
    fn anything_else_is_refused_in_the_words_of_the_protocol() {
        for path in [
            "/v1",
            "/v1/",
            "/v1/foo",
            "/v1/models/",
            "/v1/models/half:explain",
            "/v1/models/half/versions/x",
            "/v1/models/half/versions/:predict",
            "/v1/models/half/versions/1/labels/a",
            "/v1/models/:predict",
            "/v1/modelsx",
            "/v1/models/half/metadata:predict",
            "/v1/models/half/",
            "/v1/models/a%2Fb:predict",
            "/v1/models/a%zz",
            "/v1/models/half:predict",
            "/v1/models/%C3",
        ] {
            let text = format!("Malformed request: GET {path}");
            assert_eq!(read(&Method::GET, path), Err(malformed(text)), "{path}");
        }
        let said = |path| read(&Method::GET, path).expect_err("refused").to_string();
        assert_eq!(said("/v1/models"), "Missing model name in request.");
        assert_eq!(
            said("/v1/models/m/versions/9223372036854775808"),
            "Failed to convert version: 9223372036854775808 to numeric."
        );
        assert!(read(&Method::POST, "/v1/models/half").is_err());
        assert!(read(&Method::HEAD, "/v1/models/half").is_err());
    }

    #[test]
    fn what_is_not_there_is_told_as_it_was_asked_for() {
        let told = |path| missing(&read(&Method::GET, path).expect("it reads").model);
        let not_found = |text: &str| (StatusCode::NOT_FOUND, text.to_owned());
        assert_eq!(
            told("/v1/models/half"),
            not_found("Servable not found for request: Latest(half)")
        );
        let specific = "Servable not found for request: Specific(half, 50)";
        assert_eq!(told("/v1/models/half/versions/50"), not_found(specific));
        let label = "Unrecognized servable version label: best".to_owned();
        assert_eq!(told("/v1/models/half/labels/best"), (StatusCode::BAD_REQUEST, label));
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "/(v1|V1)?(/models)?.{0,40}", post in any::<bool>()) {
            let _owns = owns(&path);
            let _route = read(if post { &Method::POST } else { &Method::GET }, &path);
        }
    }
}
