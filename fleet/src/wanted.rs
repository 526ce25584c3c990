//! What a request needs of an endpoint, and why there may be none for it.

use crate::endpoint::EndpointId;
use crate::snapshot::{Candidates, Class, Snapshot};

/// What a request needs of an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The model; see [`Snapshot::candidates`].
    pub model: Option<&'a str>,
    /// How many endpoints of the list take part.
    pub count: usize,
    /// The key for the hash policy; `None` if the request has none.
    pub key: Option<u64>,
    /// Endpoints that it has tried.
    pub avoided: &'a [EndpointId],
}

impl Wanted<'_> {
    /// Which endpoints it may wait for.
    pub fn class(&self, snapshot: &Snapshot) -> Result<Class, Refusal> {
        match snapshot.candidates(self.model, self.count) {
            Candidates::Some(class, _) => Ok(class),
            Candidates::Unheard(_) | Candidates::UnknownModel => Err(Refusal::UnknownModel),
            Candidates::None => Err(Refusal::NoEndpoint),
            Candidates::Loading => Err(Refusal::NotReady),
        }
    }
}

/// Why there is no endpoint for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Every endpoint that serves it is full; the request may wait for one.
    Busy,
    /// Too many requests wait already, or this one has waited too long.
    Overloaded,
    /// No endpoint is available.
    NoEndpoint,
    /// No endpoint that serves the model is available, but one may be soon.
    NotReady,
    /// No endpoint serves the model.
    UnknownModel,
}

impl Refusal {
    /// Whether an endpoint that is starting may resolve it.
    pub fn ends_with_a_start(self) -> bool {
        match self {
            Self::NoEndpoint | Self::NotReady => true,
            Self::Busy | Self::Overloaded | Self::UnknownModel => false,
        }
    }
}
