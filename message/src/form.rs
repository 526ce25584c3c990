//! The fields of a form, in either encoding.

use std::borrow::Cow;

use wire::field;

use crate::content_type::ContentType;
use crate::multipart::{self, Part};
use crate::parameters::{Parameters, Value, each_pair, twice};
use crate::{Refusal, malformed, urlencoded};

/// Names that the field with the file may have.
const FILES: [&str; 2] = [field::IMAGE, field::INPUT_PHOTO];

/// The contents of a form.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Form<'a> {
    /// The file; empty if the client has chosen none.
    pub(crate) file: Option<&'a [u8]>,
    /// The address of the image.
    pub(crate) address: Option<Cow<'a, str>>,
    pub(crate) parameters: Parameters<'a>,
}

impl<'a> Form<'a> {
    /// Reads a body that is not compressed. A body that is not a form is the file itself.
    pub(crate) fn read(kind: &ContentType<'_>, body: &'a [u8]) -> Result<Self, Refusal> {
        let form = match kind {
            ContentType::Multipart(boundary) => Some(Self::in_parts(body, boundary)?),
            ContentType::Urlencoded => Self::in_pairs(body)?,
            ContentType::Other => None,
        };
        Ok(form.unwrap_or(Self { file: Some(body), ..Self::default() }))
    }

    fn in_parts(body: &'a [u8], boundary: &[u8]) -> Result<Self, Refusal> {
        let mut form = Self::default();
        multipart::read(body, boundary, |part| form.add(&part))?;
        Ok(form)
    }

    fn add(&mut self, part: &Part<'a>) -> Result<(), Refusal> {
        let Some(name) = &part.name else { return Ok(()) };
        let is_known = if is_file(name) {
            self.set_file(name, part.content)?;
            true
        } else {
            self.set(name, Value::Plain(part.content))?
        };
        if is_known && part.is_encoded {
            let text =
                "a field in a Content-Transfer-Encoding is not read: send its bytes as they are";
            return Err(Refusal::Unsupported(text.into()));
        }
        Ok(())
    }

    /// `None` for a body that is not urlencoded although its type says so: curl declares every body
    /// urlencoded unless told otherwise.
    fn in_pairs(body: &'a [u8]) -> Result<Option<Self>, Refusal> {
        let Some(line) = urlencoded::line(body) else { return Ok(None) };
        let mut form = Self::default();
        let mut has_field = false;
        each_pair(line, |name, value| {
            has_field |= form.set(name, value)?;
            Ok(())
        })?;
        Ok(has_field.then_some(form))
    }

    fn set_file(&mut self, name: &[u8], content: &'a [u8]) -> Result<(), Refusal> {
        match self.file {
            Some(before) if !before.is_empty() && !content.is_empty() => {
                return Err(if name == field::IMAGE.as_bytes() {
                    malformed("more than one image in the form: send one request for each")
                } else {
                    twice(name)
                });
            }
            Some(before) if !before.is_empty() => {}
            Some(_) | None => self.file = Some(content),
        }
        Ok(())
    }

    /// Sets a field; returns whether it is a known one.
    fn set(&mut self, name: &[u8], value: Value<'a>) -> Result<bool, Refusal> {
        if name != field::IMAGE_URL.as_bytes() {
            return self.parameters.set(name, value);
        }
        let address = value.into_text(name)?;
        if !address.is_empty() && self.address.replace(address).is_some() {
            return Err(twice(name));
        }
        Ok(true)
    }
}

fn is_file(name: &[u8]) -> bool {
    FILES.iter().any(|known| known.as_bytes() == name)
}
