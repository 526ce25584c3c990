//! JSON as TF Serving reads it: NaN and Infinity are numbers, and bytes after the value are ignored.
//!
//! Numbers are what requests are made of, so a list of nothing else is kept as plain floats; the
//! rest is bounded in count and in depth, so that no body can eat memory or the stack.

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    /// A list that has nothing but numbers, at least one.
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

/// Deepest nesting of lists and objects.
const MAX_DEPTH: usize = 64;
/// Most values that are not plain numbers.
const MAX_VALUES: usize = 1_000_000;

/// Reads the value that `bytes` start with.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, ParseError> {
    let mut parser = Parser { bytes, at: 0, depth: 0, values: 0 };
    parser.skip_space();
    if parser.at == bytes.len() {
        return Err(parser.error("The document is empty."));
    }
    parser.value()
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    values: usize,
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
            _ => self.number().map(Value::Number),
        }
    }

    fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Value, ParseError>,
    ) -> Result<Value, ParseError> {
        self.depth += 1;
        self.values += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("Nested too deeply."));
        }
        if self.values > MAX_VALUES {
            return Err(self.error("Too many values."));
        }
        self.at += 1;
        self.skip_space();
        let value = read(self);
        self.depth -= 1;
        value
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
                numbers.push(number);
            } else {
                self.values += 1 + numbers.len();
                others.extend(numbers.drain(..).map(Value::Number));
                others.push(value);
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
            self.values += 1;
            members.push((name, self.value()?));
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

    fn number(&mut self) -> Result<f64, ParseError> {
        let begin = self.at;
        let negative = self.eat(b"-");
        let sign = if negative { -1.0 } else { 1.0 };
        if self.eat(b"NaN") {
            return Ok(f64::NAN);
        }
        if self.eat(b"Infinity") || self.eat(b"Inf") {
            return Ok(sign * f64::INFINITY);
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
            Ok(number) if number.is_finite() => Ok(number),
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

impl Value {
    /// The first member of that name.
    pub(super) fn member(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(known, _)| known == name).map(|(_, value)| value)
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

    /// What error messages call its type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "Null",
            Self::Bool(false) => "False",
            Self::Bool(true) => "True",
            Self::Number(_) => "Number",
            Self::Text(_) => "String",
            Self::Numbers(_) | Self::List(_) => "Array",
            Self::Object(_) => "Object",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Value, parse};
    use proptest::prelude::*;

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
