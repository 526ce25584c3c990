//! The `data` of a JSON tensor: flat or nested lists, kept as plain elements while they are read.
//!
//! A generic JSON tree would take many times the memory of the body.

use super::datatype::Elements;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;

/// The elements in order, numbers and texts apart.
#[derive(Debug, Default)]
pub(super) struct Data {
    numbers: Vec<f64>,
    texts: Vec<Vec<u8>>,
}

impl Data {
    /// All elements as one kind; `None` when there were others.
    pub(super) fn elements(self, is_text: bool) -> Option<Elements> {
        match (is_text, self.numbers.is_empty(), self.texts.is_empty()) {
            (true, true, _) => Some(Elements::Texts(self.texts)),
            (false, _, true) => Some(Elements::Numbers(self.numbers)),
            (true, false, _) | (false, _, false) => None,
        }
    }
}

impl<'de> serde::Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut data = Self::default();
        Gather(&mut data).deserialize(deserializer)?;
        Ok(data)
    }
}

/// Reads one value of any nesting into the elements.
struct Gather<'a>(&'a mut Data);

impl<'de> DeserializeSeed<'de> for Gather<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Gather<'_> {
    type Value = ();

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("numbers, booleans or strings in flat or nested lists")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Gather(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.visit_f64(f64::from(u8::from(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.0.numbers.push(value);
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.0.texts.push(value.as_bytes().to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Data;
    use crate::api::open_inference::datatype::Elements;

    fn read(text: &str, is_text: bool) -> Option<Elements> {
        serde_json::from_str::<Data>(text).ok()?.elements(is_text)
    }

    #[test]
    fn nested_lists_are_flat_elements() {
        let numbers = Elements::Numbers(vec![1.0, 2.5, 1.0, -3.0]);
        assert_eq!(read("[[1, 2.5], [true, -3]]", false), Some(numbers));
        assert_eq!(
            read(r#"["a", ["b"]]"#, true),
            Some(Elements::Texts(vec![b"a".to_vec(), b"b".to_vec()]))
        );
    }

    #[test]
    fn mixed_and_foreign_elements_are_refused() {
        for text in [r#"[1, "a"]"#, "[null]", "[{}]"] {
            assert_eq!(read(text, false), None, "{text}");
        }
        assert_eq!(read("[1]", true), None);
        assert_eq!(read(&"[".repeat(100_000), false), None);
    }
}
