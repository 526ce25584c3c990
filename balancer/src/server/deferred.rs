//! A client's byte stream on which short answers wait for the end of the round.
//!
//! hyper hands over an answer in one piece and considers it written; it is written together with
//! those of the other connections as soon as every request of the round has been handled (see
//! [`crate::write_queue`]). Long answers, and what the client does not take, are written
//! immediately, so no more than [`MOST`] bytes ever wait here. Nothing is lost: closing the stream
//! writes first, and dropping it leaves its last bytes to the end of the round.

use std::cell::{Cell, RefCell};
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Watched;
use super::transport::Transport;
use crate::write_queue;

/// Maximum number of bytes that wait.
const MOST: usize = 16 * 1024;

/// A stream whose short writes are deferred.
#[derive(Debug)]
pub(super) struct Deferred<S> {
    shared: Rc<Shared<S>>,
}

/// What the stream and the write queue share.
#[derive(Debug)]
struct Shared<S> {
    stream: RefCell<Watched<S>>,
    unsent: RefCell<Vec<u8>>,
    /// Whether a write waits for the end of the round.
    is_deferred: Cell<bool>,
    has_failed: Cell<bool>,
}

impl<S> Deferred<S> {
    pub(super) fn new(stream: Watched<S>) -> Self {
        let shared = Rc::new(Shared {
            stream: RefCell::new(stream),
            unsent: RefCell::default(),
            is_deferred: Cell::new(false),
            has_failed: Cell::new(false),
        });
        Self { shared }
    }

    /// Puts back `bytes`, which were read but not used, to be read before anything else. They are
    /// copied, because even an empty slice of hyper's buffer would keep all of it.
    pub(super) fn put_back(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let mut stream = self.shared.stream.borrow_mut();
            stream.before = Bytes::from([bytes, &stream.before[..]].concat());
        }
    }

    /// Whether all that is left is to wait for the client. Releases memory.
    pub(super) fn is_quiet(&self) -> bool {
        let mut unsent = self.shared.unsent.borrow_mut();
        if unsent.is_empty() {
            *unsent = Vec::new();
        }
        unsent.is_empty() && self.shared.stream.borrow().before.is_empty()
    }

    /// Whether the client will send nothing more.
    pub(super) fn is_at_end(&self) -> bool {
        self.shared.stream.borrow().is_at_end
    }
}

impl<S: Transport + 'static> Transport for Deferred<S> {
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.shared.stream.borrow_mut().inner.poll_readable(context)
    }

    fn poll_discard(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize>> {
        self.shared.stream.borrow_mut().inner.poll_discard(context, buffer)
    }
}

impl<S: Transport> Shared<S> {
    /// Writes as much as possible of what waits.
    fn poll_unsent(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut unsent = self.unsent.borrow_mut();
        let mut stream = self.stream.borrow_mut();
        let mut written = 0;
        let polled = loop {
            if written == unsent.len() {
                break Pin::new(&mut *stream).poll_flush(context);
            }
            match Pin::new(&mut *stream).poll_write(context, &unsent[written..]) {
                Poll::Ready(Ok(count @ 1..)) => written += count,
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        unsent.drain(..written);
        if let Poll::Ready(Err(_)) = polled {
            unsent.clear();
            self.has_failed.set(true);
        }
        polled
    }

    /// Fails once a write has failed.
    fn check(&self) -> Result<()> {
        if self.has_failed.get() { Err(Error::from(ErrorKind::BrokenPipe)) } else { Ok(()) }
    }
}

impl<S: Transport> write_queue::Deferred for Shared<S> {
    fn write_now(&self) {
        self.is_deferred.set(false);
        let is_done = match self.poll_unsent(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(written) => written.is_ok(),
            Poll::Pending => false,
        };
        if !is_done {
            // The connection's task continues the write, or learns of the failure.
            self.stream.borrow().client.wake();
        }
    }
}

impl<S: Transport> AsyncRead for Deferred<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_read(context, buffer)
    }
}

impl<S: Transport + 'static> AsyncWrite for Deferred<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let shared = &self.shared;
        shared.check()?;
        let mut unsent = shared.unsent.borrow_mut();
        if unsent.len() + bytes.len() <= MOST {
            unsent.extend_from_slice(bytes);
            if !shared.is_deferred.replace(true) {
                let writer = Rc::clone(shared) as Rc<dyn write_queue::Deferred>;
                shared.stream.borrow().shard.write_queue.add(writer);
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        drop(unsent);
        ready!(shared.poll_unsent(context))?;
        Pin::new(&mut *shared.stream.borrow_mut()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.shared.check()?;
        if self.shared.is_deferred.get() {
            return Poll::Ready(Ok(()));
        }
        self.shared.poll_unsent(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.shared.poll_unsent(context))?;
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_shutdown(context)
    }
}
