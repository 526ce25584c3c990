//! JSON values as error messages quote them: indented, and cut when they are long.

use super::json::Value;
use std::fmt::Write;

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
            Self::Number(value) => write!(text, "{value}").unwrap_or_default(),
            Self::Text(value) => {
                text.push_str(&serde_json::to_string(value).unwrap_or_default());
            }
            Self::Numbers(numbers) => {
                let items = numbers.iter().map(|number| (None, Self::Number(*number)));
                quote_items(text, depth, ['[', ']'], items.take(LONGEST_QUOTE));
            }
            Self::List(items) => {
                let items = items.iter().take(LONGEST_QUOTE).map(|item| (None, item.clone()));
                quote_items(text, depth, ['[', ']'], items);
            }
            Self::Object(members) => {
                let members = members.iter().take(LONGEST_QUOTE);
                let items = members.map(|(name, value)| (Some(name.as_str()), value.clone()));
                quote_items(text, depth, ['{', '}'], items);
            }
        }
    }
}

fn quote_items<'a>(
    text: &mut String,
    depth: usize,
    [open, close]: [char; 2],
    items: impl Iterator<Item = (Option<&'a str>, Value)>,
) {
    text.push(open);
    let mut empty = true;
    for (name, value) in items {
        let comma = if empty { "" } else { "," };
        let indent = (depth + 1) * 4;
        write!(text, "{comma}\n{:indent$}", "").unwrap_or_default();
        if let Some(name) = name {
            write!(text, "{}: ", serde_json::to_string(name).unwrap_or_default())
                .unwrap_or_default();
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
    use crate::api::tf_serving::json::parse;

    #[test]
    fn quotes_are_indented_and_cut() {
        let value = parse(br#"{"a": [1, "x"]}"#).unwrap();
        assert_eq!(value.quoted(), "{\n    \"a\": [\n        1,\n        \"x\"\n    ]\n}");
        let long = parse(format!("[{}1]", "1,".repeat(100_000)).as_bytes()).unwrap();
        assert!(long.quoted().len() < 1100);
    }
}
