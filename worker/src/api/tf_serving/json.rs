//! JSON as TF Serving reads it: NaN and Infinity are numbers, bytes after the value are ignored and so
//! is a byte order mark before it.
//!
//! Requests are mostly numbers, so a list of only numbers is kept as plain floats. Memory is
//! counted before it is taken, and the depth is bounded, so that no body can exhaust memory or
//! the stack.

use std::borrow::Cow;

/// The elements of a list, in either representation.
#[derive(Debug, Clone, Copy)]
pub(super) enum Items<'a> {
    Numbers(&'a [f64]),
    Values(&'a [Value]),
}

impl<'a> Items<'a> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Values(values) => values.len(),
        }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Cow<'a, Value>> {
        let get = move |at: usize| match self {
            Self::Numbers(numbers) => Cow::Owned(Value::Number(numbers[at])),
            Self::Values(values) => Cow::Borrowed(&values[at]),
        };
        (0..self.len()).map(get)
    }
}

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(f64),
    /// An integer that a float may not hold exactly.
    Large(f64),
    Text(String),
    /// A list of only numbers, at least one.
    Numbers(Vec<f64>),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

/// Where and why a text is not JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParseError {
    pub(super) reason: &'static str,
    pub(super) offset: usize,
}

/// Up to this magnitude, a float holds every integer exactly.
const LARGEST_EXACT: u64 = (1 << f32::MANTISSA_DIGITS) - 1;
/// Deepest nesting of lists and objects.
const MAX_DEPTH: usize = 64;
/// The error for a document that would take more memory than it may.
pub(super) const TOO_LARGE: &str = "The document takes too much memory.";

/// Parses the value that `bytes` start with, in at most `memory` bytes; returns how many it took.
pub(super) fn parse(bytes: &[u8], memory: usize) -> Result<(Value, usize), ParseError> {
    let mut parser = Parser { bytes, at: 0, depth: 0, left: memory };
    let _mark = parser.eat("\u{feff}".as_bytes());
    parser.skip_space();
    if parser.at == bytes.len() {
        return Err(parser.error("The document is empty."));
    }
    let value = parser.value()?;
    Ok((value, memory - parser.left))
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    /// Memory that may still be used.
    left: usize,
}

impl Parser<'_> {
    fn error(&self, reason: &'static str) -> ParseError {
        ParseError { reason, offset: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, wanted: &[u8]) -> bool {
        let found = self.bytes[self.at..].starts_with(wanted);
        if found {
            self.at += wanted.len();
        }
        found
    }

    fn value(&mut self) -> Result<Value, ParseError> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::list),
            Some(b'"') => Ok(Value::Text(self.text()?)),
            Some(b't') if self.eat(b"true") => Ok(Value::Bool(true)),
            Some(b'f') if self.eat(b"false") => Ok(Value::Bool(false)),
            Some(b'n') if self.eat(b"null") => Ok(Value::Null),
            _ => self.number(),
        }
    }

    fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Value, ParseError>,
    ) -> Result<Value, ParseError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("Nested too deeply."));
        }
        self.at += 1;
        self.skip_space();
        let value = read(self);
        self.depth -= 1;
        value
    }

    /// Counts memory that is about to be allocated.
    fn take(&mut self, bytes: usize) -> Result<(), ParseError> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| self.error(TOO_LARGE))?;
        Ok(())
    }

    /// Adds to a list, whose memory doubles when it is full.
    fn push<T>(&mut self, list: &mut Vec<T>, item: T) -> Result<(), ParseError> {
        if list.len() == list.capacity() {
            let more = list.len().max(4);
            // The old memory lives until it is copied.
            if self.left / size_of::<T>() < list.len() + more {
                return Err(self.error(TOO_LARGE));
            }
            self.take(size_of::<T>() * more)?;
            list.reserve_exact(more);
        }
        list.push(item);
        Ok(())
    }

    fn list(&mut self) -> Result<Value, ParseError> {
        let mut numbers = Vec::new();
        let mut others = Vec::new();
        if self.eat(b"]") {
            return Ok(Value::List(others));
        }
        loop {
            let value = self.value()?;
            if let Value::Number(number) = value
                && others.is_empty()
            {
                self.push(&mut numbers, number)?;
            } else {
                for number in std::mem::take(&mut numbers) {
                    self.push(&mut others, Value::Number(number))?;
                }
                self.push(&mut others, value)?;
            }
            self.skip_space();
            if self.eat(b"]") {
                break;
            }
            if !self.eat(b",") {
                return Err(self.error("Missing a comma or ] after an array element."));
            }
            self.skip_space();
        }
        Ok(if others.is_empty() { Value::Numbers(numbers) } else { Value::List(others) })
    }

    fn object(&mut self) -> Result<Value, ParseError> {
        let mut members = Vec::new();
        if self.eat(b"}") {
            return Ok(Value::Object(members));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error("Missing a name for object member."));
            }
            let name = self.text()?;
            self.skip_space();
            if !self.eat(b":") {
                return Err(self.error("Missing a colon after a name of object member."));
            }
            self.skip_space();
            let value = self.value()?;
            self.push(&mut members, (name, value))?;
            self.skip_space();
            if self.eat(b"}") {
                return Ok(Value::Object(members));
            }
            if !self.eat(b",") {
                return Err(self.error("Missing a comma or } after an object member."));
            }
            self.skip_space();
        }
    }

    fn text(&mut self) -> Result<String, ParseError> {
        let opening = self.at;
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest.iter().take_while(|b| !matches!(b, b'"' | b'\\' | 0..0x20)).count();
            // Appending doubles a vector, at the most.
            self.take(2 * plain)?;
            text.extend_from_slice(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape(&mut text)?,
                Some(_) => return Err(self.error("Invalid encoding in string.")),
                None => {
                    self.at = opening;
                    return Err(self.error("Missing a closing quotation mark in string."));
                }
            }
        }
        self.at += 1;
        String::from_utf8(text)
            .map_err(|_| ParseError { reason: "Invalid encoding in string.", offset: opening })
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), ParseError> {
        let escaped = self.bytes.get(self.at + 1).copied();
        let plain = match escaped {
            Some(plain @ (b'"' | b'\\' | b'/')) => plain,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let character = self.unicode()?;
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            Some(_) | None => return Err(self.error("Invalid escape character in string.")),
        };
        text.push(plain);
        self.at += 2;
        Ok(())
    }

    fn unicode(&mut self) -> Result<char, ParseError> {
        let wrong =
            ParseError { reason: "The surrogate pair in string is invalid.", offset: self.at };
        let first = self.hex()?;
        if !(0xD800..0xE000).contains(&first) {
            return char::from_u32(first).ok_or(wrong);
        }
        if !self.bytes[self.at..].starts_with(b"\\u") {
            return Err(wrong);
        }
        let second = self.hex()?;
        let pair = [first, second].map(|unit| u16::try_from(unit).unwrap_or_default());
        char::decode_utf16(pair).next().and_then(Result::ok).ok_or(wrong)
    }

    /// The four digits after `\u`.
    fn hex(&mut self) -> Result<u32, ParseError> {
        let digits = self.bytes.get(self.at + 2..self.at + 6).unwrap_or_default();
        let text = std::str::from_utf8(digits).unwrap_or_default();
        let is_hex = text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let code = u32::from_str_radix(text, 16).ok().filter(|_| is_hex);
        let code =
            code.ok_or_else(|| self.error("Incorrect hex digit after \\u escape in string."))?;
        self.at += 6;
        Ok(code)
    }

    fn number(&mut self) -> Result<Value, ParseError> {
        let begin = self.at;
        let negative = self.eat(b"-");
        let sign = if negative { -1.0 } else { 1.0 };
        if self.eat(b"NaN") {
            return Ok(Value::Number(f64::NAN));
        }
        if self.eat(b"Infinity") || self.eat(b"Inf") {
            return Ok(Value::Number(sign * f64::INFINITY));
        }
        let whole = self.digits();
        let leading_zero = whole > 1 && self.bytes[self.at - whole] == b'0';
        if whole == 0 || leading_zero {
            self.at = begin;
            return Err(self.error("Invalid value."));
        }
        if self.eat(b".") && self.digits() == 0 {
            return Err(self.error("Miss fraction part in number."));
        }
        if self.eat(b"e") || self.eat(b"E") {
            let _signed = self.eat(b"+") || self.eat(b"-");
            if self.digits() == 0 {
                return Err(self.error("Miss exponent in number."));
            }
        }
        let text = std::str::from_utf8(&self.bytes[begin..self.at]).unwrap_or_default();
        match text.parse::<f64>() {
            Ok(number) if is_large(text) => Ok(Value::Large(number)),
            Ok(number) if number.is_finite() => Ok(Value::Number(number)),
            Ok(_) | Err(_) => {
                self.at = begin;
                Err(self.error("Number too big to be stored in double."))
            }
        }
    }

    fn digits(&mut self) -> usize {
        let rest = &self.bytes[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }
}

/// Whether a number is written as a 64-bit integer, and is beyond what a float holds exactly.
fn is_large(number: &str) -> bool {
    let magnitude = match number.strip_prefix('-') {
        Some(_) => number.parse().map(i64::unsigned_abs),
        None => number.parse::<u64>(),
    };
    magnitude.is_ok_and(|magnitude| magnitude > LARGEST_EXACT)
}

impl Value {
    /// The first member with that name.
    pub(super) fn member(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The elements of a list; `None` for anything else.
    pub(super) fn items(&self) -> Option<Items<'_>> {
        match self {
            Self::Numbers(numbers) => Some(Items::Numbers(numbers)),
            Self::List(values) => Some(Items::Values(values)),
            Self::Null
            | Self::Bool(_)
            | Self::Number(_)
            | Self::Large(_)
            | Self::Text(_)
            | Self::Object(_) => None,
        }
    }

    /// Whether it is an object.
    pub(super) fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// The text of a `{"b64": "…"}` object.
    pub(super) fn base64(&self) -> Option<&str> {
        let Self::Object(members) = self else { return None };
        match members.as_slice() {
            [(name, Self::Text(text))] if name == "b64" => Some(text),
            _ => None,
        }
    }

    /// The name of its type in error messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "Null",
            Self::Bool(false) => "False",
            Self::Bool(true) => "True",
            Self::Number(_) | Self::Large(_) => "Number",
            Self::Text(_) => "String",
            Self::Numbers(_) | Self::List(_) => "Array",
            Self::Object(_) => "Object",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ParseError, TOO_LARGE, Value};

    fn parse(bytes: &[u8]) -> Result<Value, ParseError> {
        super::parse(bytes, 1 << 20).map(|(value, _)| value)
    }

    #[test]
    fn every_kind_of_value_reads() {
        let text = r#" {"a": [1, -2.5e1, NaN, -Infinity], "b": [true, null, 3], "c": "\u00e9\n\ud83d\ude00"} trailing"#;
        let value = parse(text.as_bytes()).unwrap();
        let Some(Value::Numbers(numbers)) = value.member("a") else { panic!("{value:?}") };
        assert_eq!(numbers[..2], [1.0, -25.0]);
        assert!(numbers[2].is_nan() && numbers[3] == f64::NEG_INFINITY);
        let list = vec![Value::Bool(true), Value::Null, Value::Number(3.0)];
        assert_eq!(value.member("b"), Some(&Value::List(list)));
        assert_eq!(value.member("c"), Some(&Value::Text("é\n😀".to_owned())));
    }

    #[test]
    fn faults_are_told_with_their_offset() {
        for (text, reason, offset) in [
            ("this", "Invalid value.", 0),
            ("  ", "The document is empty.", 2),
            ("{1}", "Missing a name for object member.", 1),
            ("{\"a\" 1}", "Missing a colon after a name of object member.", 5),
            ("[1 2]", "Missing a comma or ] after an array element.", 3),
            ("[01]", "Invalid value.", 1),
            ("\"abc", "Missing a closing quotation mark in string.", 0),
            ("1e999", "Number too big to be stored in double.", 0),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!((error.reason, error.offset), (reason, offset), "{text}");
        }
    }

    #[test]
    fn memory_is_counted_before_it_is_taken() {
        let numbers = format!("[{}1]", "1,".repeat(100_000));
        let lists = format!("[{}1]", "[],".repeat(100_000));
        let pairs = format!("[{}1]", "[1],".repeat(100_000));
        let objects = format!("[{}1]", "{\"a\":0},".repeat(100_000));
        let texts = format!("[{}1]", "\"abc\",".repeat(100_000));
        for text in [numbers, lists, pairs, objects, texts] {
            let measured = allocation_counter::measure(|| {
                let error = super::parse(text.as_bytes(), 300_000).unwrap_err();
                assert_eq!(error.reason, TOO_LARGE);
            });
            assert!(measured.bytes_max < 310_000, "{measured:?} {}", &text[..20]);
            let (_value, taken) = super::parse(text.as_bytes(), 100 << 20).unwrap();
            assert!(taken < 60 * text.len(), "{taken} {}", &text[..20]);
        }
    }

    #[test]
    fn whole_numbers_beyond_a_float_are_told_apart() {
        for text in ["16777216", "-16777216", "18446744073709551615", "-9223372036854775808"] {
            let number = text.parse().unwrap();
            assert_eq!(parse(text.as_bytes()), Ok(Value::Large(number)));
            let list = format!("[1, {text}]");
            let list = parse(list.as_bytes());
            assert_eq!(list, Ok(Value::List(vec![Value::Number(1.0), Value::Large(number)])));
        }
        for text in ["16777215", "-16777215", "16777216.0", "1e9", "18446744073709551616"] {
            assert_eq!(parse(text.as_bytes()), Ok(Value::Number(text.parse().unwrap())));
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(parse("\u{feff}[1]".as_bytes()), Ok(Value::Numbers(vec![1.0])));
    }

    #[test]
    fn a_very_deep_text_is_refused_and_not_a_crash() {
        let error = parse("[".repeat(1_000_000).as_bytes()).unwrap_err();
        assert_eq!(error.reason, "Nested too deeply.");
    }

    proptest! {
        #[test]
        fn agrees_with_serde_on_what_serde_reads(text in "[\\[\\]{},:\"0-9a-c. \\\\utrefalsn-]{0,40}") {
            let ours = parse(text.as_bytes());
            if let Ok(theirs) = serde_json::from_str::<serde_json::Value>(&text) {
                let quoted = ours.as_ref().map(Value::quoted);
                let again: serde_json::Value = serde_json::from_str(&quoted.unwrap()).unwrap();
                prop_assert_eq!(number_free(&again), number_free(&theirs));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = parse(&bytes);
        }
    }

    /// serde keeps the first of `-0` and `0.0`, and the last of equal keys; compare the rest.
    fn number_free(value: &serde_json::Value) -> String {
        match value {
            serde_json::Value::Number(number) => format!("{:?}", number.as_f64().map(f64::abs)),
            serde_json::Value::Array(items) => items.iter().map(number_free).collect(),
            serde_json::Value::Object(members) => members.keys().cloned().collect(),
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::String(_) => {
                value.to_string()
            }
        }
    }
}
