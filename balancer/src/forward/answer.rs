//! What goes back to the client.
//!
//! An [`AnswerBody`] is the body of a response: bytes that are already here, or a body relayed from
//! an endpoint. Either way, its end (or its drop, when the client hangs up) is the only point where
//! the request is counted and logged. With HTTP/2 it ends when its last piece has really been sent:
//! a client decides for each stream how much may be sent, and may decide on nothing.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::relay::Relay;
use super::request_log::RequestLog;
use super::stream::{BrokenOff, Stream};
use crate::page::Watcher;
use crate::traffic::Flag;

/// The body of a response.
#[derive(Debug)]
pub struct AnswerBody {
    body: Content,
    /// `None` once the last piece has taken it.
    request_log: Option<RequestLog>,
}

enum Content {
    Full(Option<Bytes>),
    Relayed(Relay),
    Events(Events),
}

/// A stream of server-sent events.
type Events = Pin<Box<dyn futures_util::Stream<Item = Bytes>>>;

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Relayed(_) => "Relayed",
            Self::Events(_) => "Events",
        })
    }
}

/// A piece of an answer on its way to the client.
#[derive(Debug)]
pub struct Outbound {
    bytes: Bytes,
    /// Set on the last piece of an answer: the request ends as soon as that is sent.
    request_log: Option<Box<RequestLog>>,
}

impl AnswerBody {
    /// An answer whose bytes are all available.
    pub(super) fn full(bytes: Bytes, mut request_log: RequestLog) -> Self {
        if bytes.is_empty() {
            request_log.is_complete = true;
            return Self { body: Content::Full(None), request_log: Some(request_log) };
        }
        if request_log.client().is_multiplexed() {
            request_log.wait_for_client(bytes.len());
        }
        Self { body: Content::Full(Some(bytes)), request_log: Some(request_log) }
    }

    /// An endpoint's answer. A short one has already arrived; its connection is then free again
    /// before the client reads the first byte.
    pub(super) fn stream(mut stream: Stream, mut request_log: RequestLog, now: Instant) -> Self {
        if let Some(bytes) = stream.take_whole() {
            request_log.complete_at = Some(now);
            return Self::full(bytes, request_log);
        }
        let key = request_log.wait_for_client(0);
        let relay = Relay::start(stream, Rc::clone(request_log.shard()), key);
        Self { body: Content::Relayed(relay), request_log: Some(request_log) }
    }

    /// A stream of server-sent events.
    pub(super) fn events(watcher: Watcher, mut request_log: RequestLog) -> Self {
        request_log.watch();
        request_log.wait_for_client(0);
        Self { body: Content::Events(Box::pin(watcher.events())), request_log: Some(request_log) }
    }

    /// Wraps a piece for the client. The last one ends the request.
    fn hand_over(&mut self, bytes: Bytes) -> Outbound {
        let is_last = self.is_end_stream();
        if let Some(request_log) = &mut self.request_log {
            request_log.took(bytes.len());
            if request_log.client().is_multiplexed() {
                let request_log =
                    if is_last { self.request_log.take().map(Box::new) } else { None };
                return Outbound { bytes, request_log };
            }
            request_log.is_complete = is_last || request_log.is_watching;
        }
        Outbound { bytes, request_log: None }
    }
}

impl Body for AnswerBody {
    type Data = Outbound;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Outbound>, BrokenOff>>> {
        let this = self.get_mut();
        let piece = match &mut this.body {
            Content::Full(bytes) => bytes.take().map(Ok),
            Content::Relayed(relay) => std::task::ready!(relay.poll_piece(context)),
            Content::Events(events) => {
                std::task::ready!(events.as_mut().poll_next(context)).map(Ok)
            }
        };
        Poll::Ready(match piece {
            Some(Ok(bytes)) => Some(Ok(Frame::data(this.hand_over(bytes)))),
            Some(Err(error)) => {
                if let Some(request_log) = &mut this.request_log {
                    request_log.flag = match error {
                        BrokenOff::Upstream(_) => Flag::UpstreamFailed,
                        BrokenOff::Overdue => Flag::Deadline,
                    };
                    request_log.is_complete = true;
                }
                Some(Err(error))
            }
            None => {
                if let Some(request_log) = &mut this.request_log {
                    request_log.is_complete = true;
                }
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Content::Full(bytes) => bytes.is_none(),
            Content::Relayed(relay) => relay.is_at_end(),
            Content::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Content::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Events(_) => SizeHint::default(),
            Content::Relayed(relay) => {
                relay.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

impl Buf for Outbound {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        if let Some(request_log) = &mut self.request_log {
            let left = self.bytes.len() as u64;
            request_log.bytes_out = request_log.bytes_out.saturating_sub(left);
            request_log.is_complete = left == 0;
        }
    }
}
