//! Reads an answer whose bytes have all arrived, by the rules that a connection applies to its
//! socket. The balancer's test `heads` and the fuzz target `answer` compare it with another parser.

use http::HeaderMap;

use crate::framing::{Decoded, Misframed};
use crate::head::{Head, Malformed};
use crate::reader::AnswerReader;

/// Outcome of reading the bytes from an endpoint.
#[derive(Debug)]
pub enum Reading {
    /// The whole response.
    Complete(Box<Whole>),
    /// The beginning of one.
    Pending,
    /// Not a response, or not framed properly.
    Refused,
}

/// A complete response.
#[derive(Debug)]
pub struct Whole {
    /// Status and fields.
    pub head: Head,
    /// All of the body.
    pub body: Vec<u8>,
    /// Whether the connection can carry another request.
    pub keeps: bool,
}

/// What an endpoint has sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// The bytes, in the pieces in which they arrived.
    pub pieces: &'a [&'a [u8]],
    /// Whether the connection was closed after them.
    pub is_closed: bool,
}

/// Reads the pieces in sequence.
pub fn read_whole(sent: Sent<'_>, is_head_request: bool) -> Reading {
    let Sent { pieces, is_closed } = sent;
    let mut reader = AnswerReader::default();
    reader.begin();
    let mut found = None;
    let mut body = Vec::new();
    for piece in pieces {
        reader.input.extend_from_slice(piece);
        if found.is_none() {
            match reader.head(is_head_request, HeaderMap::new) {
                Ok(Some(head)) => found = Some(head),
                Ok(None) => continue,
                Err(Malformed) => return Reading::Refused,
            }
        }
        loop {
            match reader.part() {
                Ok(Decoded::Data(data)) => body.extend_from_slice(&data),
                Ok(Decoded::More | Decoded::End) => break,
                Err(Misframed) => return Reading::Refused,
            }
        }
    }
    let is_whole = if is_closed { reader.close() } else { reader.is_at_end() };
    match found {
        Some(head) if is_whole => {
            let keeps = reader.is_done() && !is_closed;
            Reading::Complete(Box::new(Whole { head, body, keeps }))
        }
        _ if is_closed => Reading::Refused,
        _ => Reading::Pending,
    }
}
