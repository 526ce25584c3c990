//! One HTTP/1.1 connection to an endpoint, used by one request at a time.
//!
//! A request is written from ready bytes, at the end of the round (see [`crate::write_queue`]), and
//! its response is read by the request's own task with one buffer: a short exchange is one `write`
//! and one `read`, without a channel or a second task. An idle connection is not watched; it is
//! checked once more before it is used again.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::future::Future;
use std::io::{Error, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use answer::{AnswerReader, Decoded, Head, Malformed, Misframed, SHORT};
use bytes::{Bytes, BytesMut};
use fleet::{Endpoint, Fault};
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::connecting;
use crate::write_queue::{Deferred, WriteQueue};

/// Short pieces are received into blocks of this size.
const BLOCK: usize = 32 * 1024;
/// A body that announces no more than this is received whole before any of the response is passed
/// on, so that the request can be repeated if the body breaks off.
const WHOLE: usize = 64 * 1024;

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

    /// The bytes that have been read.
    pub fn as_slice(&self) -> &[u8] {
        &self.data
    }
}

/// The next part of a response's body; `None` after the last.
pub(super) type Part = Option<Result<Bytes, Fault>>;

/// One connection to an endpoint.
pub struct Connection {
    line: Rc<Socket>,
    room: Rc<Room>,
    reader: AnswerReader,
    idle_since: Option<Instant>,
}

/// The receive buffer of one thread's connections: short pieces share a block of memory, so that
/// most responses need none of their own.
#[derive(Debug, Default)]
pub struct Room {
    block: RefCell<BytesMut>,
}

/// The socket, and what is still to be written to it.
#[derive(Debug)]
struct Socket {
    stream: RefCell<TcpStream>,
    unsent: RefCell<Unsent>,
    /// Whether the write waits for the end of the round.
    is_deferred: Cell<bool>,
    /// The task to wake when more can be written.
    waker: RefCell<Waker>,
}

/// How far a request has been written.
#[derive(Debug, Default)]
struct Unsent {
    head: Vec<u8>,
    body: Bytes,
    written: usize,
    has_failed: bool,
}

impl Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { reader, idle_since, .. } = self;
        f.debug_struct("Connection")
            .field("reader", reader)
            .field("idle_since", idle_since)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects to `endpoint` within `limit`. Boxed, because a connection is moved around a lot.
    pub async fn open(
        endpoint: &Endpoint,
        limit: Duration,
        room: Rc<Room>,
    ) -> Result<Box<Self>, Fault> {
        let connecting = TcpStream::connect(endpoint.address());
        let connected = tokio::time::timeout(limit, connecting).await;
        let connected = connected.map_err(|_| Fault::ConnectTimedOut)?;
        let stream = connected.map_err(|error| connecting::fault_of(&error))?;
        stream.set_nodelay(true).map_err(|error| connecting::fault_of(&error))?;
        let line = Rc::new(Socket {
            stream: RefCell::new(stream),
            unsent: RefCell::default(),
            is_deferred: Cell::new(false),
            waker: RefCell::new(Waker::noop().clone()),
        });
        Ok(Box::new(Self { line, room, reader: AnswerReader::default(), idle_since: None }))
    }

    /// When it became idle.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since
    }

    /// Prepares it for the next request; false if it cannot carry one.
    pub fn rest(&mut self, now: Instant) -> bool {
        self.idle_since = Some(now);
        if self.reader.input.is_empty() {
            // It shares a block of memory with what other connections have received.
            self.reader.input = BytesMut::new();
        }
        // An endpoint may answer before it has received everything; the rest would get in the way
        // of the next request.
        self.reader.is_done() && self.line.is_sent()
    }

    /// Whether the other side still keeps it open, as far as is known here.
    pub fn is_usable(&self) -> bool {
        // Nothing may arrive while it is idle, neither bytes nor a close.
        let nothing = self.line.stream.borrow().try_read(&mut [0]);
        nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Prepares a request: `write` appends its head as it goes over the wire.
    pub fn prepare(&mut self, body: &Payload, write: impl FnOnce(&mut Vec<u8>)) {
        let mut unsent = self.line.unsent.borrow_mut();
        unsent.head.clear();
        write(&mut unsent.head);
        unsent.body = body.data.clone();
        unsent.written = 0;
        unsent.has_failed = false;
        self.reader.begin();
    }

    /// Schedules the write of the prepared request for the end of the round; `waker` is woken when
    /// the rest of a partial write can be written.
    pub fn begin(&self, write_queue: &WriteQueue, waker: &Waker) {
        self.line.defer(write_queue, waker);
    }

    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        is_head_request: bool,
        spare: impl Fn() -> HeaderMap,
    ) -> Poll<Result<Head, Fault>> {
        loop {
            match self.reader.head(is_head_request, &spare) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(Malformed) => return Poll::Ready(Err(Fault::NotHttp)),
            }
            let was_empty = self.reader.input.is_empty();
            match ready!(self.poll_read(context, SHORT)) {
                Ok(1..) => {}
                // Closing in the middle of an answer is different from not answering.
                Ok(0) | Err(_) if !was_empty => return Poll::Ready(Err(Fault::Cut)),
                Ok(0) => return Poll::Ready(Err(Fault::Closed)),
                Err(_) => return Poll::Ready(Err(Fault::Reset)),
            }
        }
    }

    /// Continues to send the request, and waits for the part of the response that must be there
    /// before any of it is passed to a client: its head, which goes into `head`, and the first part
    /// of its body.
    pub fn poll_beginning(
        &mut self,
        context: &mut Context<'_>,
        head: &mut Option<Head>,
        is_head_request: bool,
        spare: impl Fn() -> HeaderMap,
    ) -> Poll<Result<Bytes, Fault>> {
        self.line.poll_send(context);
        if head.is_none() {
            *head = Some(ready!(self.poll_head(context, is_head_request, spare))?);
        }
        self.poll_first(context)
    }

    /// Waits for the first part of the response's body: all of a short one that announces its
    /// length, some of any other. Until it has arrived nothing needs to have reached the client.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Fault>> {
        loop {
            let announced = self.reader.remaining().and_then(|rest| usize::try_from(rest).ok());
            let missing = announced
                .filter(|rest| (1..=WHOLE).contains(rest))
                .and_then(|rest| rest.checked_sub(self.reader.input.len()))
                .filter(|missing| *missing > 0);
            match missing {
                None => match ready!(self.poll_part(context)) {
                    Some(data) => return Poll::Ready(data),
                    None => return Poll::Ready(Ok(Bytes::new())),
                },
                Some(missing) => match ready!(self.poll_read(context, missing.max(SHORT))) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(Err(Fault::Cut)),
                },
            }
        }
    }

    /// The next part of the response's body. The rest of the request is sent meanwhile.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Part> {
        self.line.poll_send(context);
        self.poll_part(context)
    }

    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Part> {
        loop {
            match self.reader.part() {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(Misframed) => return Poll::Ready(Some(Err(Fault::Misframed))),
            }
            match ready!(self.poll_read(context, self.reader.room())) {
                Ok(1..) => {}
                Ok(0) if self.reader.close() => return Poll::Ready(None),
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(Fault::Cut))),
            }
        }
    }

    /// Whether the response's body is complete.
    pub fn is_at_end(&self) -> bool {
        self.reader.is_at_end()
    }

    /// Number of bytes of the response's body still to come, if known.
    pub fn remaining(&self) -> Option<u64> {
        self.reader.remaining()
    }

    /// Number of bytes of the request's body still to be sent.
    pub fn unsent_body(&self) -> usize {
        self.line.unsent.borrow().rest().map_or(0, |(_, body)| body.len())
    }

    fn poll_read(&mut self, context: &mut Context<'_>, room: usize) -> Poll<Result<usize, Error>> {
        let mut stream = self.line.stream.borrow_mut();
        let input = &mut self.reader.input;
        if room > SHORT {
            input.reserve(room);
            return pin!(stream.read_buf(input)).poll(context);
        }
        let mut block = self.room.block.borrow_mut();
        if block.capacity() < SHORT {
            // A block that is still in use is left to its users.
            block.reserve(BLOCK);
        }
        let count = ready!(pin!(stream.read_buf(&mut *block)).poll(context))?;
        let piece = block.split();
        if input.is_empty() {
            *input = piece;
        } else {
            input.unsplit(piece);
        }
        Poll::Ready(Ok(count))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A request that is given up before it was written must not be written.
        if self.line.is_deferred.get() {
            *self.line.unsent.borrow_mut() = Unsent::default();
        }
    }
}

impl Socket {
    /// Writes at the end of the round; after that, `waker` is woken when more can be written.
    fn defer(self: &Rc<Self>, write_queue: &WriteQueue, waker: &Waker) {
        self.waker.borrow_mut().clone_from(waker);
        self.is_deferred.set(true);
        write_queue.add(Rc::clone(self) as Rc<dyn Deferred>);
    }

    /// Writes what can be written. A failure is left to the reader: an endpoint may answer and close
    /// before it has read everything.
    fn poll_send(&self, context: &mut Context<'_>) {
        if self.is_deferred.get() {
            self.waker.borrow_mut().clone_from(context.waker());
            return;
        }
        let mut unsent = self.unsent.borrow_mut();
        let mut stream = self.stream.borrow_mut();
        while let Some((head, body)) = unsent.rest() {
            let stream = Pin::new(&mut *stream);
            let written = if body.is_empty() {
                stream.poll_write(context, head)
            } else {
                stream.poll_write_vectored(context, &[IoSlice::new(head), IoSlice::new(body)])
            };
            let Poll::Ready(written) = written else { return };
            let count = written.unwrap_or(0);
            unsent.has_failed = count == 0;
            unsent.written += count;
        }
        // It may be large, and other requests wait for its share of the budget.
        unsent.body = Bytes::new();
    }

    fn is_sent(&self) -> bool {
        let unsent = self.unsent.borrow();
        unsent.rest().is_none() && !unsent.has_failed
    }
}

impl Deferred for Socket {
    fn write_now(&self) {
        self.is_deferred.set(false);
        // Not kept any longer, because a waker keeps the memory of its task.
        let waker = self.waker.replace(Waker::noop().clone());
        self.poll_send(&mut Context::from_waker(&waker));
    }
}

/// Bytes of a head, and of the body after it.
type HeadAndBody<'a> = (&'a [u8], &'a [u8]);

impl Unsent {
    /// What is still to be written of the head and the body; `None` if nothing.
    fn rest(&self) -> Option<HeadAndBody<'_>> {
        let of_body = self.written.saturating_sub(self.head.len());
        let head = &self.head[self.written.min(self.head.len())..];
        let body = self.body.get(of_body..).unwrap_or_default();
        let is_done = self.has_failed || head.is_empty() && body.is_empty();
        (!is_done).then_some((head, body))
    }
}
