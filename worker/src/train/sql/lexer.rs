//! Tokens of the statement's head, each with its place in the file.
//!
//! The query itself goes to SQLite unchanged, with all of its syntax; here only its end is searched
//! for, if it is in parentheses. Any text gives tokens or an error, never a panic.

use std::fmt;

/// A position in the file, counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The line, counted from 1.
    pub(super) line: usize,
    /// The character within the line, counted from 1.
    pub(super) column: usize,
}

/// What is wrong with a statement, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub(super) struct Complaint {
    /// Where in the statement the mistake is.
    pub(super) place: Position,
    /// What is wrong, and how to put it right.
    pub(super) message: String,
}

/// The kinds of token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A keyword or a plain name.
    Word(String),
    /// A name in backquotes.
    Quoted(String),
    /// A text in single or double quotes.
    Text(String),
    /// A numeric literal.
    Number(f64),
    /// One of `( ) [ ] , = .` or another single character.
    Symbol(char),
    /// The end of the file.
    End,
}

/// A token with its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    /// What it is.
    pub(super) kind: Kind,
    /// Where it starts.
    pub(super) place: Position,
    /// Byte at which it starts.
    pub(super) start: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) | Self::Quoted(word) => write!(f, "`{word}`"),
            Self::Text(text) => write!(f, "the text '{text}'"),
            Self::Number(number) => write!(f, "the number {number}"),
            Self::Symbol(symbol) => write!(f, "`{symbol}`"),
            Self::End => write!(f, "the end of the file"),
        }
    }
}

/// The place of byte `at`, which may have any value.
pub(super) fn place_of(text: &str, at: usize) -> Position {
    let before = text.char_indices().take_while(|(start, _)| *start < at);
    before.fold(Position { line: 1, column: 1 }, |place, (_, c)| place.after(c))
}

impl Position {
    fn after(self, c: char) -> Self {
        match c {
            '\n' => Self { line: self.line + 1, column: 1 },
            _ => Self { column: self.column + 1, ..self },
        }
    }
}

/// Reads one token after another.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// A byte before the next token, and its place.
    placed: (usize, Position),
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, placed: (0, Position { line: 1, column: 1 }) }
    }

    /// The next token; [`Kind::End`] forever after the last.
    pub(super) fn next(&mut self) -> Result<Token, Complaint> {
        self.skip_space()?;
        let start = self.at;
        let place = self.place();
        let kind = match self.peek() {
            None => Kind::End,
            Some(quote @ ('\'' | '"')) => Kind::Text(self.quoted(quote, place)?),
            Some('`') => Kind::Quoted(self.quoted('`', place)?),
            Some(c) if c.is_ascii_digit() || self.starts_number(c) => self.number(place)?,
            Some(c) if c.is_alphabetic() || c == '_' => {
                Kind::Word(self.take_while(|c| c.is_alphanumeric() || c == '_').to_owned())
            }
            Some(c) => {
                self.at += c.len_utf8();
                Kind::Symbol(c)
            }
        };
        Ok(Token { kind, place, start })
    }

    /// The place of the next character, counted on from the last place that was requested.
    fn place(&mut self) -> Position {
        let (from, place) = self.placed;
        let place = self.text[from..self.at].chars().fold(place, Position::after);
        self.placed = (self.at, place);
        place
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn starts_number(&self, c: char) -> bool {
        let next = self.rest().chars().nth(1);
        matches!(c, '-' | '.') && next.is_some_and(|c| c.is_ascii_digit() || c == '.')
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Skips spaces, `-- …`, `# …` and `/* … */`.
    fn skip_space(&mut self) -> Result<(), Complaint> {
        loop {
            self.take_while(char::is_whitespace);
            let rest = self.rest();
            if rest.starts_with("--") || rest.starts_with('#') {
                self.take_while(|c| c != '\n');
            } else if rest.starts_with("/*") {
                let Some(end) = rest.find("*/") else {
                    let message = "this comment has no end: add */".to_owned();
                    return Err(Complaint { place: self.place(), message });
                };
                self.at += end + 2;
            } else {
                return Ok(());
            }
        }
    }

    /// The text up to the closing `quote`, which is doubled or escaped by `\` inside.
    fn quoted(&mut self, quote: char, place: Position) -> Result<String, Complaint> {
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            let doubled = c == quote && chars.peek().is_some_and(|(_, next)| *next == quote);
            if c == quote && !doubled {
                self.at += at + c.len_utf8();
                return Ok(text);
            }
            let escaped = if c == '\\' || doubled { chars.next() } else { None };
            text.push(escaped.map_or(c, |(_, next)| next));
        }
        Err(Complaint { place, message: format!("this quote has no end: add {quote}") })
    }

    fn number(&mut self, place: Position) -> Result<Kind, Complaint> {
        let start = self.at;
        self.at += self.peek().map_or(0, char::len_utf8);
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '.');
        if self.text[start..self.at].ends_with(['e', 'E']) && self.rest().starts_with(['-', '+']) {
            self.at += 1;
            self.take_while(|c| c.is_ascii_alphanumeric());
        }
        let digits = &self.text[start..self.at];
        match digits.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Kind::Number(number)),
            _ => Err(Complaint { place, message: format!("`{digits}` is not a number") }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        let mut lexer = Lexer::new(text);
        let next = || lexer.next().unwrap().kind;
        std::iter::repeat_with(next).take_while(|kind| *kind != Kind::End).collect()
    }

    #[test]
    fn words_texts_numbers_and_comments() {
        let text = "a_1 -- so\n 'it''s' \"x\\\"y\" `b c` /* \n */ -2.5e-1 # end\n[.5]";
        let word = |w: &str| Kind::Word(w.to_owned());
        let quoted = |w: &str| Kind::Text(w.to_owned());
        let expected = vec![
            word("a_1"),
            quoted("it's"),
            quoted("x\"y"),
            Kind::Quoted("b c".to_owned()),
            Kind::Number(-0.25),
            Kind::Symbol('['),
            Kind::Number(0.5),
            Kind::Symbol(']'),
        ];
        assert_eq!(kinds(text), expected);
    }

    #[test]
    fn places_count_lines_and_characters() {
        let mut lexer = Lexer::new("é é\n  x");
        let places: Vec<String> = (0..3).map(|_| lexer.next().unwrap().place.to_string()).collect();
        assert_eq!(places, ["line 1, column 1", "line 1, column 3", "line 2, column 3"]);
    }

    #[test]
    fn what_is_left_open_is_told_where_it_began() {
        for (text, place) in [("a 'b", "line 1, column 3"), ("\n/* b", "line 2, column 1")] {
            let mut lexer = Lexer::new(text);
            let error = loop {
                if let Err(error) = lexer.next() {
                    break error.to_string();
                }
            };
            assert!(error.starts_with(place) && error.contains("no end"), "{error}");
        }
    }
}
