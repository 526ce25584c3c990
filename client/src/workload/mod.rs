//! What is sent: a list of requests, made once before the clock runs.
//!
//! The body of a request is shared, never copied, so that sending a photo costs the sender no more
//! than sending a digit. Pictures come from a folder ([`pictures`]) or are made here
//! ([`generated`]); [`multipart`] wraps them as the original's client did.

pub mod generated;
pub mod iris;
pub mod metadata;
pub mod multipart;
pub mod pictures;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::Full;

use crate::error::Error;
use crate::experiment::{Protocol, Reuse, Trial};
use crate::target::Target;

/// How much of an answer is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Count its bytes.
    Ignore,
    /// The bare label, as a client that states no wish gets it.
    Label,
    /// The bare label if there is one; any other answer is as good.
    Whatever,
    /// The full prediction: the request asks for JSON.
    Prediction,
    /// The species in an answer of TensorFlow Serving's protocol.
    TfSpecies,
    /// The species in an answer of the Open Inference Protocol.
    OpenInferenceSpecies,
}

/// One request of a workload.
#[derive(Debug, Clone)]
pub struct Item {
    /// How tables and plots call it.
    pub name: String,
    /// `POST` in every workload but those that measure the empty path.
    pub method: Method,
    /// The whole body.
    pub body: Bytes,
    /// Its media type, if there is a body.
    pub content_type: Option<HeaderValue>,
    /// The right label.
    pub expected: Option<String>,
}

impl Item {
    /// A form with one picture, as the original's client posts it.
    pub fn picture(name: &str, picture: &[u8], servers: Option<u32>) -> Self {
        let form = multipart::form(servers, picture);
        Self {
            name: name.to_owned(),
            method: Method::POST,
            body: form.body,
            content_type: Some(form.content_type),
            expected: None,
        }
    }
}

/// A list of requests to one route of the target.
#[derive(Debug, Clone)]
pub struct Workload {
    items: Vec<Item>,
    heads: Vec<HeaderMap>,
    uri: Uri,
    absolute: Uri,
    reading: Reading,
}

impl Workload {
    /// Requests for `items` to `route`. Refuses an empty list: there would be nothing to send.
    pub fn try_new(
        target: &Target,
        route: &str,
        items: Vec<Item>,
        reading: Reading,
    ) -> Result<Self, Error> {
        if items.is_empty() {
            return Err(Error::Usage("nothing to send: the workload is empty".into()));
        }
        let parse = |text: String| {
            text.parse().map_err(|error| Error::Usage(format!("route {route}: {error}")))
        };
        let uri = parse(target.path(route))?;
        let absolute = parse(format!("http://{}{}", target.authority(), target.path(route)))?;
        let host = HeaderValue::from_str(&target.authority())
            .map_err(|error| Error::Usage(format!("target {target}: {error}")))?;
        let accept = match reading {
            Reading::Prediction => "application/json",
            Reading::Ignore
            | Reading::Label
            | Reading::Whatever
            | Reading::TfSpecies
            | Reading::OpenInferenceSpecies => "*/*",
        };
        let heads = items
            .iter()
            .map(|item| {
                let mut head = HeaderMap::from_iter([
                    (HOST, host.clone()),
                    (USER_AGENT, HeaderValue::from_static(AGENT)),
                    (ACCEPT, HeaderValue::from_static(accept)),
                ]);
                head.extend(item.content_type.clone().map(|value| (CONTENT_TYPE, value)));
                head
            })
            .collect();
        Ok(Self { items, heads, uri, absolute, reading })
    }

    /// The requests.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Where the requests go, below the target.
    pub fn route(&self) -> &str {
        self.uri.path()
    }

    /// How much of the answers is looked at.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// Request number `item`, as `trial` wants it on the wire.
    pub(crate) fn request(&self, item: usize, trial: &Trial) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.items[item].body.clone()));
        *request.method_mut() = self.items[item].method.clone();
        *request.headers_mut() = self.heads[item].clone();
        match trial.protocol {
            Protocol::Http1 => *request.uri_mut() = self.uri.clone(),
            Protocol::H2 => {
                // The authority travels in the request line of HTTP/2, not in a field.
                *request.uri_mut() = self.absolute.clone();
                *request.version_mut() = http::Version::HTTP_2;
                request.headers_mut().remove(HOST);
            }
        }
        if trial.reuse == Reuse::Close && trial.protocol == Protocol::Http1 {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        request
    }
}

const AGENT: &str = concat!("imagefleet-client/", env!("CARGO_PKG_VERSION"));

/// Whether two spellings name the same class: `Egyptian_cat` and `egyptian cat` do.
pub fn same_label(one: &str, other: &str) -> bool {
    let plain = |text: &str| text.trim().to_lowercase().replace('_', " ");
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::same_label;

    #[test]
    fn labels_compare_without_case_and_underscores() {
        assert!(same_label("Egyptian_cat", "egyptian cat"));
        assert!(!same_label("tabby", "tiger cat"));
    }
}
