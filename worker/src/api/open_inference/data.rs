//! The `data` of a JSON tensor: flat or nested lists, kept as plain elements while they are read.
//!
//! Their number is known from the shape, so one too many stops the parsing. A list contains either
//! lists or elements, as in Triton.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use super::datatype::Elements;

/// Reads the elements of a tensor of `count` numbers or texts.
pub(super) fn read(json: &str, count: usize, is_text: bool) -> Result<Elements, serde_json::Error> {
    let elements = if is_text {
        Elements::Texts(Vec::with_capacity(count))
    } else {
        Elements::Numbers(Vec::with_capacity(count))
    };
    let mut gathered = Gathered { elements, count };
    let mut reader = serde_json::Deserializer::from_str(json);
    let level = Item { gathered: &mut gathered, in_list: false }.deserialize(&mut reader)?;
    if level == Level::Element {
        return Err(serde_json::Error::custom("the data must be a list"));
    }
    Ok(gathered.elements)
}

struct Gathered {
    elements: Elements,
    count: usize,
}

/// Whether an item was a list or an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    List,
    Element,
}

/// Reads one value of any nesting into the elements.
struct Item<'a> {
    gathered: &'a mut Gathered,
    in_list: bool,
}

impl Gathered {
    fn add<E: Error>(&mut self, element: Element<'_>) -> Result<Level, E> {
        if self.elements.len() == self.count {
            return Err(E::custom(format!("more elements than the {} of the shape", self.count)));
        }
        match (&mut self.elements, element) {
            (Elements::Numbers(numbers), Element::Number(number)) => numbers.push(number),
            (Elements::Texts(texts), Element::Text(text)) => texts.push(text.as_bytes().to_vec()),
            (Elements::Numbers(_) | Elements::Texts(_), _) => {
                return Err(E::custom("data does not fit the datatype"));
            }
        }
        Ok(Level::Element)
    }
}

enum Element<'a> {
    Number(f64),
    Text(&'a str),
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = Level;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Level, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item<'_> {
    type Value = Level;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str(if self.in_list {
            "numbers, booleans or strings in flat or nested lists"
        } else {
            "a list of numbers, booleans or strings"
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Level, A::Error> {
        let mut first = None;
        while let Some(level) =
            items.next_element_seed(Item { gathered: &mut *self.gathered, in_list: true })?
        {
            if *first.get_or_insert(level) != level {
                return Err(A::Error::custom("elements and lists are mixed in one list"));
            }
        }
        Ok(Level::List)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Level, E> {
        self.visit_f64(f64::from(u8::from(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Level, E> {
        self.visit_f64(value as f64)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Level, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Level, E> {
        self.gathered.add(Element::Number(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Level, E> {
        self.gathered.add(Element::Text(value))
    }
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::api::open_inference::datatype::Elements;

    #[test]
    fn nested_lists_are_flat_elements() {
        let numbers = Elements::Numbers(vec![1.0, 2.5, 1.0, -3.0]);
        assert_eq!(read("[[1, 2.5], [true, -3]]", 4, false).unwrap(), numbers);
        let texts = Elements::Texts(vec![b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(read(r#"["a", "b"]"#, 2, true).unwrap(), texts);
    }

    #[test]
    fn mixed_and_foreign_elements_are_refused() {
        for text in
            [r#"[1, "a"]"#, "[null]", "[{}]", "[1, [1]]", "[[1], 1]", "1", "[1, 1, 1]", "[1e999]"]
        {
            assert!(read(text, 2, false).is_err(), "{text}");
        }
        assert!(read("[1]", 1, true).is_err());
        assert!(read(&"[".repeat(100_000), 9, false).is_err());
    }

    #[test]
    fn nothing_is_kept_beyond_the_shape() {
        let text = format!("[{}1]", "1,".repeat(100_000));
        let measured = allocation_counter::measure(|| drop(read(&text, 10, false).unwrap_err()));
        assert!(measured.bytes_max < 1024, "{measured:?}");
    }
}
