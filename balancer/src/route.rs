//! What a request line asks for; pure.
//!
//! Every path that the balancer answers or forwards stands in [`route`], together with the methods
//! that it takes. Nothing here looks at headers or bodies.

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
    /// The model that must be served there, if the path names it: empty for the default model.
    pub model: Option<&'a str>,
    /// What the answer is for.
    pub purpose: Purpose,
}

/// What an answer is for, and thus who shapes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Passed on as it is.
    Api,
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
    let form = Forward { path: Some("/predict"), model: Some(""), purpose: Purpose::Form };
    let api = Forward { path: None, model: None, purpose: Purpose::Api };
    match path {
        "/submit" => only(posts, "POST", Route::Forward(form)),
        "/predict" => {
            let model = posts.then_some("");
            only(reads || posts, "GET, HEAD, POST", Route::Forward(Forward { model, ..api }))
        }
        "/" => only(reads, "GET, HEAD", Route::Page),
        "/home" if posts => Ok(Route::Forward(form)),
        "/home" => only(reads, "GET, HEAD, POST", Route::Page),
        "/mnist" => only(posts, "POST", Route::Forward(Forward { model: Some("mnist"), ..api })),
        "/post" if reads => Ok(Route::Home),
        "/post" => {
            let digit = Forward { model: Some("mnist"), purpose: Purpose::Digit, ..form };
            only(posts, "GET, HEAD, POST", Route::Forward(digit))
        }
        "/v2/health/live" => only(reads, "GET, HEAD", Route::Live),
        "/v2/health/ready" => only(reads, "GET, HEAD", Route::Ready),
        "/style.css" => only(reads, "GET, HEAD", Route::Asset(Asset::Style)),
        "/app.js" => only(reads, "GET, HEAD", Route::Asset(Asset::Script)),
        "/favicon.svg" | "/favicon.ico" => only(reads, "GET, HEAD", Route::Asset(Asset::Icon)),
        _ => match path.as_bytes() {
            [b'/', b'v' | b'V', b'1' | b'2', b'/', ..] | b"/v1" | b"/v2" => {
                Ok(Route::Forward(Forward { model: model_in(path), ..api }))
            }
            _ => Err(ProxyError::NotFound(format!("there is nothing at {}", shown(path)))),
        },
    }
}

/// The model that a `/v1/models/…` or `/v2/models/…` path names.
fn model_in(path: &str) -> Option<&str> {
    let rest = &path[3..];
    let after = rest.get(..8).filter(|start| start.eq_ignore_ascii_case("/models/"));
    after?;
    let name = rest[8..].split(['/', ':']).next()?;
    (!name.is_empty()).then_some(name)
}

/// A path that is fit to be repeated in an error message.
fn shown(path: &str) -> &str {
    let end = path.char_indices().nth(120).map_or(path.len(), |(end, _)| end);
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("/V1/Models/mnist/versions/3:predict", Some("mnist")),
            ("/v2/models/mnist/infer", Some("mnist")),
            ("/v2/repository/index", None),
            ("/v2", None),
            ("/v1/models", None),
            ("/v2/models/", None),
        ] {
            assert_eq!(forward(&Method::POST, path).model, model, "{path}");
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
}
