//! The model of requests that do not name one, if an operator has set it.
//!
//! A worker has its own rule for such requests, so it must be told: the balancer adds the model to
//! the query of the forwarded request.

use std::fmt::{Display, Formatter, Result};

use super::ConfigError;

/// The model used for requests that do not name one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultModel {
    name: Box<str>,
    /// As a `key=value` pair of a query.
    pair: Box<str>,
}

impl DefaultModel {
    pub(super) fn new(name: &str) -> std::result::Result<Self, ConfigError> {
        if !message::is_name(name) {
            let text = format!("default-model {name:?} is not the name of a model");
            return Err(ConfigError::Invalid(text));
        }
        let pair = format!("{}={}", wire::field::MODEL, message::encode_text(name));
        Ok(Self { name: name.into(), pair: pair.into() })
    }

    /// The name of the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path and query with the model added to the query.
    pub fn name_in(&self, target: &str) -> String {
        let sign = if target.contains('?') { '&' } else { '?' };
        format!("{target}{sign}{}", self.pair)
    }
}

impl Display for DefaultModel {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        self.name.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_in_the_query_as_the_worker_reads_it() {
        let model = DefaultModel::new("iris & co").expect("a name");
        assert_eq!(model.name_in("/predict"), "/predict?model=iris%20%26%20co");
        assert_eq!(model.name_in("/predict?top_k=3"), "/predict?top_k=3&model=iris%20%26%20co");
        for wrong in ["", "a/b", "a\nb"] {
            let error = DefaultModel::new(wrong).expect_err("no name").to_string();
            assert!(error.contains("default-model"), "{error}");
        }
    }
}
