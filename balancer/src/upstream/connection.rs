//! One HTTP/1.1 connection to an endpoint, used by one request at a time.
//!
//! The request's own task reads and writes: no second task, no channel, no wake-up between the two.
//! A request is written from bytes that are ready, and its response is read with one buffer, so that
//! a short exchange is one `write` and one `read`. An idle connection waits for nothing; it is
//! looked at once more before it is used again.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::io::{Error, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Endpoint;
use super::framing::{Decoded, Framing};
use super::response::{self, Head};

/// Room for a response that is short, head and body.
const SHORT: usize = 4 * 1024;
/// Most room for what is read at a time.
const LONG: usize = 64 * 1024;

/// The collected body of a request, cheap to clone and to send again.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    data: Bytes,
}

impl Payload {
    /// A body of these bytes.
    pub fn new(data: Bytes) -> Self {
        Self { data }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.data
    }
}

/// Why a request got no response head.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The endpoint closed the connection before it answered.
    #[error("the connection was closed")]
    Closed,
    /// What the endpoint sent is not HTTP, or it is beyond the limits.
    #[error("the answer is not HTTP")]
    Malformed,
}

/// A response's body could not be read to its end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer broke off")]
pub struct BrokenOff;

/// The next part of a response's body; `None` after the last.
pub(super) type Part = Option<Result<Bytes, BrokenOff>>;

/// One connection to an endpoint.
pub struct Connection {
    stream: TcpStream,
    input: BytesMut,
    framing: Framing,
    /// Whether it can carry another request after this one.
    keeps: bool,
    idle_since: Option<Instant>,
}

impl Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { framing, keeps, idle_since, .. } = self;
        f.debug_struct("Connection")
            .field("framing", framing)
            .field("keeps", keeps)
            .field("idle_since", idle_since)
            .finish_non_exhaustive()
    }
}

/// How far a request has been written.
struct Unsent<'a> {
    head: &'a [u8],
    body: &'a [u8],
    has_failed: bool,
}

impl Connection {
    /// Connects to `endpoint` within `limit`.
    pub async fn open(endpoint: &Endpoint, limit: Duration) -> std::io::Result<Self> {
        let connecting = TcpStream::connect(endpoint.address());
        let stream = tokio::time::timeout(limit, connecting).await??;
        stream.set_nodelay(true)?;
        let framing = Framing::Length(0);
        Ok(Self { stream, input: BytesMut::new(), framing, keeps: true, idle_since: None })
    }

    /// Since when it is idle.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since
    }

    /// Gets it ready for the next request; false if it cannot carry one.
    pub fn rest(&mut self, now: Instant) -> bool {
        self.idle_since = Some(now);
        self.keeps && self.framing.is_end() && self.input.is_empty()
    }

    /// Whether the other side still holds it open, as far as is known here.
    pub fn is_usable(&self) -> bool {
        // Nothing may arrive while it is idle, neither bytes nor an end.
        let nothing = self.stream.try_read(&mut [0]);
        nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Sends a request, whose head is ready as it goes over the wire, and waits for the head of its
    /// response.
    pub async fn send(
        &mut self,
        head: &[u8],
        body: &Payload,
        is_head_request: bool,
    ) -> Result<Head, SendError> {
        let mut unsent = Unsent { head, body: body.as_slice(), has_failed: false };
        // Until the response says otherwise, so that dropping this future is safe.
        self.keeps = false;
        poll_fn(|context| {
            let is_sent = unsent.poll_send(&mut self.stream, context).is_ready();
            let head = ready!(self.poll_head(context, is_head_request))?;
            self.framing = head.framing;
            self.keeps = head.keeps && is_sent && !unsent.has_failed;
            Poll::Ready(Ok(head))
        })
        .await
    }

    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        is_head_request: bool,
    ) -> Poll<Result<Head, SendError>> {
        loop {
            match response::parse(&mut self.input, is_head_request) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(_) => return Poll::Ready(Err(SendError::Malformed)),
            }
            let was_empty = self.input.is_empty();
            match ready!(self.poll_read(context, SHORT)) {
                Ok(1..) => {}
                // To close in the middle of an answer is another thing than not to answer.
                Ok(0) | Err(_) if was_empty => return Poll::Ready(Err(SendError::Closed)),
                Ok(0) | Err(_) => return Poll::Ready(Err(SendError::Malformed)),
            }
        }
    }

    /// A part of the response's body.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Part> {
        loop {
            match self.framing.decode(&mut self.input) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(_) => return Poll::Ready(Some(Err(self.give_up()))),
            }
            let wanted = self.framing.remaining().unwrap_or(LONG as u64);
            let room = usize::try_from(wanted).unwrap_or(LONG).clamp(SHORT, LONG);
            match ready!(self.poll_read(context, room)) {
                Ok(1..) => {}
                Ok(0) if self.framing == Framing::UntilClose => {
                    self.framing = Framing::Length(0);
                    return Poll::Ready(None);
                }
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(self.give_up()))),
            }
        }
    }

    /// What has arrived of the response's body, without waiting.
    pub fn data_now(&mut self) -> Poll<Part> {
        self.poll_data(&mut Context::from_waker(Waker::noop()))
    }

    /// Whether the response's body is complete.
    pub fn is_at_end(&self) -> bool {
        self.framing.is_end()
    }

    /// Bytes of the response's body that are still to come, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        self.framing.remaining()
    }

    fn give_up(&mut self) -> BrokenOff {
        self.keeps = false;
        BrokenOff
    }

    fn poll_read(&mut self, context: &mut Context<'_>, room: usize) -> Poll<Result<usize, Error>> {
        self.input.reserve(room);
        pin!(self.stream.read_buf(&mut self.input)).poll(context)
    }
}

impl Unsent<'_> {
    /// Writes what can be written; ready when there is nothing left to write. A failure is left to
    /// the reader: an endpoint may answer and close before it has read everything.
    fn poll_send(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<()> {
        while !(self.has_failed || (self.head.is_empty() && self.body.is_empty())) {
            let stream = Pin::new(&mut *stream);
            let written = if self.body.is_empty() {
                ready!(stream.poll_write(context, self.head))
            } else {
                let parts = [IoSlice::new(self.head), IoSlice::new(self.body)];
                ready!(stream.poll_write_vectored(context, &parts))
            };
            let count = written.unwrap_or(0);
            self.has_failed = count == 0;
            let of_head = count.min(self.head.len());
            self.head = &self.head[of_head..];
            self.body = &self.body[count - of_head..];
        }
        Poll::Ready(())
    }
}
