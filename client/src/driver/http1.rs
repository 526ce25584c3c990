//! An HTTP/1.1 connection to the service, used by one request at a time.
//!
//! The task of a request writes the request and reads the answer itself, without a channel or a
//! second task: a short exchange is one `send` and one `recv`, with hardly anything between the
//! instants that samples record and the system calls. The [`answer`] crate reads the answers, as it
//! does for the balancer.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use answer::{AnswerReader, Decoded, Head, Malformed, Misframed};
use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::transport::Transport;
use crate::sample::Failure;
use crate::workload::WireRequest;

/// Why no head of an answer was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The connection was closed before anything was sent on it.
    NothingSent,
    /// It failed later.
    Failed(Failure),
}

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub(crate) struct Http1 {
    stream: Transport,
    unsent: Unsent,
    reader: AnswerReader,
}

/// The unsent rest of a request.
#[derive(Debug, Default)]
struct Unsent {
    request: WireRequest,
    /// Number of bytes of it that have been sent, head and body together.
    written: usize,
    /// Whether the service accepts no more of it.
    has_failed: bool,
}

impl Http1 {
    pub(crate) fn new(stream: Transport) -> Self {
        Self { stream, unsent: Unsent::default(), reader: AnswerReader::default() }
    }

    /// Whether an idle connection is still open, as far as this side knows: the service may close
    /// it at any time.
    pub(crate) fn is_usable(&mut self) -> bool {
        // Nothing may arrive between two requests, neither bytes nor the end of the stream.
        let mut byte = [0];
        let context = &mut Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(context, &mut ReadBuf::new(&mut byte));
        read.is_pending()
    }

    /// Whether the last request was sent and answered, and the connection is free for another.
    pub(crate) fn is_done(&self) -> bool {
        let is_sent = !self.unsent.has_failed && self.unsent.rest().is_none();
        is_sent && self.reader.is_done()
    }

    /// Sends `request` and returns the head of its answer. A service may answer before it has
    /// received everything.
    pub(crate) async fn send(&mut self, request: WireRequest) -> Result<Head, Unanswered> {
        let is_head = request.is_head;
        self.unsent = Unsent { request, ..Unsent::default() };
        self.reader.begin();
        std::future::poll_fn(|context| {
            self.poll_send(context);
            if self.unsent.has_failed && self.unsent.written == 0 {
                return Poll::Ready(Err(Unanswered::NothingSent));
            }
            let head = ready!(self.poll_head(context, is_head));
            Poll::Ready(head.map_err(Unanswered::Failed))
        })
        .await
    }

    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        is_head: bool,
    ) -> Poll<Result<Head, Failure>> {
        loop {
            match self.reader.head(is_head, HeaderMap::new) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(Malformed) => return Poll::Ready(Err(Failure::Malformed)),
            }
            if ready!(self.poll_receive(context)).unwrap_or(0) == 0 {
                return Poll::Ready(Err(Failure::Closed));
            }
        }
    }

    /// The next part of the answer's body; `None` after the last. The unsent rest of the request is
    /// sent meanwhile.
    pub(crate) async fn part(&mut self) -> Result<Option<Bytes>, Failure> {
        std::future::poll_fn(|context| {
            loop {
                match self.reader.part() {
                    Ok(Decoded::Data(data)) => return Poll::Ready(Ok(Some(data))),
                    Ok(Decoded::End) => return Poll::Ready(Ok(None)),
                    Ok(Decoded::More) => {}
                    Err(Misframed) => return Poll::Ready(Err(Failure::Malformed)),
                }
                self.poll_send(context);
                match ready!(self.poll_receive(context)) {
                    Ok(1..) => {}
                    Ok(0) if self.reader.close() => return Poll::Ready(Ok(None)),
                    Ok(0) | Err(_) => return Poll::Ready(Err(Failure::Closed)),
                }
            }
        })
        .await
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.reader.room();
        let input = &mut self.reader.input;
        input.reserve(room);
        pin!(self.stream.read_buf(input)).poll(context)
    }

    /// Sends what can be sent now. A failure is left for the reader to report: a service may answer
    /// and close before it has received everything.
    fn poll_send(&mut self, context: &mut Context<'_>) {
        let Self { stream, unsent, .. } = self;
        while let Some([head, body]) = unsent.rest() {
            let parts = [IoSlice::new(head), IoSlice::new(body)];
            let parts = if body.is_empty() { &parts[..1] } else { &parts[..] };
            let sent = Pin::new(&mut *stream).poll_write_vectored(context, parts);
            let Poll::Ready(written) = sent else { return };
            let count = written.unwrap_or(0);
            unsent.has_failed = count == 0;
            unsent.written += count;
        }
        if let Poll::Ready(Err(_)) = Pin::new(stream).poll_flush(context) {
            unsent.has_failed = true;
        }
    }
}

impl Unsent {
    /// Unsent bytes of the head and of the body; `None` if there are none, or if the service
    /// accepts no more.
    fn rest(&self) -> Option<[&[u8]; 2]> {
        let WireRequest { head, body, .. } = &self.request;
        let of_body = self.written.saturating_sub(head.len());
        let rest = [&head[self.written.min(head.len())..], body.get(of_body..).unwrap_or_default()];
        let is_done = self.has_failed || rest.iter().all(|part| part.is_empty());
        (!is_done).then_some(rest)
    }
}

#[cfg(test)]
#[path = "http1_tests.rs"]
mod tests;
