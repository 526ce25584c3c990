//! What is sent: a list of requests, built once before the clock starts.
//!
//! The body of a request is shared, never copied, so that sending a photo costs the sender no more
//! than sending a digit. Pictures come from a folder ([`pictures`]) or are made here
//! ([`generated`]); [`multipart`] wraps them as the original's client did. [`Custom`] is what the
//! user changes in all of them.

pub mod custom;
pub(crate) mod fingerprint;
pub mod generated;
pub mod har;
pub mod iris;
pub mod metadata;
pub mod multipart;
pub mod pictures;
pub mod seeds;
mod statuses;
mod travel;

use bytes::Bytes;
pub use custom::Custom;
use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, USER_AGENT,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
pub use statuses::Statuses;
pub(crate) use travel::Packed;

use crate::error::Error;
use crate::experiment::Reuse;
use crate::sample::Outcome;
use crate::target::Target;

/// How much of an answer is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// Only count its bytes.
    Ignore,
    /// The bare label, as sent to a client that states no preference.
    Label,
    /// The bare label if there is one; any other answer will do as well.
    Whatever,
    /// The full prediction: the request asks for JSON.
    Prediction,
    /// The digit in the message of `/mnist`.
    Message,
    /// The digit on the page of `/post`.
    Page,
    /// The species in an answer of TensorFlow Serving's protocol.
    TfSpecies,
    /// The species in an answer of the Open Inference Protocol.
    OpenInferenceSpecies,
}

/// One request of a workload.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its name in tables and plots.
    pub name: String,
    /// `POST` for pictures; recorded requests and `-X` may have any other.
    pub method: Method,
    /// The body that is sent, whole.
    pub body: Bytes,
    /// Its media type, if there is a body.
    pub content_type: Option<HeaderValue>,
    /// The label of a correct answer.
    pub expected: Option<String>,
    /// Where it goes, if that is not the route of the workload.
    pub route: Option<String>,
    /// Header fields of its own, which replace those that every request has.
    pub headers: HeaderMap,
}

impl Item {
    /// A request with this body, which may be empty, and its media type, if it has one.
    pub fn new(name: &str, method: Method, body: Bytes, content_type: Option<HeaderValue>) -> Self {
        Self {
            name: name.to_owned(),
            method,
            body,
            content_type,
            expected: None,
            route: None,
            headers: HeaderMap::new(),
        }
    }

    /// A form with one picture, as the original's client posts it.
    pub fn picture(name: &str, picture: &[u8], servers: Option<u32>) -> Self {
        let form = multipart::form(servers, wire::field::IMAGE, picture);
        Self::new(name, Method::POST, form.body, Some(form.content_type))
    }
}

/// A list of requests to the target.
#[derive(Debug, Clone)]
pub struct Workload {
    items: Vec<Item>,
    heads: Vec<Head>,
    reading: Reading,
    statuses: Option<Statuses>,
}

/// A request as it is sent over HTTP/1.1.
#[derive(Debug, Clone, Default)]
pub(crate) struct WireRequest {
    /// Everything up to and including the empty line.
    pub(crate) head: Bytes,
    /// As long as the head says.
    pub(crate) body: Bytes,
    /// Whether its answer has no body, whatever its head says.
    pub(crate) is_head: bool,
}

/// The head of a request.
#[derive(Debug, Clone)]
struct Head {
    /// As in the request line of HTTP/1.
    uri: Uri,
    /// With scheme and authority, as HTTP/2 needs it.
    absolute: Uri,
    fields: HeaderMap,
}

impl Head {
    fn try_new(
        target: &Target,
        route: &str,
        item: &Item,
        accept: &'static str,
    ) -> Result<Self, Error> {
        let route = item.route.as_deref().unwrap_or(route);
        let parse = |text: String| {
            text.parse().map_err(|error| Error::Usage(format!("route {route}: {error}")))
        };
        let path = target.path(route);
        let absolute = parse(format!("{}://{}{path}", target.scheme(), target.authority()))?;
        let host = HeaderValue::from_str(&target.authority())
            .map_err(|error| Error::Usage(format!("target {target}: {error}")))?;
        let mut fields = HeaderMap::from_iter([
            (HOST, host),
            (USER_AGENT, HeaderValue::from_static(AGENT)),
            (ACCEPT, HeaderValue::from_static(accept)),
        ]);
        fields.extend(item.content_type.clone().map(|value| (CONTENT_TYPE, value)));
        let mut head = Self { uri: parse(path)?, absolute, fields };
        head.replace(&item.headers)?;
        Ok(head)
    }

    /// Replaces the fields of the same names with `fields`.
    fn replace(&mut self, fields: &HeaderMap) -> Result<(), Error> {
        for name in fields.keys() {
            self.fields.remove(name);
            for value in fields.get_all(name) {
                self.fields.append(name, value.clone());
            }
        }
        // HTTP/2 names the host in `:authority`, which hyper takes from the URI.
        if let Some(host) = fields.get(HOST) {
            let mut parts = self.absolute.clone().into_parts();
            let authority = Authority::try_from(host.as_bytes());
            parts.authority =
                Some(authority.map_err(|error| Error::Usage(format!("header host: {error}")))?);
            self.absolute =
                Uri::from_parts(parts).map_err(|error| Error::Usage(format!("host: {error}")))?;
        }
        Ok(())
    }
}

impl Workload {
    /// Requests for `items` to `route`, or to the routes that they name. Refuses an empty list: there
    /// would be nothing to send.
    pub fn try_new(
        target: &Target,
        route: &str,
        items: Vec<Item>,
        reading: Reading,
    ) -> Result<Self, Error> {
        if items.is_empty() {
            return Err(Error::Usage("nothing to send: the workload is empty".into()));
        }
        let accept = match reading {
            Reading::Prediction => "application/json",
            Reading::Page => "text/html",
            Reading::Ignore
            | Reading::Label
            | Reading::Whatever
            | Reading::Message
            | Reading::TfSpecies
            | Reading::OpenInferenceSpecies => "*/*",
        };
        let heads = items.iter().map(|item| Head::try_new(target, route, item, accept));
        let heads = heads.collect::<Result<_, _>>()?;
        Ok(Self { items, heads, reading, statuses: None })
    }

    /// The same requests with the user's own method, fields and statuses.
    pub fn customised(mut self, custom: &Custom) -> Result<Self, Error> {
        for head in &mut self.heads {
            head.replace(&custom.headers)?;
        }
        if let Some(method) = &custom.method {
            for item in &mut self.items {
                item.method = method.clone();
            }
        }
        self.statuses.clone_from(&custom.statuses);
        Ok(self)
    }

    /// The requests that are sent in turn.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The path of the first request, including that of the target.
    pub fn route(&self) -> &str {
        self.heads.first().map_or("", |head| head.uri.path())
    }

    /// How much of the answers is looked at.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// The outcome of an answer with this status.
    pub(crate) fn outcome(&self, status: StatusCode) -> Outcome {
        let number = status.as_u16();
        let is_expected = self.statuses.as_ref().map(|statuses| statuses.contains(number));
        match (is_expected, status.is_success()) {
            (Some(true), false) => Outcome::Expected(number),
            (Some(false), true) => Outcome::Unexpected(number),
            _ => Outcome::Answered(number),
        }
    }

    /// Request number `item` over HTTP/1.1.
    pub(crate) fn over_http1(&self, item: usize, reuse: Reuse) -> WireRequest {
        let (Item { method, body, .. }, Head { uri, fields, .. }) =
            (&self.items[item], &self.heads[item]);
        let mut head = format!("{method} {uri} HTTP/1.1\r\n").into_bytes();
        let mut write = |name: &HeaderName, value: &[u8]| {
            head.extend_from_slice(&[name.as_str().as_bytes(), b": ", value, b"\r\n"].concat());
        };
        fields.iter().for_each(|(name, value)| write(name, value.as_bytes()));
        if reuse == Reuse::Close {
            write(&CONNECTION, b"close");
        }
        if !body.is_empty() || [Method::POST, Method::PUT, Method::PATCH].contains(method) {
            write(&CONTENT_LENGTH, body.len().to_string().as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        WireRequest { head: head.into(), body: body.clone(), is_head: *method == Method::HEAD }
    }

    /// Request number `item` over HTTP/2.
    pub(crate) fn over_h2(&self, item: usize) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.items[item].body.clone()));
        let head = &self.heads[item];
        *request.method_mut() = self.items[item].method.clone();
        *request.headers_mut() = head.fields.clone();
        *request.uri_mut() = head.absolute.clone();
        *request.version_mut() = http::Version::HTTP_2;
        // HTTP/2 sends the authority as `:authority`, not as a field.
        request.headers_mut().remove(HOST);
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
