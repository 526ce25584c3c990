//! Reads the answers that come over one connection, one after the other. What was received is put into
//! [`Reader::input`]; pure.

use bytes::BytesMut;
use http::HeaderMap;

use crate::framing::{Decoded, Framing, Misframed};
use crate::head::{self, Head, Looks, Malformed};

/// Room for an answer that is short, head and body.
pub const SHORT: usize = 4 * 1024;
/// Most room for what is received at a time.
const LONG: usize = 64 * 1024;

/// How far the answers of a connection have been read.
#[derive(Debug)]
pub struct Reader {
    /// What was received and not read yet.
    pub input: BytesMut,
    looks: Looks,
    framing: Framing,
    /// Whether the connection can carry another request after this answer.
    keeps: bool,
}

impl Default for Reader {
    /// Of a new connection.
    fn default() -> Self {
        let (input, looks) = (BytesMut::new(), Looks::default());
        Self { input, looks, framing: Framing::Length(0), keeps: true }
    }
}

impl Reader {
    /// A request goes out: the connection carries no other one until its answer says so.
    pub fn begin(&mut self) {
        self.keeps = false;
        self.looks = Looks::default();
    }

    /// The head of the answer, if all of it is here; `spare` gives an empty list for its fields.
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

    /// What is here of the answer's body.
    pub fn part(&mut self) -> Result<Decoded, Misframed> {
        self.framing.decode(&mut self.input)
    }

    /// How many bytes there should be room for when more is received.
    pub fn room(&self) -> usize {
        let wanted = self.framing.remaining().unwrap_or(LONG as u64);
        usize::try_from(wanted).unwrap_or(LONG).clamp(SHORT, LONG)
    }

    /// The other side sends nothing more: whether the body ends there, or was cut off.
    pub fn close(&mut self) -> bool {
        if self.framing == Framing::UntilClose {
            self.framing = Framing::Length(0);
        }
        self.is_at_end()
    }

    /// Whether the answer's body is complete.
    pub fn is_at_end(&self) -> bool {
        self.framing.is_end()
    }

    /// Bytes of the answer's body that are still to come, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        self.framing.remaining()
    }

    /// Whether all of the answer was read and the connection can carry another request.
    pub fn is_done(&self) -> bool {
        self.keeps && self.is_at_end() && self.input.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoded, HeaderMap, Reader};

    /// An answer with a head of `length` bytes.
    fn answer(length: usize) -> String {
        let (before, after) = ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: ", "\r\n\r\nok");
        before.to_owned() + &"v".repeat(length + 2 - before.len() - after.len()) + after
    }

    /// Longer ones are not looked at whenever a byte comes: wherever the last look was, the end is seen.
    #[test]
    fn a_long_head_is_found_with_its_last_byte_however_it_comes() {
        for length in 4090..4700 {
            let wire = answer(length);
            for size in [1, 2, 3, 64] {
                let mut reader = Reader::default();
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
        let mut reader = Reader::default();
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
