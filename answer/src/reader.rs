//! Reads the answers that arrive over one connection, in sequence. The caller appends the received
//! bytes to [`AnswerReader::input`]; pure.

use bytes::BytesMut;
use http::HeaderMap;

use crate::framing::{Decoded, Framing, Misframed};
use crate::head::{self, Head, Looks, Malformed};

/// Room for a short answer, head and body.
pub const SHORT: usize = 4 * 1024;
/// Maximum room for a single receive.
const LONG: usize = 64 * 1024;

/// How far the answers of a connection have been read.
#[derive(Debug)]
pub struct AnswerReader {
    /// Bytes that were received but not read yet.
    pub input: BytesMut,
    looks: Looks,
    framing: Framing,
    /// Whether the connection can carry another request after this answer.
    keeps: bool,
}

impl Default for AnswerReader {
    /// The reader of a new connection.
    fn default() -> Self {
        let (input, looks) = (BytesMut::new(), Looks::default());
        Self { input, looks, framing: Framing::Length(0), keeps: true }
    }
}

impl AnswerReader {
    /// Notes that a request is sent: the connection carries no other until the answer allows it.
    #[inline]
    pub fn begin(&mut self) {
        self.keeps = false;
        self.looks = Looks::default();
    }

    /// The head of the answer, if all of it has arrived; `spare` provides an empty map
    /// for its fields.
    #[inline]
    pub fn head(
        &mut self,
        is_head_request: bool,
        spare: impl FnOnce() -> HeaderMap,
    ) -> Result<Option<Head>, Malformed> {
        if !self.looks.is_due(&self.input) {
            return Ok(None);
        }
        let head = head::parse(&mut self.input, is_head_request, spare)?;
        match &head {
            Some(head) => (self.framing, self.keeps) = (head.framing, head.keeps),
            None => self.looks.note(&self.input),
        }
        Ok(head)
    }

    /// The next part of the answer's body, as far as it has arrived.
    #[inline]
    pub fn part(&mut self) -> Result<Decoded, Misframed> {
        self.framing.decode(&mut self.input)
    }

    /// How many bytes to make room for when receiving more.
    #[inline]
    pub fn room(&self) -> usize {
        let wanted = self.framing.remaining().unwrap_or(LONG as u64);
        usize::try_from(wanted).unwrap_or(LONG).clamp(SHORT, LONG)
    }

    /// Notes that the other side sends nothing more; returns whether the body ends there, rather
    /// than being cut off.
    #[inline]
    pub fn close(&mut self) -> bool {
        if self.framing == Framing::UntilClose {
            self.framing = Framing::Length(0);
        }
        self.is_at_end()
    }

    /// Whether the answer's body is complete.
    #[inline]
    pub fn is_at_end(&self) -> bool {
        self.framing.is_end()
    }

    /// Number of bytes of the answer's body still to come, if known.
    #[inline]
    pub fn remaining(&self) -> Option<u64> {
        self.framing.remaining()
    }

    /// Whether all of the answer was read and the connection can carry another request.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.keeps && self.is_at_end() && self.input.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{AnswerReader, Decoded, HeaderMap};

    /// An answer with a head of `length` bytes.
    fn answer(length: usize) -> String {
        let (before, after) = ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: ", "\r\n\r\nok");
        before.to_owned() + &"v".repeat(length + 2 - before.len() - after.len()) + after
    }

    /// Longer heads are not parsed for every byte, but the end is found wherever the last
    /// attempt was.
    #[test]
    fn a_long_head_is_found_with_its_last_byte_however_it_comes() {
        for length in 4090..4700 {
            let wire = answer(length);
            for size in [1, 2, 3, 64] {
                let mut reader = AnswerReader::default();
                reader.begin();
                let mut received = 0;
                let found_at = wire.as_bytes().chunks(size).find_map(|piece| {
                    received += piece.len();
                    reader.input.extend_from_slice(piece);
                    reader.head(false, HeaderMap::new).expect("a head").map(|_| received)
                });
                let least = length.next_multiple_of(size).min(wire.len());
                assert_eq!(found_at, Some(least), "of {length} bytes, in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_connection_is_done_with_the_last_byte_of_the_answer_and_of_no_other() {
        let mut reader = AnswerReader::default();
        assert!(reader.is_done(), "it is new");
        reader.begin();
        assert!(!reader.is_done(), "it waits for an answer");
        reader.input.extend_from_slice(answer(100).as_bytes());
        assert!(reader.head(false, HeaderMap::new).expect("a head").is_some());
        assert!(!reader.is_done() && reader.remaining() == Some(2), "it waits for the body");
        assert_eq!(reader.part(), Ok(Decoded::Data("ok".into())));
        assert!(reader.is_done());
        reader.input.extend_from_slice(b"H");
        assert!(!reader.is_done(), "what was not asked for is in the way");
    }
}
