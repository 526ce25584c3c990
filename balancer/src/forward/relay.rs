//! An answer that is read from its endpoint whether or not its client reads it.
//!
//! A client can be slow for longer than an endpoint should be kept waiting. So a separate task
//! reads the answer into memory, up to one bound per answer and another per thread. Only beyond
//! that does the endpoint wait for the client, and no longer than the request's time limit; then
//! the answer is given up, and the endpoint is free.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::pieces::Pieces;
use super::stream::{BrokenOff, Piece, Stream};
use crate::shard::Shard;

/// Maximum number of bytes of one answer that may wait for its client.
const MAX_AHEAD: usize = 4 * 1024 * 1024;

/// An answer between its endpoint and its client. Dropping it releases both.
#[derive(Debug)]
pub(super) struct Relay {
    shared: Rc<Shared>,
    reader: JoinHandle<()>,
    /// Whether a piece was taken that the client's side has not had time to send.
    is_unsent: bool,
}

/// What the reader and the client's side share.
#[derive(Debug)]
struct Shared {
    shard: Rc<Shard>,
    /// Key of the answer in the backlog.
    key: usize,
    /// `None` once nothing more comes from the endpoint.
    source: RefCell<Option<Stream>>,
    pieces: RefCell<Pieces>,
    error: Cell<Option<BrokenOff>>,
    /// The reader's waker, while it waits for room.
    reader: RefCell<Option<Waker>>,
    /// The waker of the client's side, while it waits for a piece.
    writer: RefCell<Option<Waker>>,
}

impl Relay {
    /// Starts reading `stream`; `key` is that of its answer in the backlog.
    pub(super) fn start(stream: Stream, shard: Rc<Shard>, key: usize) -> Self {
        let both = Rc::new(Shared {
            shard,
            key,
            source: RefCell::new(Some(stream)),
            pieces: RefCell::default(),
            error: Cell::new(None),
            reader: RefCell::default(),
            writer: RefCell::default(),
        });
        let reading = Rc::clone(&both);
        let reader = tokio::task::spawn_local(poll_fn(move |context| reading.poll_read(context)));
        Self { shared: both, reader, is_unsent: false }
    }

    /// The next piece for the client; `None` after the last.
    pub(super) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        let shared = &self.shared;
        if let Some(piece) = shared.pop() {
            self.is_unsent = true;
            return Poll::Ready(Some(Ok(piece)));
        }
        if let Some(error) = shared.error.get() {
            // hyper drops a connection whose body fails, along with everything not yet sent.
            if std::mem::take(&mut self.is_unsent) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Some(Err(error)));
        }
        if shared.source.borrow().is_none() {
            return Poll::Ready(None);
        }
        shared.writer.replace(Some(context.waker().clone()));
        self.is_unsent = false;
        Poll::Pending
    }

    /// Whether the client has been handed everything.
    pub(super) fn is_at_end(&self) -> bool {
        let shared = &self.shared;
        shared.held() == 0 && shared.error.get().is_none() && shared.source.borrow().is_none()
    }

    /// Number of bytes not yet handed to the client, if known.
    pub(super) fn remaining(&self) -> Option<u64> {
        let source = self.shared.source.borrow();
        let rest = source.as_ref().map_or(Some(0), Stream::remaining);
        rest.map(|rest| rest + self.shared.held() as u64)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.reader.abort();
        // Now, not when the reader's task ends: a request may be waiting for the endpoint.
        drop(self.shared.source.take());
    }
}

impl Shared {
    fn pop(&self) -> Option<Bytes> {
        let piece = self.pieces.borrow_mut().pop()?;
        if self.has_room() {
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        Some(piece)
    }

    fn held(&self) -> usize {
        self.pieces.borrow().held()
    }

    /// Whether more may be read. One piece may always wait, so that a client that reads makes
    /// progress however much waits for others.
    fn has_room(&self) -> bool {
        match self.held() {
            0 => true,
            held => held < MAX_AHEAD && self.shard.backlog.has_room(),
        }
    }

    /// Reads until there is no room, or nothing more to read.
    fn poll_read(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut source = self.source.borrow_mut();
        let Some(stream) = &mut *source else { return Poll::Ready(()) };
        let error = loop {
            if stream.is_complete() && stream.remaining() == Some(0) {
                break None;
            }
            if !self.has_room() {
                if stream.poll_deadline(context).is_ready() {
                    stream.spare_endpoint();
                    break Some(BrokenOff::Overdue);
                }
                self.reader.replace(Some(context.waker().clone()));
                return Poll::Pending;
            }
            match std::task::ready!(stream.poll_piece(context)) {
                Some(Ok(piece)) => self.push(piece),
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        *source = None;
        drop(source);
        self.end(error);
        Poll::Ready(())
    }

    fn push(&self, piece: Bytes) {
        self.shard.backlog.hold(self.key, piece.len(), self.shard.waits.now());
        self.pieces.borrow_mut().push(piece);
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    /// Called when nothing more comes: the answer is complete, or broke off.
    fn end(&self, error: Option<BrokenOff>) {
        self.error.set(error);
        if let Some(writer) = self.writer.take() {
            writer.wake();
        } else if error == Some(BrokenOff::Overdue) {
            // The client is not taking what has already arrived, so it would never learn
            // of the error.
            self.shard.backlog.give_up(self.key);
        }
    }
}
