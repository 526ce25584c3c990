//! Determines what a request line asks for; pure.
//!
//! Every path that the balancer answers or forwards is in [`route`], with the methods that it
//! accepts. Nothing here looks at headers or bodies.

use http::{Method, StatusCode};
use message::{Model, open_inference, tf_serving};
use wire::{join, path};

use crate::error::ProxyError;
use crate::page::Asset;

/// How to handle a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route<'a> {
    /// Show the upload page.
    Page,
    /// A file of the page, and whether its content never changes.
    Asset(&'static Asset, bool),
    /// The status for open pages.
    Status,
    /// The same as a stream of changes.
    Events,
    /// Is the balancer alive?
    Live,
    /// Can it take requests?
    Ready,
    /// Back to the page.
    Home,
    /// A worker joins the fleet, or leaves it.
    Membership(Membership),
    /// Forward to an endpoint.
    Forward(Forward<'a>),
}

/// The request of a worker to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// The worker joins the fleet, or renews its lease.
    Join,
    /// The worker leaves the fleet.
    Leave,
}

/// How a request is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward<'a> {
    /// The path at the endpoint, if it differs from the request's own.
    pub path: Option<&'static str>,
    /// Where the request names the model that the endpoint must serve.
    pub naming: Naming<'a>,
    /// The purpose of the answer.
    pub purpose: Purpose,
}

/// How a request names its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming<'a> {
    /// It needs none: any endpoint will do.
    Nowhere,
    /// It is named in the path.
    Path(Model<'a>),
    /// It is named in the query or in a field of the form, if at all.
    Submission,
    /// By the route: an image for this model, regardless of what else it names.
    Route(&'static str),
}

/// The purpose of an answer, which determines its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Passed on unchanged.
    Api,
    /// The same under `/v1`, where the balancer words its own errors as TF Serving does.
    TfServing,
    /// Load or unload a model at every endpoint.
    ModelControl,
    /// The repository index: what all endpoints serve together.
    Index,
    /// `/submit` and its relatives: form fields apply, and a browser gets a page.
    Form,
    /// `/post`: the page of the digit projects.
    Digit,
}

/// Determines what a request asks for.
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
    let form =
        Forward { path: Some(path::PREDICT), naming: Naming::Submission, purpose: Purpose::Form };
    let api = |naming| Forward { path: None, naming, purpose: Purpose::Api };
    match path {
        path::SUBMIT => only(posts, "POST", Route::Forward(form)),
        path::PREDICT => {
            let naming = if posts { Naming::Submission } else { Naming::Nowhere };
            only(reads || posts, "GET, HEAD, POST", Route::Forward(api(naming)))
        }
        path::PAGE => only(reads, "GET, HEAD", Route::Page),
        path::HOME if posts => Ok(Route::Forward(form)),
        path::HOME => only(reads, "GET, HEAD, POST", Route::Page),
        path::MNIST => only(posts, "POST", Route::Forward(api(Naming::Route(DIGITS)))),
        "/post" if reads => Ok(Route::Home),
        "/post" => {
            let digit = Forward { purpose: Purpose::Digit, ..form };
            only(posts, "GET, HEAD, POST", Route::Forward(digit))
        }
        path::LIVE => only(reads, "GET, HEAD", Route::Live),
        path::READY => only(reads, "GET, HEAD", Route::Ready),
        path::STATUS => only(reads, "GET, HEAD", Route::Status),
        path::EVENTS => only(method == Method::GET, "GET", Route::Events),
        join::JOIN => only(posts, "POST", Route::Membership(Membership::Join)),
        join::LEAVE => only(posts, "POST", Route::Membership(Membership::Leave)),
        _ if tf_serving::owns(path) => {
            let naming = Naming::Path(tf_serving::read(method, path)?.model);
            Ok(Route::Forward(Forward { purpose: Purpose::TfServing, ..api(naming) }))
        }
        _ => match open_inference::read(path)? {
            Some(request) => Ok(Route::Forward(open_inference(request, posts))),
            None => match Asset::find(path) {
                Some((asset, is_final)) => only(reads, "GET, HEAD", Route::Asset(asset, is_final)),
                None => Err(ProxyError::NotFound(format!("there is nothing at {}", shown(path)))),
            },
        },
    }
}

/// The model of the digit routes.
const DIGITS: &str = "mnist";

/// How a request of the Open Inference Protocol is forwarded.
fn open_inference(request: open_inference::Request<'_>, posts: bool) -> Forward<'_> {
    use open_inference::Request;
    let (naming, purpose) = match request {
        Request::Model(model, _) => (Naming::Path(model), Purpose::Api),
        Request::Index if posts => (Naming::Nowhere, Purpose::Index),
        Request::Control(_) if posts => (Naming::Nowhere, Purpose::ModelControl),
        // With a wrong method, the endpoint reports the right one.
        Request::Server | Request::Statistics | Request::Index | Request::Control(_) => {
            (Naming::Nowhere, Purpose::Api)
        }
    };
    Forward { path: None, naming, purpose }
}

impl Forward<'_> {
    /// The query at the endpoint; `own` is that of the request.
    pub fn query<'a>(&self, own: Option<&'a str>) -> Option<&'a str> {
        if self.purpose == Purpose::Digit { Some("model=mnist") } else { own }
    }

    /// The same error, worded for the protocol of the request.
    pub fn worded(&self, error: ProxyError) -> ProxyError {
        match (self.purpose, &self.naming, error) {
            (Purpose::TfServing, Naming::Path(model), ProxyError::NotFound(_)) => {
                match tf_serving::missing(model) {
                    (StatusCode::NOT_FOUND, text) => ProxyError::NotFound(text),
                    (_, text) => ProxyError::BadRequest(text.into()),
                }
            }
            (_, _, error) => error,
        }
    }
}

/// A path, shortened for an error message.
fn shown(path: &str) -> &str {
    let end = path.char_indices().nth(120).map_or(path.len(), |(end, _)| end);
    &path[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            ("/v1/models/iris%5Fmodel:predict", Some("iris_model")),
            ("/V1/Models/mnist/Versions/3:predict", Some("mnist/3")),
            ("/v1/models/mnist/labels/stable:predict", Some("mnist/labels/stable")),
            ("/v2/models/mnist/infer", Some("mnist")),
            ("/v2/models/mnist/versions/02/infer", Some("mnist/2")),
            ("/v2/models/my%20model/infer", Some("my model")),
            ("/v2/models/stats", None),
            ("/v2/repository/index", None),
            ("/v2", None),
        ] {
            let named = match forward(&Method::POST, path).naming {
                Naming::Path(model) => Some(model.key().into_owned()),
                Naming::Nowhere | Naming::Submission | Naming::Route(_) => None,
            };
            assert_eq!(named.as_deref(), model, "{path}");
        }
    }

    #[test]
    fn malformed_requests_of_tf_serving_are_refused_here() {
        for (path, text) in [
            ("/v1/models/half:explain", "Malformed request: GET /v1/models/half:explain"),
            ("/v1/foo", "Malformed request: GET /v1/foo"),
            ("/v1/models/half:predict", "Malformed request: GET /v1/models/half:predict"),
            ("/v1/models", "Missing model name in request."),
        ] {
            let refused = ProxyError::BadRequest(text.into());
            assert_eq!(route(&Method::GET, path), Err(refused), "{path}");
        }
    }

    #[test]
    fn orders_to_the_model_repository_are_for_every_endpoint() {
        let purpose = |path| forward(&Method::POST, path).purpose;
        assert_eq!(purpose("/v2/repository/models/mnist/load"), Purpose::ModelControl);
        assert_eq!(purpose("/v2/repository/models/mnist/unload"), Purpose::ModelControl);
        assert_eq!(purpose("/v2/repository/index"), Purpose::Index);
    }

    #[test]
    fn an_unknown_model_is_told_in_the_words_of_the_protocol() {
        let told = |path| {
            let unknown = ProxyError::NotFound("no endpoint serves it".to_owned());
            forward(&Method::GET, path).worded(unknown).to_string()
        };
        for (path, text) in [
            ("/v1/models/half", "Servable not found for request: Latest(half)"),
            ("/v1/models/half/versions/50", "Servable not found for request: Specific(half, 50)"),
            ("/v1/models/half/labels/best", "Unrecognized servable version label: best"),
            ("/v2/models/half", "no endpoint serves it"),
        ] {
            assert_eq!(told(path), text);
        }
    }

    #[test]
    fn unknown_paths_are_not_forwarded() {
        for path in
            ["/nothing", "/v3/x", "/predict/", "*", "/v1x", "", "/metrics", "/v2/models", "/v2/x"]
        {
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
                let _worded = forward.worded(ProxyError::NotFound(String::new()));
            }
        }
    }
}
