//! The paths under `/v2` of the Open Inference Protocol and its extensions.

use std::borrow::Cow;

use crate::model::{Model, Version, is_name};
use crate::{Refusal, malformed, percent, shown};

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Name, version and extensions of the server.
    Server,
    /// The statistics of all models.
    Statistics,
    /// One model or version: its metadata, or what the last word of the path asks for.
    Model(Model<'a>, Verb),
    /// Everything in the model repository.
    Index,
    /// Load or unload a model.
    Control(Cow<'a, str>),
}

/// What is asked of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Its inputs and outputs.
    Metadata,
    /// Whether it answers.
    Ready,
    /// `/config`: its batching and layout.
    Config,
    /// `/stats`: its counts and times.
    Statistics,
    /// `/infer`: outputs for inputs.
    Infer,
}

/// Reads a path; `None` if there is no such route.
pub fn read(path: &str) -> Result<Option<Request<'_>>, Refusal> {
    let Some(rest) = path.strip_prefix("/v2") else { return Ok(None) };
    if matches!(rest, "" | "/") {
        return Ok(Some(Request::Server));
    }
    let mut words = [""; 5];
    let mut count = 0;
    for word in rest.get(1..).unwrap_or_default().split('/') {
        let Some(slot) = words.get_mut(count) else { return Ok(None) };
        *slot = word;
        count += 1;
    }
    if !rest.starts_with('/') || words[..count].contains(&"") {
        return Ok(None);
    }
    match words[..count] {
        ["models", "stats"] => Ok(Some(Request::Statistics)),
        ["repository", "index"] => Ok(Some(Request::Index)),
        ["repository", "models", model, "load" | "unload"] => {
            Ok(Some(Request::Control(name(model)?)))
        }
        ["models", model, "versions", version] => versioned(model, version, Verb::Metadata),
        ["models", model] => latest(model, Verb::Metadata),
        ["models", model, word] => verb(word).map_or(Ok(None), |verb| latest(model, verb)),
        ["models", model, "versions", version, word] => {
            verb(word).map_or(Ok(None), |verb| versioned(model, version, verb))
        }
        _ => Ok(None),
    }
}

/// The request of a known path, or why its names are invalid.
type Known<'a> = Result<Option<Request<'a>>, Refusal>;

fn latest(model: &str, verb: Verb) -> Known<'_> {
    Ok(Some(Request::Model(Model { name: name(model)?, version: Version::Latest }, verb)))
}

fn versioned<'a>(model: &'a str, version: &'a str, verb: Verb) -> Known<'a> {
    let version = Version::read(name(version)?);
    Ok(Some(Request::Model(Model { name: name(model)?, version }, verb)))
}

fn verb(word: &str) -> Option<Verb> {
    match word {
        "ready" => Some(Verb::Ready),
        "config" => Some(Verb::Config),
        "stats" => Some(Verb::Statistics),
        "infer" => Some(Verb::Infer),
        _ => None,
    }
}

fn name(text: &str) -> Result<Cow<'_, str>, Refusal> {
    percent::decode_text(text).filter(|name| is_name(name)).ok_or_else(|| {
        malformed(format!("\"{}\" in the path is not a name", shown(text.as_bytes())))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model(name: &'static str, version: Version<'static>, verb: Verb) -> Request<'static> {
        Request::Model(Model { name: name.into(), version }, verb)
    }

    #[test]
    fn every_path_of_the_protocol_reads() {
        let (latest, two) = (Version::Latest, Version::Number(2));
        let stable = Version::Label("stable".into());
        for (path, expected) in [
            ("/v2", Request::Server),
            ("/v2/", Request::Server),
            ("/v2/models/stats", Request::Statistics),
            ("/v2/repository/index", Request::Index),
            ("/v2/repository/models/a%20b/unload", Request::Control("a b".into())),
            ("/v2/models/m", model("m", latest.clone(), Verb::Metadata)),
            ("/v2/models/iris%5Fmodel/infer", model("iris_model", latest.clone(), Verb::Infer)),
            ("/v2/models/m/versions/02", model("m", two.clone(), Verb::Metadata)),
            ("/v2/models/m/versions/2/ready", model("m", two, Verb::Ready)),
            ("/v2/models/m/versions/stable/stats", model("m", stable, Verb::Statistics)),
            ("/v2/models/stats/config", model("stats", latest.clone(), Verb::Config)),
            ("/v2/models/versions/infer", model("versions", latest, Verb::Infer)),
        ] {
            assert_eq!(read(path), Ok(Some(expected)), "{path}");
        }
    }

    #[test]
    fn there_is_nothing_elsewhere_and_bad_names_are_told() {
        for path in [
            "/V2",
            "/v2x",
            "/v2/models",
            "/v2/models/",
            "/v2//models/m",
            "/v2/models//infer",
            "/v2/models/m/infer/",
            "/v2/models/m/explain",
            "/v2/models/m/versions",
            "/v2/models/m/versions/1/2/3",
            "/v2/Models/m",
            "/v2/m%6Fdels/m",
            "/v2/repository/models/m",
        ] {
            let none = matches!(read(path), Ok(None));
            // `versions` alone is not a verb.
            assert!(none, "{path}: {:?}", read(path));
        }
        for path in ["/v2/models/%zz/infer", "/v2/models/a%2Fb", "/v2/models/m/versions/%C3"] {
            assert!(matches!(read(path), Err(Refusal::Malformed(_))), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "/(v2)?(/models)?(/versions)?.{0,40}") {
            let _request = read(&path);
        }
    }
}
