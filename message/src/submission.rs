//! A picture with its parameters: what `/predict`, `/submit` and similar routes take.

use std::borrow::Cow;
use std::num::NonZeroUsize;

use crate::content_type::ContentType;
use crate::form::Form;
use crate::parameters::Parameters;
use crate::{Model, Refusal};

/// A picture and what the client wants to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission<'a> {
    /// The image: its file, or its address.
    pub image: Image<'a>,
    /// The model to run on it.
    pub model: Model<'a>,
    /// How many classes are wanted.
    pub top_k: Option<NonZeroUsize>,
    /// How many endpoints of the list take part, from the first.
    pub servers: Option<NonZeroUsize>,
    /// Whether the answer shows what the model was given.
    pub shows_input: bool,
}

/// A picture, or where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image<'a> {
    /// The bytes of the file.
    File(&'a [u8]),
    /// Its http or https address.
    Address(Cow<'a, str>),
    /// There is none, for this reason.
    Missing(&'static str),
}

impl<'a> Submission<'a> {
    /// Reads a request from its query and its body, which has this type and is not compressed.
    pub fn read(
        query: Option<&'a str>,
        kind: &ContentType<'_>,
        body: &'a [u8],
    ) -> Result<Self, Refusal> {
        let Form { file, address, parameters } = Form::read(kind, body)?;
        let mut parameters = match query {
            Some(query) => Parameters::in_query(query)?.or(parameters),
            None => parameters,
        };
        let image = match (file, address) {
            (Some(file), _) if !file.is_empty() => Image::File(file),
            (_, Some(address)) => Image::Address(address),
            _ if body.is_empty() => Image::Missing("the body is empty: send an image"),
            (Some(_), None) => Image::Missing("the field \"image\" is empty"),
            (None, None) => Image::Missing("no field \"image\" in the form"),
        };
        let (top_k, servers) = (parameters.top_k()?, parameters.servers()?);
        let shows_input = parameters.shows_input()?;
        Ok(Self { image, model: parameters.model(), top_k, servers, shows_input })
    }
}
