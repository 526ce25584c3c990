//! Where the body of a response ends; pure.
//!
//! Answers are framed as in RFC 9112 (6.3): by a length, in chunks, or by closing the connection.
//! Everything is bounded and anything unexpected is an error, because answers get mixed up when two
//! programs read a length differently.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderName, HeaderValue};

/// Longest line before a chunk, and maximum size of the trailers, in bytes.
const MAX_LINE: usize = 4096;
/// Maximum number of fields in the trailers; hyper, with which answers are compared, takes 100.
const MAX_TRAILERS: usize = 64;

/// How the rest of a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This many more bytes; 0 is the end.
    Length(u64),
    /// Chunked transfer coding.
    Chunked(Chunk),
    /// Everything until the connection is closed.
    UntilClose,
}

/// Position of the next byte in the sequence of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// At the line with the size.
    Size,
    /// This many bytes before the end of a chunk.
    Data(u64),
    /// At the line break after a chunk.
    Break,
    /// In the trailers.
    Trailers {
        /// Number of bytes read so far.
        bytes: usize,
        /// Number of fields read so far.
        fields: usize,
    },
}

/// Outcome of decoding the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A part of the body.
    Data(Bytes),
    /// Nothing yet: more bytes are needed.
    More,
    /// The body is complete.
    End,
}

/// The body is not framed properly.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not framed properly")]
pub struct Misframed;

impl Framing {
    /// Whether the body is complete.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Length(0))
    }

    /// Number of bytes still to come, if known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(rest) => Some(*rest),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Takes the next part of the body from `input`.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, Misframed> {
        loop {
            match self {
                Self::Length(0) => return Ok(Decoded::End),
                _ if input.is_empty() => return Ok(Decoded::More),
                Self::Length(rest) => return Ok(Decoded::Data(take(input, rest))),
                Self::UntilClose => return Ok(Decoded::Data(input.split().freeze())),
                Self::Chunked(Chunk::Data(rest)) => {
                    let data = take(input, rest);
                    if *rest == 0 {
                        *self = Self::Chunked(Chunk::Break);
                        self.look_ahead(input);
                    }
                    return Ok(Decoded::Data(data));
                }
                Self::Chunked(place) => match place.line(input)? {
                    Some(next) => *self = next,
                    None => return Ok(Decoded::More),
                },
            }
        }
    }

    /// Reads the lines after a chunk that have already arrived, so that the end of a body is known
    /// together with its last byte. Errors in them are left to the next call.
    fn look_ahead(&mut self, input: &mut BytesMut) {
        while let Self::Chunked(place) = self
            && let Ok(Some(next)) = place.line(input)
        {
            *self = next;
        }
    }
}

impl Chunk {
    /// Reads the next line, if all of it has arrived; returns what follows it.
    fn line(&self, input: &mut BytesMut) -> Result<Option<Framing>, Misframed> {
        if let Self::Data(_) = self {
            return Ok(None);
        }
        let Some(end) = memchr::memchr(b'\n', input) else {
            return if input.len() > MAX_LINE { Err(Misframed) } else { Ok(None) };
        };
        let line = input[..end].strip_suffix(b"\r").ok_or(Misframed)?;
        let next = match self {
            Self::Size => match size(line)? {
                0 => Framing::Chunked(Self::Trailers { bytes: 0, fields: 0 }),
                size => Framing::Chunked(Self::Data(size)),
            },
            Self::Break if line.is_empty() => Framing::Chunked(Self::Size),
            Self::Trailers { .. } if line.is_empty() => Framing::Length(0),
            Self::Trailers { bytes, fields }
                if bytes + end <= MAX_LINE && *fields < MAX_TRAILERS && is_field(line) =>
            {
                Framing::Chunked(Self::Trailers { bytes: bytes + end, fields: fields + 1 })
            }
            Self::Break | Self::Trailers { .. } | Self::Data(_) => return Err(Misframed),
        };
        input.advance(end + 1);
        Ok(Some(next))
    }
}

/// Whether a line is a well-formed field. Trailers must be, even though they are dropped.
fn is_field(line: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else { return false };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    HeaderName::from_bytes(name).is_ok() && HeaderValue::from_bytes(value).is_ok()
}

/// The size in the line before a chunk: hexadecimal digits, optionally followed by an extension.
fn size(line: &[u8]) -> Result<u64, Misframed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let extension = rest.trim_ascii_start();
    let is_extension = extension.is_empty() || extension.starts_with(b";");
    // Some parsers end the line at a lone carriage return.
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    let is_line = is_extension && !rest.iter().any(is_control) && line.len() <= MAX_LINE;
    if !(1..=15).contains(&digits.len()) || !is_line {
        return Err(Misframed);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Misframed)?;
    u64::from_str_radix(text, 16).map_err(|_| Misframed)
}

fn take(input: &mut BytesMut, rest: &mut u64) -> Bytes {
    let length = usize::try_from(*rest).unwrap_or(usize::MAX).min(input.len());
    *rest -= length as u64;
    input.split_to(length).freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A body, and the bytes left after its end.
    type Whole = (Vec<u8>, Vec<u8>);

    /// Feeds the given pieces; `None` while the body is not complete.
    fn body(mut framing: Framing, pieces: &[&[u8]]) -> Result<Option<Whole>, Misframed> {
        let (mut input, mut body, mut is_over) = (BytesMut::new(), Vec::new(), false);
        for piece in pieces {
            input.extend_from_slice(piece);
            while !is_over {
                match framing.decode(&mut input)? {
                    Decoded::Data(data) => body.extend_from_slice(&data),
                    Decoded::More => break,
                    Decoded::End => is_over = true,
                }
            }
        }
        Ok(is_over.then(|| (body, input.to_vec())))
    }

    const CHUNKED: Framing = Framing::Chunked(Chunk::Size);

    #[test]
    fn a_length_ends_where_it_says() {
        let (data, rest) =
            body(Framing::Length(5), &[b"hel", b"lo!"]).expect("framed").expect("all");
        assert_eq!((data.as_slice(), rest.as_slice()), (&b"hello"[..], &b"!"[..]));
        assert_eq!(body(Framing::Length(5), &[b"hel"]), Ok(None));
    }

    #[test]
    fn chunks_extensions_and_trailers_are_understood() {
        let wire = b"5\r\nhello\r\n00A;x=\"y\"\r\n, my world\r\n0\r\nx-sum: 1\r\n\r\nrest";
        let (data, rest) = body(CHUNKED, &[wire]).expect("framed").expect("all");
        assert_eq!((data.as_slice(), rest.as_slice()), (&b"hello, my world"[..], &b"rest"[..]));
    }

    #[test]
    fn odd_chunks_are_refused() {
        let long = [b"1;".as_slice(), &[b'x'; MAX_LINE + 1]].concat();
        for wire in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b"1_0\r\n",
            b"5\nhello\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"1 x\r\na\r\n",
            b"1;x\ry\r\na\r\n",
            b"1\r\r\na\r\n",
            b"1\x0c\r\na\r\n",
            b"0\r\nno field\r\n\r\n",
            b"0\r\nx\0: 1\r\n\r\n",
            b"0\r\nx: \x0c1\r\n\r\n",
            &long,
        ] {
            assert_eq!(body(CHUNKED, &[wire]), Err(Misframed), "{}", wire.escape_ascii());
        }
    }

    /// A fuzz target found 153 that hyper refuses.
    #[test]
    fn trailers_are_limited_in_bytes_and_in_fields() {
        let trailers = |field: &str, count| format!("0\r\n{}\r\n", field.repeat(count));
        for (field, count) in [("a: 1\r\n", 64), ("a: 0123456789012345678901234567\r\n", 64)] {
            let wire = trailers(field, count);
            assert!(matches!(body(CHUNKED, &[wire.as_bytes()]), Ok(Some(_))), "{count} {field}");
        }
        let long = format!("a: {}\r\n", "x".repeat(1000));
        for (field, count) in [("a: 1\r\n", 65), (long.as_str(), 5)] {
            let wire = trailers(field, count);
            assert_eq!(body(CHUNKED, &[wire.as_bytes()]), Err(Misframed), "{count} {field}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_chunks_arrive(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cut in 1_usize..9,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let pieces: Vec<&[u8]> = wire.chunks(cut).collect();
            prop_assert_eq!(body(CHUNKED, &pieces), Ok(Some((chunks.concat(), Vec::new()))));
        }

        #[test]
        fn no_bytes_are_a_panic(wire in prop::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = body(CHUNKED, &[&wire]);
        }
    }
}
