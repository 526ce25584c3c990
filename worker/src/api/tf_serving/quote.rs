//! JSON values as error messages quote them: indented, and cut when they are long.

use std::borrow::Cow;
use std::fmt::Write;

use super::json::{Items, Value};

/// Longest value that an error message quotes.
const LONGEST_QUOTE: usize = 1000;

impl Value {
    /// The value as an error message quotes it, cut when it is long.
    pub(super) fn quoted(&self) -> String {
        let mut text = String::new();
        self.quote(&mut text, 0);
        if text.len() > LONGEST_QUOTE {
            let cut = (0..=LONGEST_QUOTE).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(cut.unwrap_or_default());
            text.push_str("...");
        }
        text
    }

    fn quote(&self, text: &mut String, depth: usize) {
        if text.len() > LONGEST_QUOTE {
            return;
        }
        match self {
            Self::Null => text.push_str("null"),
            Self::Bool(value) => write!(text, "{value}").unwrap_or_default(),
            Self::Number(value) | Self::Large(value) => quote_number(text, *value),
            Self::Text(value) => quote_text(text, value),
            Self::Numbers(numbers) => {
                let items = Items::Numbers(numbers).iter().map(|item| (None, item));
                quote_items(text, depth, ['[', ']'], items.take(LONGEST_QUOTE));
            }
            Self::List(items) => {
                let items = Items::Values(items).iter().map(|item| (None, item));
                quote_items(text, depth, ['[', ']'], items.take(LONGEST_QUOTE));
            }
            Self::Object(members) => {
                let members = members.iter().take(LONGEST_QUOTE);
                let items =
                    members.map(|(name, value)| (Some(name.as_str()), Cow::Borrowed(value)));
                quote_items(text, depth, ['{', '}'], items);
            }
        }
    }
}

/// A text, cut where the whole quote would be.
fn quote_text(text: &mut String, value: &str) {
    let start = &value[..value.floor_char_boundary(LONGEST_QUOTE + 1)];
    text.push_str(&serde_json::to_string(start).unwrap_or_default());
}

/// Whole numbers as they are, others with an exponent where that is shorter.
fn quote_number(text: &mut String, value: f64) {
    if value.is_finite() && (value.fract() != 0.0 || value.abs() >= 1e16) {
        let scientific = format!("{value:e}").replace('e', "e+").replace("e+-", "e-");
        let plain = format!("{value}");
        text.push_str(if scientific.len() < plain.len() { &scientific } else { &plain });
    } else {
        write!(text, "{value}").unwrap_or_default();
    }
}

fn quote_items<'a>(
    text: &mut String,
    depth: usize,
    [open, close]: [char; 2],
    items: impl Iterator<Item = (Option<&'a str>, Cow<'a, Value>)>,
) {
    text.push(open);
    let mut empty = true;
    for (name, value) in items {
        let comma = if empty { "" } else { "," };
        let indent = (depth + 1) * 4;
        write!(text, "{comma}\n{:indent$}", "").unwrap_or_default();
        if let Some(name) = name {
            quote_text(text, name);
            text.push_str(": ");
        }
        value.quote(text, depth + 1);
        empty = false;
    }
    if !empty {
        write!(text, "\n{:indent$}", "", indent = depth * 4).unwrap_or_default();
    }
    text.push(close);
}

#[cfg(test)]
mod tests {
    use crate::api::tf_serving::json::{ParseError, Value};

    fn parse(bytes: &[u8]) -> Result<Value, ParseError> {
        crate::api::tf_serving::json::parse(bytes, 4 << 20).map(|(value, _)| value)
    }

    #[test]
    fn quotes_are_indented_and_cut() {
        let value = parse(br#"{"a": [1, "x"]}"#).unwrap();
        assert_eq!(value.quoted(), "{\n    \"a\": [\n        1,\n        \"x\"\n    ]\n}");
        let long = parse(format!("[{}1]", "1,".repeat(100_000)).as_bytes()).unwrap();
        assert!(long.quoted().len() < 1100);
        let text = format!("[\"{}\", {{\"a\": 1e39}}]", "x".repeat(1 << 20));
        let text = parse(text.as_bytes()).unwrap();
        let measured = allocation_counter::measure(|| assert!(text.quoted().len() < 1100));
        assert!(measured.bytes_max < 16 << 10, "{measured:?}");
        assert_eq!(Value::Number(1e39).quoted(), "1e+39");
        assert_eq!(Value::Number(-2.5).quoted(), "-2.5");
    }
}
