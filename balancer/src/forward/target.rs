//! Where a request may go: the model it asks for and how many endpoints take part.
//!
//! The path, the query and the form fields may all name a model; the most explicit one counts. What
//! is not said here is left to the worker.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use http::{Uri, header, request};

use crate::error::ProxyError;
use crate::form;
use crate::lane::{Lane, Wanted};
use crate::policy::{self, Kind};
use crate::route::{Forward, Model, Purpose};
use crate::upstream::Payload;

/// Where a request may go.
#[derive(Debug)]
pub(super) struct Target<'a> {
    model: Option<Cow<'a, str>>,
    count: usize,
    key: Option<u64>,
}

impl<'a> Target<'a> {
    /// Finds out where a request may go.
    pub(super) fn find(
        lane: &Lane,
        head: &request::Parts,
        payload: &'a Payload,
        forward: Forward<'a>,
    ) -> Result<Self, ProxyError> {
        let mut target = Self {
            model: forward.model.map(|model| model.key()),
            count: usize::MAX,
            key: key(lane, head, payload),
        };
        if let Some(query) = head.uri.query() {
            target.read_query(query);
        }
        if is_form(forward) || forward.model == Some(Model::DEFAULT) {
            target.read_form(lane, head, payload, forward)?;
        }
        Ok(target)
    }

    fn read_query(&mut self, query: &str) {
        let value = |wanted: &str| {
            query.split('&').find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                (name == wanted).then_some(value)
            })
        };
        if self.model.as_deref() == Some("")
            && let Some(model) = value("model")
        {
            let model = match value("version") {
                Some(version) => format!("{model}/{version}"),
                None => model.to_owned(),
            };
            // The endpoints know the spelling of a name in percent encoding.
            self.model = (!model.contains('%')).then_some(Cow::Owned(model));
        }
    }

    fn read_form(
        &mut self,
        lane: &Lane,
        head: &request::Parts,
        payload: &'a Payload,
        forward: Forward<'_>,
    ) -> Result<(), ProxyError> {
        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let Some(boundary) = content_type.and_then(form::boundary) else { return Ok(()) };
        let fields = form::read(payload.as_slice(), boundary);
        if let Some(servers) = &fields.servers
            && is_form(forward)
        {
            self.count = form::parse_servers(servers, lane.snapshot().all().len())?;
        }
        if let Some(model) = fields.model
            && !model.is_empty()
            && self.model.as_deref() == Some("")
        {
            self.model = Some(model);
        }
        Ok(())
    }

    /// The same, as a lane asks for it.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted { model: self.model.as_deref(), count: self.count, key: self.key }
    }
}

/// Whether the fields of the form count.
fn is_form(forward: Forward<'_>) -> bool {
    matches!(forward.purpose, Purpose::Form | Purpose::Digit)
}

/// The key for the hash policy, if the request has what it goes by; costs nothing under any other.
fn key(lane: &Lane, head: &request::Parts, payload: &Payload) -> Option<u64> {
    if lane.policy_kind() != Kind::Hash {
        return None;
    }
    let bytes = match &lane.shared.config.hash_header {
        Some(name) => head.headers.get(name)?.as_bytes(),
        None => payload.as_slice(),
    };
    (!bytes.is_empty()).then(|| policy::key_of(bytes))
}

/// The target at the endpoint: the client's own, or another path with the same query.
pub(super) fn at_endpoint<'a>(uri: &'a Uri, forward: Forward<'_>) -> Cow<'a, str> {
    let own = uri.path_and_query();
    match (forward.path, forward.purpose, own.and_then(PathAndQuery::query)) {
        (None, ..) => Cow::Borrowed(own.map_or("/", PathAndQuery::as_str)),
        (Some(path), Purpose::Digit, _) => Cow::Owned(format!("{path}?model=mnist")),
        (Some(path), _, Some(query)) => Cow::Owned(format!("{path}?{query}")),
        (Some(path), _, None) => Cow::Borrowed(path),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::route::{Route, route};

    fn sent_to(path_and_query: &str) -> String {
        let given: Uri = path_and_query.parse().expect("valid");
        match route(&Method::POST, given.path()) {
            Ok(Route::Forward(forward)) => at_endpoint(&given, forward).into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn submit_becomes_predict_and_keeps_its_query() {
        assert_eq!(sent_to("/submit"), "/predict");
        assert_eq!(sent_to("/submit?top_k=3&model=mnist"), "/predict?top_k=3&model=mnist");
        assert_eq!(sent_to("/post?x=1"), "/predict?model=mnist");
    }

    #[test]
    fn other_paths_stay_and_lose_their_host() {
        assert_eq!(sent_to("/v1/models/a:predict"), "/v1/models/a:predict");
        assert_eq!(sent_to("http://evil/v2/models/a/infer?x"), "/v2/models/a/infer?x");
    }
}
