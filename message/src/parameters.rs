//! The parameters of a picture: which model is run on it, and what the answer should contain.
//!
//! Each may be in the query or in the form; the query wins if both have it. A parameter that
//! appears twice in the same place is refused, because it is unclear which one is meant.

use std::borrow::Cow;
use std::num::NonZeroUsize;

use wire::field;

use crate::model::{Model, Version};
use crate::urlencoded::{pairs, text};
use crate::{Refusal, malformed, shown};

/// Longest value, in bytes.
pub(crate) const LONGEST_TEXT: usize = 4096;
/// Most classes in an answer.
const MOST_CLASSES: usize = 1000;
/// Most pairs of a query or a form.
const MOST_PAIRS: usize = 256;

/// The parameters as text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters<'a> {
    model: Option<Cow<'a, str>>,
    version: Option<Cow<'a, str>>,
    top_k: Option<Cow<'a, str>>,
    servers: Option<Cow<'a, str>>,
    show_input: Option<Cow<'a, str>>,
}

impl<'a> Parameters<'a> {
    /// Reads a query.
    pub(crate) fn in_query(query: &'a str) -> Result<Self, Refusal> {
        let mut parameters = Self::default();
        each_pair(query.as_bytes(), |name, value| parameters.set(name, value).map(|_| ()))?;
        Ok(parameters)
    }

    /// Sets a parameter; returns whether it is a known one. An empty model or version counts as
    /// absent.
    pub(crate) fn set(&mut self, name: &[u8], value: Value<'a>) -> Result<bool, Refusal> {
        let slot = match std::str::from_utf8(name) {
            Ok(field::MODEL) => &mut self.model,
            Ok(field::VERSION) => &mut self.version,
            Ok(field::TOP_K) => &mut self.top_k,
            Ok(field::NUMBER_BACKEND_SERVERS) => &mut self.servers,
            Ok(field::SHOW_INPUT) => &mut self.show_input,
            Ok(_) | Err(_) => return Ok(false),
        };
        let value = value.into_text(name)?;
        let is_absent = value.is_empty() && [b"model".as_slice(), b"version"].contains(&name);
        if !is_absent && slot.replace(value).is_some() {
            return Err(twice(name));
        }
        Ok(true)
    }

    /// These parameters, completed by those of a form.
    pub(crate) fn or(self, form: Self) -> Self {
        Self {
            model: self.model.or(form.model),
            version: self.version.or(form.version),
            top_k: self.top_k.or(form.top_k),
            servers: self.servers.or(form.servers),
            show_input: self.show_input.or(form.show_input),
        }
    }

    /// The model and its version.
    pub(crate) fn model(&mut self) -> Model<'a> {
        let version = self.version.take().map_or(Version::Latest, Version::read);
        Model { name: self.model.take().unwrap_or_default(), version }
    }

    /// How many classes are wanted.
    pub(crate) fn top_k(&self) -> Result<Option<NonZeroUsize>, Refusal> {
        let Some(text) = &self.top_k else { return Ok(None) };
        number(text).filter(|k| k.get() <= MOST_CLASSES).map(Some).ok_or_else(|| {
            let text = shown(text.as_bytes());
            malformed(format!(
                "top_k must be a whole number from 1 to {MOST_CLASSES}, not \"{text}\""
            ))
        })
    }

    /// Whether the answer shows what the model was given.
    pub(crate) fn shows_input(&self) -> Result<bool, Refusal> {
        match self.show_input.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => Err(malformed(format!(
                "show_input must be true or false, not \"{}\"",
                shown(text.as_bytes())
            ))),
        }
    }

    /// How many endpoints of the list take part.
    pub(crate) fn servers(&self) -> Result<Option<NonZeroUsize>, Refusal> {
        let Some(text) = &self.servers else { return Ok(None) };
        number(text).map(Some).ok_or_else(|| {
            let text = shown(text.as_bytes());
            malformed(format!(
                "number_backend_servers must be a whole number from 1 to the number of workers, \
                 not \"{text}\""
            ))
        })
    }
}

/// A value as it was received.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    /// Bytes that need no decoding.
    Plain(&'a [u8]),
    /// Percent-encoded bytes.
    Percent(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The text that it encodes.
    pub(crate) fn into_text(self, name: &[u8]) -> Result<Cow<'a, str>, Refusal> {
        let wrong = |what: &str| malformed(format!("the field \"{}\" {what}", shown(name)));
        let bytes = match self {
            Self::Plain(bytes) => Cow::Borrowed(bytes),
            Self::Percent(encoded) => {
                text(encoded).ok_or_else(|| wrong("is in broken percent encoding"))?
            }
        };
        if bytes.len() > LONGEST_TEXT {
            return Err(wrong("is too long"));
        }
        let text = match bytes {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
        };
        text.ok_or_else(|| wrong("is not UTF-8"))
    }
}

/// Hands every pair of a query or a form to `each`. A name in malformed percent encoding has no
/// meaning and is skipped.
pub(crate) fn each_pair<'a>(
    line: &'a [u8],
    mut each: impl FnMut(&[u8], Value<'a>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    for (count, (name, value)) in pairs(line).enumerate() {
        if count == MOST_PAIRS {
            return Err(malformed(format!("more than {MOST_PAIRS} parameters")));
        }
        if let Some(name) = text(name) {
            each(&name, Value::Percent(value))?;
        }
    }
    Ok(())
}

pub(crate) fn twice(name: &[u8]) -> Refusal {
    malformed(format!("the field \"{}\" is there twice", shown(name)))
}

fn number(text: &str) -> Option<NonZeroUsize> {
    let digits = text.trim_ascii();
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Parameters<'_>, Refusal> {
        Parameters::in_query(text)
    }

    #[test]
    fn names_and_values_are_decoded_alike() {
        for text in ["model=iris_model", "model=iris%5Fmodel", "mod%65l=iris%5fmodel&x=%zz"] {
            let model = query(text).expect("it parses").model();
            assert_eq!(model, Model::latest("iris_model"), "{text}");
        }
        assert_eq!(query("model=a+b").expect("it parses").model().name, "a b");
    }

    #[test]
    fn what_is_not_certain_is_refused() {
        for text in
            ["model=a&model=b", "model=a&mode%6c=a", "model=%zz", "model=%ff", "top_k=1&top_k=1"]
        {
            assert!(query(text).is_err(), "{text}");
        }
        assert!(query(&"a&".repeat(1000)).is_err());
        assert!(query(&format!("model={}", "a".repeat(5000))).is_err());
        assert!(query("model=&model=a&version=").is_ok());
    }

    #[test]
    fn numbers_are_whole_and_in_their_range() {
        let servers = |text: &str| query(&format!("number_backend_servers={text}"))?.servers();
        assert_eq!(servers(" 2 ").map(|n| n.map(NonZeroUsize::get)), Ok(Some(2)));
        for wrong in ["0", "-1", "%2B1", "NaN", "", "1.5", "99999999999999999999999", "two"] {
            assert!(servers(wrong).is_err(), "{wrong}");
        }
        let top_k = |text: &str| query(&format!("top_k={text}"))?.top_k();
        assert_eq!(top_k("1000").map(|n| n.map(NonZeroUsize::get)), Ok(Some(1000)));
        assert!(top_k("1001").is_err() && top_k("0").is_err());
    }

    #[test]
    fn the_input_is_shown_to_those_who_say_so_in_a_word() {
        let shows = |text: &str| query(text)?.shows_input();
        assert_eq!(shows("show_input=true"), Ok(true));
        assert_eq!((shows("show_input=false"), shows("model=a")), (Ok(false), Ok(false)));
        for wrong in
            ["show_input=1", "show_input=", "show_input=True", "show_input=true&show_input=true"]
        {
            assert!(shows(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_query_counts_before_the_form() {
        let both =
            query("model=a").expect("it parses").or(query("model=b&version=2").expect("it parses"));
        let mut both = both;
        assert_eq!(both.model(), Model { name: "a".into(), version: Version::Number(2) });
    }
}
