//! A byte stream to a client, with or without TLS, and work on it that ends when the
//! connection closes.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::io::Result;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::shard::{Client, SweepAction};

/// How every HTTP/2 connection begins.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A byte stream to a client.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Debug {
    /// Whether there is something to read, or the client has closed. Callers must ask the stream
    /// that they read: a socket knows nothing of bytes that are already decrypted.
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<Result<()>>;

    /// Discards incoming bytes as cheaply as possible; 0 at the end.
    fn poll_discard(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(self).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl Transport for TcpStream {
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_read_ready(context)
    }
}

impl<S: Transport> Transport for TlsStream<S> {
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(self).poll_fill_buf(context).map_ok(|_| ())
    }

    fn poll_discard(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize>> {
        self.get_mut().0.poll_discard(context, buffer)
    }
}

/// Runs `work` until the connection is to be closed.
pub(super) async fn guarded<T>(client: &Client, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| {
        client.set_waker(context.waker());
        match client.take_order() {
            SweepAction::Close | SweepAction::Abort => return Poll::Ready(None),
            SweepAction::None | SweepAction::Park => {}
        }
        work.as_mut().poll(context).map(Some)
    })
    .await
}
