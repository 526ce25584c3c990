//! Writes JSON as TF Serving does: four spaces, rows on one line, shortest floats that read back.
//!
//! Clients have been seen to compare answers as text, so the odd line breaks are kept: a list begun
//! on one line still closes on a line of its own.

use std::fmt::Write;

/// Builds one JSON text.
#[derive(Debug, Default)]
pub(super) struct Pretty {
    text: String,
    /// For each open list or object whether it is a list, and how many values it has.
    levels: Vec<(bool, usize)>,
    after_key: bool,
    /// Whether lists are continued on the line they are on.
    pub(super) single_line: bool,
}

impl Pretty {
    /// A writer for a text of at most `size` bytes.
    pub(super) fn with_capacity(size: usize) -> Self {
        Self { text: String::with_capacity(size), ..Self::default() }
    }

    pub(super) fn open_object(&mut self) {
        self.begin_value();
        self.text.push('{');
        self.levels.push((false, 0));
    }

    pub(super) fn close_object(&mut self) {
        if let Some((_, 1..)) = self.levels.pop() {
            self.new_line();
        }
        self.text.push('}');
    }

    pub(super) fn open_list(&mut self) {
        self.begin_value();
        self.text.push('[');
        self.levels.push((true, 0));
    }

    pub(super) fn close_list(&mut self) {
        let had_values = matches!(self.levels.pop(), Some((_, 1..)));
        if had_values && !self.single_line {
            self.new_line();
        }
        self.text.push(']');
    }

    pub(super) fn key(&mut self, name: &str) {
        if let Some((_, count)) = self.levels.last_mut() {
            if *count > 0 {
                self.text.push(',');
            }
            *count += 1;
        }
        self.new_line();
        self.quote(name);
        self.text.push_str(": ");
        self.after_key = true;
    }

    pub(super) fn string(&mut self, value: &str) {
        self.begin_value();
        self.quote(value);
    }

    pub(super) fn float(&mut self, value: f32) {
        self.begin_value();
        write_float(&mut self.text, value);
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    fn begin_value(&mut self) {
        if std::mem::take(&mut self.after_key) {
            return;
        }
        let Some((true, count)) = self.levels.last_mut() else { return };
        let first = *count == 0;
        *count += 1;
        if !first {
            self.text.push_str(if self.single_line { ", " } else { "," });
        }
        if !self.single_line {
            self.new_line();
        }
    }

    fn new_line(&mut self) {
        let indent = self.levels.len() * 4;
        write!(self.text, "\n{:indent$}", "").unwrap_or_default();
    }

    fn quote(&mut self, value: &str) {
        self.text.push_str(&serde_json::to_string(value).unwrap_or_default());
    }
}

/// Writes the fewest digits that read back equal, always as a float; NaN and Infinity as words.
fn write_float(text: &mut String, value: f32) {
    if value.is_nan() {
        text.push_str("NaN");
    } else if value.is_infinite() {
        text.push_str(if value < 0.0 { "-Infinity" } else { "Infinity" });
    } else if value != 0.0 && !(1e-4..1e6).contains(&value.abs()) {
        let scientific = format!("{value:e}");
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        write!(text, "{digits}e{sign}{exponent:0>2}").unwrap_or_default();
    } else {
        write!(text, "{value:?}").unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Pretty, write_float};

    fn float(value: f32) -> String {
        let mut text = String::new();
        write_float(&mut text, value);
        text
    }

    #[test]
    fn floats_look_like_those_of_tf_serving() {
        for (value, text) in [
            (2.5, "2.5"),
            (3.0, "3.0"),
            (0.2, "0.2"),
            (-0.0, "-0.0"),
            (9e6, "9e+06"),
            (3e-5, "3e-05"),
            (f32::NAN, "NaN"),
            (f32::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn a_list_of_scalars_ends_on_its_own_line() {
        let mut pretty = Pretty::default();
        pretty.open_object();
        pretty.key("predictions");
        pretty.open_list();
        pretty.single_line = true;
        pretty.float(2.5);
        pretty.float(3.0);
        pretty.single_line = false;
        pretty.close_list();
        pretty.close_object();
        assert_eq!(pretty.finish(), "{\n    \"predictions\": [2.5, 3.0\n    ]\n}");
    }

    proptest! {
        #[test]
        fn every_finite_float_reads_back(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            if value.is_finite() {
                prop_assert_eq!(float(value).parse::<f32>().unwrap().to_bits(), bits);
            }
        }
    }
}
