//! The members of a JSON object that are inputs of a model, found in one pass over the object.
//!
//! A client chooses how many members its objects have, and the author of a model how many columns:
//! looking each column up in each object would cost their product.

use std::collections::HashMap;

use super::json::Value;
use crate::api::signature::TensorSpec;

/// The inputs of a model by name.
#[derive(Debug)]
pub(super) struct Named<'a> {
    pub(super) specs: &'a [TensorSpec],
    positions: HashMap<&'a str, usize>,
}

/// The value of each input, if there is one.
pub(super) type Values<'v> = Vec<Option<&'v Value>>;

impl<'a> Named<'a> {
    pub(super) fn new(specs: &'a [TensorSpec]) -> Self {
        let named = specs.iter().enumerate();
        let positions = named.map(|(position, spec)| (spec.name.as_str(), position)).collect();
        Self { specs, positions }
    }

    /// No values yet.
    pub(super) fn none<'v>(&self) -> Values<'v> {
        vec![None; self.specs.len()]
    }

    /// Takes the values in `object`, replacing those that are there already.
    pub(super) fn take<'v>(&self, object: &'v Value, values: &mut Values<'v>) {
        let Value::Object(members) = object else { return };
        // In reverse, so that the first of two members with the same name wins.
        for (name, value) in members.iter().rev() {
            if let Some(position) = self.positions.get(name.as_str()) {
                values[*position] = Some(value);
            }
        }
    }

    /// The first name in `object` that is not an input.
    pub(super) fn unknown<'v>(&self, object: &'v Value) -> Option<&'v str> {
        let Value::Object(members) = object else { return None };
        let mut names = members.iter().map(|(name, _)| name.as_str());
        names.find(|name| !self.positions.contains_key(name))
    }
}

#[cfg(test)]
mod tests {
    use super::Named;
    use crate::api::signature::{Kind, TensorSpec};
    use crate::api::tf_serving::json::{Value, parse};

    fn object(text: &str) -> Value {
        parse(text.as_bytes(), 1 << 20).unwrap().0
    }

    #[test]
    fn the_first_of_a_name_counts_and_goes_before_what_was_there() {
        let spec =
            |name: &str| TensorSpec { name: name.to_owned(), kind: Kind::Float, shape: vec![] };
        let specs = [spec("a"), spec("b"), spec("c")];
        let named = Named::new(&specs);
        let (context, example) =
            (object(r#"{"b": 1, "c": 2}"#), object(r#"{"a": 3, "c": 4, "c": 5}"#));
        let mut values = named.none();
        named.take(&context, &mut values);
        named.take(&example, &mut values);
        let numbers = [3.0, 1.0, 4.0].map(Value::Number);
        assert_eq!(values, numbers.iter().map(Some).collect::<Vec<_>>());
        assert_eq!(
            (named.unknown(&context), named.unknown(&object(r#"{"a": 1, "d": 2}"#))),
            (None, Some("d"))
        );
    }
}
