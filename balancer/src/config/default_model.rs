//! The model of requests that name none, where an operator has fixed it.
//!
//! A worker has a rule of its own for such requests, so it is told: the balancer names the model in the
//! query of what it sends.

use std::fmt::{Display, Formatter, Result};

use super::ConfigError;

/// A model that requests are for which name none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultModel {
    name: Box<str>,
    /// As a pair of a query.
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

    /// A path and query, with the model in its query.
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
