//! Where a request may go: the model it asks for and how many endpoints take part.
//!
//! Both are read by the functions that the worker uses, so the endpoint reads the same in a request
//! as the balancer. A compressed form is decompressed for this, in steps between other requests;
//! the endpoint gets it as it arrived.

use std::borrow::Cow;
use std::num::NonZeroUsize;

use fleet::Wanted;
use fleet::policy::{self, Kind};
use http::uri::PathAndQuery;
use http::{Uri, request};
use message::{ContentType, Model, Refusal, Submission, Version};
use tokio::time::Instant;

use super::collect::Collected;
use crate::config::DefaultModel;
use crate::error::ProxyError;
use crate::route::{Forward, Naming};
use crate::shard::Shard;
use crate::upstream::Payload;

/// What a request says about where it may go.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The model; `None` if any endpoint will do.
    pub model: Option<Model<'a>>,
    /// How many endpoints of the list take part.
    pub servers: Option<NonZeroUsize>,
}

impl<'a> Asked<'a> {
    /// Reads a request: its query, and its body, which is of type `kind` and no longer compressed.
    pub fn read(
        forward: &Forward<'a>,
        query: Option<&'a str>,
        kind: &ContentType<'_>,
        body: &'a [u8],
    ) -> Result<Self, Refusal> {
        match &forward.naming {
            Naming::Nowhere => Ok(Self::default()),
            Naming::Path(model) => Ok(Self { model: Some(model.clone()), servers: None }),
            Naming::Submission => {
                let read = Submission::read(forward.query(query), kind, body)?;
                Ok(Self { model: Some(read.model), servers: read.servers })
            }
            Naming::Route(model) => {
                let read = Submission::read(None, kind, body)?;
                Ok(Self { model: Some(Model::latest(model)), servers: read.servers })
            }
        }
    }

    /// Whether it is for a model but does not say which.
    fn is_open(&self) -> bool {
        self.model.as_ref().is_some_and(|model| model.name.is_empty())
    }

    fn into_owned(self) -> Asked<'static> {
        Asked { model: self.model.map(Model::into_owned), servers: self.servers }
    }
}

/// Where a request may go.
#[derive(Debug)]
pub(super) struct Target<'a> {
    model: Option<Cow<'a, str>>,
    /// The model to add to the query, because the request names none.
    told: Option<&'a DefaultModel>,
    count: usize,
    key: Option<u64>,
}

impl<'a> Target<'a> {
    /// Finds out where a request may go.
    pub(super) async fn find(
        shard: &'a Shard,
        head: &'a request::Parts,
        collected: &'a Collected,
        forward: &Forward<'a>,
        deadline: Instant,
    ) -> Result<Self, ProxyError> {
        let (query, fields) = (head.uri.query(), &head.headers);
        let body = collected.payload().as_slice();
        let is_submission = matches!(forward.naming, Naming::Submission | Naming::Route(_));
        let kind = if is_submission { ContentType::of(fields)? } else { ContentType::Other };
        let mut asked = match kind.packed(fields)? {
            Some(coding) if !body.is_empty() => {
                // Rare, and boxed so as not to make every request larger.
                let unpacked = Box::pin(collected.unpacked(coding, deadline)).await?;
                Asked::read(forward, query, &kind, unpacked.as_slice())?.into_owned()
            }
            Some(_) | None => Asked::read(forward, query, &kind, body)?,
        };
        let told = shard.shared.config.default_model.as_ref().filter(|_| asked.is_open());
        if let (Some(default), Some(model)) = (told, &mut asked.model) {
            model.name = default.name().into();
        }
        Ok(Self {
            model: asked.model.map(|model| key_of(model, shard)),
            told,
            count: asked.servers.map_or(Ok(usize::MAX), |servers| count(servers, shard))?,
            key: hash_key(shard, head, collected.payload()),
        })
    }

    /// The target at the endpoint: the client's own, or another path with the same query; with the
    /// model added if the request names none and the operator has fixed one.
    pub(super) fn at_endpoint<'u>(&self, uri: &'u Uri, forward: &Forward<'_>) -> Cow<'u, str> {
        let target = at_endpoint(uri, forward);
        match self.told {
            Some(model) => Cow::Owned(model.name_in(&target)),
            None => target,
        }
    }

    /// The target in the form that a dispatch takes.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted { model: self.model.as_deref(), count: self.count, key: self.key, avoided: &[] }
    }
}

/// The key under which the pool finds a model. A version without a name is one of the
/// default model.
fn key_of<'a>(mut model: Model<'a>, shard: &Shard) -> Cow<'a, str> {
    if model.is_auto() {
        // An endpoint with the default model decides what the picture is for.
        model = Model::DEFAULT;
    }
    if model.version == Version::Latest {
        return model.name;
    }
    if model.name.is_empty() {
        let default = shard.snapshot().default_model().map(str::to_owned);
        model.name = default.unwrap_or_default().into();
    }
    Cow::Owned(model.key().into_owned())
}

/// How many endpoints of the list take part; more than there are is an error.
fn count(servers: NonZeroUsize, shard: &Shard) -> Result<usize, ProxyError> {
    let available = shard.snapshot().all().len();
    if servers.get() <= available {
        return Ok(servers.get());
    }
    let text = format!(
        "number_backend_servers must be a whole number from 1 to {available}, not {servers}"
    );
    Err(ProxyError::BadRequest(text.into()))
}

/// The key for the hash policy, if the request has one; costs nothing under any other policy.
fn hash_key(shard: &Shard, head: &request::Parts, payload: &Payload) -> Option<u64> {
    if shard.policy_kind() != Kind::Hash {
        return None;
    }
    let bytes = match &shard.shared.config.hash_header {
        Some(name) => head.headers.get(name)?.as_bytes(),
        None => payload.as_slice(),
    };
    (!bytes.is_empty()).then(|| policy::key_of(bytes))
}

fn at_endpoint<'a>(uri: &'a Uri, forward: &Forward<'_>) -> Cow<'a, str> {
    let own = uri.path_and_query();
    match (forward.path, forward.query(own.and_then(PathAndQuery::query))) {
        (None, _) => Cow::Borrowed(own.map_or("/", PathAndQuery::as_str)),
        (Some(path), Some(query)) => Cow::Owned(format!("{path}?{query}")),
        (Some(path), None) => Cow::Borrowed(path),
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
            Ok(Route::Forward(forward)) => at_endpoint(&given, &forward).into_owned(),
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
