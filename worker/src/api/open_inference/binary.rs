//! Splits a request body into its JSON and the binary tensors after it.
//!
//! The sizes come from the client and must add up to the bytes sent: nothing is left over and
//! nothing is read twice.

use axum::body::Bytes;
use axum::http::HeaderMap;

use super::JSON_LENGTH;
use crate::api::Problem;
use crate::api::problem::quoted;

/// A body split into its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) json: Bytes,
    /// The remaining bytes, for binary tensors.
    pub(super) rest: Bytes,
    /// Whether there is no JSON at all: the rest is the model's only tensor.
    pub(super) is_raw: bool,
}

/// Splits a body after the JSON length given in the header.
pub(super) fn split(headers: &HeaderMap, mut body: Bytes) -> Result<Parts, Problem> {
    let Some(length) = headers.get(JSON_LENGTH) else {
        return Ok(Parts { json: body, rest: Bytes::new(), is_raw: false });
    };
    let length = length.to_str().ok().and_then(|text| text.trim().parse::<usize>().ok());
    let wrong = || Problem::Malformed(format!("{JSON_LENGTH} must be a length within the body"));
    let length = length.filter(|length| *length <= body.len()).ok_or_else(wrong)?;
    let json = body.split_to(length);
    Ok(Parts { json, rest: body, is_raw: length == 0 })
}

impl Parts {
    /// The next `size` bytes.
    pub(super) fn take(&mut self, name: &str, size: u64) -> Result<Bytes, Problem> {
        let name = quoted(name);
        let fits = usize::try_from(size).ok().filter(|size| *size <= self.rest.len());
        let size = fits.ok_or_else(|| {
            Problem::Malformed(format!(
                "input {name} announces {size} bytes of binary data, {} are left",
                self.rest.len()
            ))
        })?;
        Ok(self.rest.split_to(size))
    }

    /// Checks that every byte belonged to some input.
    pub(super) fn finish(&self) -> Result<(), Problem> {
        match self.rest.len() {
            0 => Ok(()),
            left => {
                Err(Problem::Malformed(format!("{left} bytes of binary data belong to no input")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use axum::http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::{JSON_LENGTH, split};

    fn headers(length: &str) -> HeaderMap {
        let value = HeaderValue::from_str(length).unwrap();
        HeaderMap::from_iter([(HeaderName::from_static(JSON_LENGTH), value)])
    }

    #[test]
    fn the_header_says_where_the_json_ends() {
        let mut parts = split(&headers("2"), Bytes::from_static(b"{}abcd")).unwrap();
        assert_eq!(parts.json, "{}");
        assert_eq!(parts.take("a", 3).unwrap(), "abc");
        assert!(parts.finish().unwrap_err().to_string().contains("1 bytes"));
        assert!(parts.take("b", 2).is_err());
        assert_eq!(parts.take("b", 1).unwrap(), "d");
        parts.finish().unwrap();
    }

    proptest! {
        #[test]
        fn no_length_panics(length in "[0-9a-z -]{0,22}", size in any::<u64>()) {
            if let Ok(mut parts) = split(&headers(&length), Bytes::from_static(b"{}abcd")) {
                prop_assert_eq!(parts.json.len() + parts.rest.len(), 6);
                let _taken = parts.take("a", size);
            }
        }
    }
}
