//! An answer whose bytes have all arrived, read by the rules by which a connection reads its socket. The
//! test `heads` of the balancer and the fuzz target `answer` compare it with another parser.

use bytes::BytesMut;
use http::HeaderMap;

use crate::framing::{Decoded, Framing};
use crate::head::{self, Head};

/// What the bytes of an endpoint amount to.
#[derive(Debug)]
pub enum Reading {
    /// The whole response.
    Complete(Box<Whole>),
    /// The beginning of one.
    Pending,
    /// No response, or none that is framed properly.
    Refused,
}

/// A response that is complete.
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
    /// In the pieces in which it came.
    pub pieces: &'a [&'a [u8]],
    /// Whether the connection ends behind them.
    pub is_closed: bool,
}

/// Reads the pieces one after the other.
pub fn read_whole(sent: Sent<'_>, is_head_request: bool) -> Reading {
    let Sent { pieces, is_closed } = sent;
    let mut input = BytesMut::new();
    let mut found = None;
    let mut body = Vec::new();
    let mut framing = Framing::Length(0);
    for piece in pieces {
        input.extend_from_slice(piece);
        if found.is_none() {
            match head::parse(&mut input, is_head_request, HeaderMap::new) {
                Ok(Some(parsed)) => framing = found.insert(parsed).framing,
                Ok(None) => continue,
                Err(_) => return Reading::Refused,
            }
        }
        while !framing.is_end() {
            match framing.decode(&mut input) {
                Ok(Decoded::Data(data)) => body.extend_from_slice(&data),
                Ok(Decoded::More | Decoded::End) => break,
                Err(_) => return Reading::Refused,
            }
        }
    }
    let is_whole = framing.is_end() || is_closed && framing == Framing::UntilClose;
    match found {
        Some(head) if is_whole => {
            let keeps = head.keeps && input.is_empty() && !is_closed;
            Reading::Complete(Box::new(Whole { head, body, keeps }))
        }
        _ if is_closed => Reading::Refused,
        _ => Reading::Pending,
    }
}
