//! A client's byte stream that records its progress.
//!
//! The time limits need to know when bytes arrive and whether the client reads; this records both,
//! at the cost of a few stores per system call. Bytes that arrived before a task was ready for them
//! are read first. The end of the client's side is held back while it waits for an answer, because
//! hyper would take it for a disconnect.

use std::future::Future;
use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::shard::{Client, EndOfInput, Shard};

/// A client that ended its side long after its request still gets an answer that comes
/// within this time.
const GRACE: Duration = Duration::from_millis(250);

/// A stream whose progress is recorded.
#[derive(Debug)]
pub(super) struct Watched<S> {
    pub(super) inner: S,
    /// Bytes to read before anything else.
    pub(super) before: Bytes,
    pub(super) client: Rc<Client>,
    pub(super) shard: Rc<Shard>,
    /// Whether nothing more will come.
    pub(super) is_at_end: bool,
    /// Started when the client has ended its side.
    grace: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    /// A stream from which `before` has already been read.
    pub(super) fn new(inner: S, before: Bytes, client: &Rc<Client>, shard: &Rc<Shard>) -> Self {
        let (client, shard) = (Rc::clone(client), Rc::clone(shard));
        Self { inner, before, client, shard, is_at_end: false, grace: None }
    }

    #[cold]
    fn read_before(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.before.len().min(buffer.remaining());
        buffer.put_slice(&self.before[..count]);
        self.before.advance(count);
        if self.before.is_empty() {
            self.before = Bytes::new();
        }
    }

    /// Called when nothing more comes from the client.
    #[cold]
    fn poll_end(&mut self, context: &mut Context<'_>, read: Result<()>) -> Poll<Result<()>> {
        // TLS treats an end without a goodbye as an error. But requests mark their own end.
        if read.as_ref().is_err_and(|error| error.kind() != ErrorKind::UnexpectedEof) {
            self.is_at_end = true;
            return Poll::Ready(read);
        }
        match self.client.ended(self.shard.write_queue.now()) {
            EndOfInput::Counts => {
                self.is_at_end = true;
                Poll::Ready(Ok(()))
            }
            EndOfInput::Uncertain => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            // The end of the answer wakes the connection.
            EndOfInput::Waits => Poll::Pending,
            EndOfInput::MayWait => {
                let grace = self.grace.get_or_insert_with(|| Box::pin(sleep(GRACE)));
                ready!(grace.as_mut().poll(context));
                self.is_at_end = true;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.before.is_empty() {
            let filled = buffer.filled().len();
            let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
            if buffer.filled().len() == filled {
                return self.poll_end(context, read);
            }
        } else {
            self.read_before(buffer);
        }
        self.client.received(self.shard.waits.now());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    fn note<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.client.sent(polled.is_pending(), self.shard.waits.now());
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
