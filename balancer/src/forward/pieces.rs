//! The pieces of an answer that wait for its client; pure.
//!
//! A worker may send an answer in a great many short pieces, each received into its own buffer. The
//! limits count bytes, and memory has to match them, so short pieces are joined while they wait.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// An answer is handed over in pieces of at most this size, so that taking one says something about
/// the client. Shorter pieces that wait are joined up to this size.
const MAX_PIECE: usize = 16 * 1024;

/// The pieces, in order.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    queue: VecDeque<Bytes>,
    /// Short pieces that arrived after those.
    short: BytesMut,
    held: usize,
}

impl Pieces {
    /// Total bytes of all pieces.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Adds a piece. If no other waits, it is about to be taken and is left as it is.
    pub(super) fn push(&mut self, piece: Bytes) {
        let is_next = self.held == 0;
        self.held += piece.len();
        if is_next || piece.len() >= MAX_PIECE {
            self.finish_short();
            self.queue.push_back(piece);
            return;
        }
        if self.short.len() + piece.len() > MAX_PIECE {
            self.finish_short();
        }
        self.short.extend_from_slice(&piece);
    }

    fn finish_short(&mut self) {
        if !self.short.is_empty() {
            self.queue.push_back(std::mem::take(&mut self.short).freeze());
        }
    }

    /// Takes the next piece.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.queue.is_empty() {
            self.finish_short();
        }
        let first = self.queue.front_mut()?;
        let piece = if first.len() > MAX_PIECE {
            first.split_to(MAX_PIECE)
        } else {
            self.queue.pop_front().unwrap_or_default()
        };
        self.held -= piece.len();
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_pieces_that_wait_take_no_more_memory_than_their_bytes() {
        let mut pieces = Pieces::default();
        for _ in 0..50_000 {
            let mut received = BytesMut::with_capacity(64 * 1024);
            received.extend_from_slice(b"0123456789");
            pieces.push(received.freeze());
        }
        assert_eq!(pieces.held(), 500_000);
        let count = pieces.queue.len() + usize::from(!pieces.short.is_empty());
        assert!(count <= 500_000 / MAX_PIECE + 3, "{count} buffers");
        let taken: usize = std::iter::from_fn(|| pieces.pop()).map(|piece| piece.len()).sum();
        assert_eq!((taken, pieces.held()), (500_000, 0));
    }

    proptest! {
        #[test]
        fn what_was_added_is_taken_in_its_order(
            lengths in prop::collection::vec((1_usize..40_000, 0_usize..4), 0..30),
        ) {
            let (mut pieces, mut added, mut taken) = (Pieces::default(), Vec::new(), Vec::new());
            for (number, (length, pops)) in (0_u8..).zip(lengths) {
                // Most pieces should be short.
                let length = if length % 3 == 0 { length } else { length % 50 + 1 };
                let piece = vec![number; length];
                added.extend_from_slice(&piece);
                pieces.push(piece.into());
                for _ in 0..pops {
                    let piece = pieces.pop().unwrap_or_default();
                    prop_assert!(piece.len() <= MAX_PIECE);
                    taken.extend_from_slice(&piece);
                }
                prop_assert_eq!(pieces.held(), added.len() - taken.len());
            }
            std::iter::from_fn(|| pieces.pop()).for_each(|piece| taken.extend_from_slice(&piece));
            prop_assert_eq!(taken, added);
        }
    }
}
