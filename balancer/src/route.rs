//! What a request line asks for; pure.
//!
//! Every path that the balancer answers or forwards stands in [`route`], together with the methods
//! that it takes. Nothing here looks at headers or bodies.

use std::borrow::Cow;

use http::Method;

use crate::error::ProxyError;

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// The upload page.
    Page,
    /// A file of the page.
    Asset(Asset),
    /// Is the balancer alive?
    Live,
    /// Can it take requests?
    Ready,
    /// Back to the page.
    Home,
    /// Forward to an endpoint.
    Forward(Forward<'a>),
}

/// A file of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asset {
    /// `style.css`
    Style,
    /// `app.js`
    Script,
    /// `favicon.svg`
    Icon,
}

/// How a request is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward<'a> {
    /// The path at the endpoint, where it is not the request's own.
    pub path: Option<&'static str>,
    /// The model that must be served there; none when any endpoint will do.
    pub model: Option<Model<'a>>,
    /// What the answer is for.
    pub purpose: Purpose,
}

/// The model that a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model<'a> {
    /// Its name; empty for the default model.
    pub name: &'a str,
    /// Which version of it.
    pub version: Version<'a>,
}

/// The version that a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version<'a> {
    /// The newest.
    Latest,
    /// `/versions/…`
    Number(&'a str),
    /// `/labels/…`
    Label(&'a str),
}

impl Model<'static> {
    /// The one that answers when none is named.
    pub const DEFAULT: Self = Self::latest("");
}

impl<'a> Model<'a> {
    /// The newest version of a model.
    const fn latest(name: &'a str) -> Self {
        Self { name, version: Version::Latest }
    }

    /// As the pool's snapshot looks it up.
    pub fn key(&self) -> Cow<'a, str> {
        match self.version {
            Version::Latest => Cow::Borrowed(self.name),
            Version::Number(version) | Version::Label(version) => {
                Cow::Owned(format!("{}/{version}", self.name))
            }
        }
    }
}

/// What an answer is for, and thus who shapes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Passed on as it is.
    Api,
    /// The same under `/v1`, where the balancer's own errors are worded as TF Serving's.
    TfServing,
    /// Load or unload a model: every endpoint carries it out.
    Order,
    /// The repository index: what all endpoints serve together.
    Index,
    /// `/submit` and its relatives: form fields count, a browser gets a page.
    Form,
    /// `/post`: the page of the digit projects.
    Digit,
}

/// Finds out what a request asks for.
pub fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>, ProxyError> {
    let reads = method == Method::GET || method == Method::HEAD;
    let posts = method == Method::POST;
    let only = |allowed: bool, allow: &'static str, route: Route<'a>| {
        if allowed {
            Ok(route)
        } else {
            Err(ProxyError::MethodNotAllowed { method: method.to_string(), allow })
        }
    };
    let (any, digits) = (Some(Model::DEFAULT), Some(Model::latest("mnist")));
    let form = Forward { path: Some("/predict"), model: any, purpose: Purpose::Form };
    let api = Forward { path: None, model: None, purpose: Purpose::Api };
    match path {
        "/submit" => only(posts, "POST", Route::Forward(form)),
        "/predict" => {
            let model = posts.then_some(Model::DEFAULT);
            only(reads || posts, "GET, HEAD, POST", Route::Forward(Forward { model, ..api }))
        }
        "/" => only(reads, "GET, HEAD", Route::Page),
        "/home" if posts => Ok(Route::Forward(form)),
        "/home" => only(reads, "GET, HEAD, POST", Route::Page),
        "/mnist" => only(posts, "POST", Route::Forward(Forward { model: digits, ..api })),
        "/post" if reads => Ok(Route::Home),
        "/post" => {
            let digit = Forward { model: digits, purpose: Purpose::Digit, ..form };
            only(posts, "GET, HEAD, POST", Route::Forward(digit))
        }
        "/v2/health/live" => only(reads, "GET, HEAD", Route::Live),
        "/v2/health/ready" => only(reads, "GET, HEAD", Route::Ready),
        "/style.css" => only(reads, "GET, HEAD", Route::Asset(Asset::Style)),
        "/app.js" => only(reads, "GET, HEAD", Route::Asset(Asset::Script)),
        "/favicon.svg" | "/favicon.ico" => only(reads, "GET, HEAD", Route::Asset(Asset::Icon)),
        _ => match path.as_bytes() {
            [b'/', b'v' | b'V', b'1', b'/', ..] | b"/v1" | b"/V1" => {
                let purpose = Purpose::TfServing;
                Ok(Route::Forward(Forward { model: model_in(path), purpose, ..api }))
            }
            _ if posts && path == wire::path::REPOSITORY_INDEX => {
                Ok(Route::Forward(Forward { purpose: Purpose::Index, ..api }))
            }
            _ if posts && is_order(path) => {
                Ok(Route::Forward(Forward { purpose: Purpose::Order, ..api }))
            }
            [b'/', b'v', b'2', b'/', ..] | b"/v2" => {
                Ok(Route::Forward(Forward { model: model_in(path), ..api }))
            }
            _ => Err(ProxyError::NotFound(format!("there is nothing at {}", shown(path)))),
        },
    }
}

/// The model that a `/v1/models/…` or `/v2/models/…` path names.
///
/// A name in percent encoding is left to the endpoints, who know its spelling.
fn model_in(path: &str) -> Option<Model<'_>> {
    let rest = strip(&path[3..], "/models/").filter(|rest| *rest != "stats")?;
    let end = |text: &str| text.find(['/', ':']).unwrap_or(text.len());
    let (name, rest) = rest.split_at(end(rest));
    if name.is_empty() || name.contains('%') {
        return None;
    }
    let version = if let Some(rest) = strip(rest, "/versions/") {
        Version::Number(&rest[..end(rest)])
    } else if let Some(rest) = strip(rest, "/labels/") {
        Version::Label(&rest[..end(rest)])
    } else {
        Version::Latest
    };
    Some(Model { name, version })
}

/// Whether a path is `/v2/repository/models/…/load` or `…/unload`.
fn is_order(path: &str) -> bool {
    let rest = path.strip_prefix("/v2/repository/models/").and_then(|rest| rest.split_once('/'));
    matches!(rest, Some((_, "load" | "unload")))
}

/// What follows `prefix`, letter case ignored.
fn strip<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let start = text.get(..prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

impl Forward<'_> {
    /// The same error, in the words of the protocol that was spoken.
    pub fn worded(&self, error: ProxyError) -> ProxyError {
        match (self.purpose, self.model, error) {
            (Purpose::TfServing, Some(Model { name, version }), ProxyError::NotFound(_)) => {
                let wanted = match version {
                    Version::Latest => format!("Latest({name})"),
                    Version::Number(number) => format!("Specific({name}, {number})"),
                    Version::Label(label) => {
                        let text = format!("Unrecognized servable version label: {label}");
                        return ProxyError::BadRequest(text.into());
                    }
                };
                ProxyError::NotFound(format!("Servable not found for request: {wanted}"))
            }
            (_, _, error) => error,
        }
    }
}

/// A path that is fit to be repeated in an error message.
fn shown(path: &str) -> &str {
    let end = path.char_indices().nth(120).map_or(path.len(), |(end, _)| end);
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forward<'a>(method: &Method, path: &'a str) -> Forward<'a> {
        match route(method, path) {
            Ok(Route::Forward(forward)) => forward,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn submit_is_predict_at_the_endpoint() {
        let submit = forward(&Method::POST, "/submit");
        assert_eq!(submit.path, Some("/predict"));
        assert_eq!(submit.purpose, Purpose::Form);
        assert_eq!(forward(&Method::POST, "/predict").path, None);
    }

    #[test]
    fn the_wrong_method_is_told_the_right_one() {
        for (method, path, expected) in [
            (Method::GET, "/submit", "POST"),
            (Method::DELETE, "/", "GET, HEAD"),
            (Method::PUT, "/mnist", "POST"),
            (Method::TRACE, "/predict", "GET, HEAD, POST"),
        ] {
            match route(&method, path) {
                Err(ProxyError::MethodNotAllowed { allow, .. }) => assert_eq!(allow, expected),
                other => panic!("{method} {path}: {other:?}"),
            }
        }
    }

    #[test]
    fn protocol_paths_name_their_model() {
        for (path, model) in [
            ("/v1/models/iris_model:predict", Some("iris_model")),
            ("/V1/Models/mnist/Versions/3:predict", Some("mnist/3")),
            ("/v1/models/mnist/labels/stable/metadata", Some("mnist/stable")),
            ("/v2/models/mnist/infer", Some("mnist")),
            ("/v2/models/mnist/versions/2/infer", Some("mnist/2")),
            ("/v2/models/my%20model/infer", None),
            ("/v2/models/stats", None),
            ("/v2/repository/index", None),
            ("/v2", None),
            ("/v1/models", None),
            ("/v2/models/", None),
        ] {
            let named = forward(&Method::POST, path).model;
            assert_eq!(named.map(|model| model.key()).as_deref(), model, "{path}");
        }
    }

    #[test]
    fn orders_to_the_model_repository_are_for_every_endpoint() {
        let purpose = |path| forward(&Method::POST, path).purpose;
        assert_eq!(purpose("/v2/repository/models/mnist/load"), Purpose::Order);
        assert_eq!(purpose("/v2/repository/models/mnist/unload"), Purpose::Order);
        assert_eq!(purpose("/v2/repository/index"), Purpose::Index);
    }

    #[test]
    fn an_unknown_model_is_told_in_the_words_of_the_protocol() {
        let told = |path| {
            let unknown = ProxyError::NotFound("nobody serves it".to_owned());
            forward(&Method::POST, path).worded(unknown).to_string()
        };
        for (path, text) in [
            ("/v1/models/half:predict", "Servable not found for request: Latest(half)"),
            ("/v1/models/half/versions/50", "Servable not found for request: Specific(half, 50)"),
            ("/v1/models/half/labels/best", "Unrecognized servable version label: best"),
            ("/v2/models/half", "nobody serves it"),
        ] {
            assert_eq!(told(path), text);
        }
    }

    #[test]
    fn unknown_paths_are_not_forwarded() {
        for path in ["/nothing", "/v3/x", "/predict/", "*", "/v1x", "", "/metrics"] {
            assert!(matches!(route(&Method::GET, path), Err(ProxyError::NotFound(_))), "{path}");
        }
    }

    #[test]
    fn strange_paths_do_not_panic() {
        for path in ["/v1/é", "/v1/modelé/x", "/v2/models/é", "/é"] {
            let _answer = route(&Method::GET, path);
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "/(v1|V1|v2)?(/models)?.{0,40}") {
            if let Ok(Route::Forward(forward)) = route(&Method::POST, &path) {
                let _key = forward.model.map(|model| model.key());
                let _worded = forward.worded(ProxyError::NotFound(String::new()));
            }
        }
    }
}
