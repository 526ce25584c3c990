//! What goes back to the client.
//!
//! An [`Answer`] is the body of a response: bytes that are here already, or what is relayed from an
//! endpoint. Whatever it is, its end (or its being dropped, when the client hangs up) is the one
//! moment where the request is counted and logged. With HTTP/2 it ends when its last piece has
//! really been sent: a client decides for each stream how much of it may be, and may decide that it
//! is nothing.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::relay::Relay;
use super::stream::{BrokenOff, Stream};
use super::trace::Trace;
use crate::page::Watcher;
use crate::traffic::Flag;

/// The body of a response.
#[derive(Debug)]
pub struct Answer {
    body: Content,
    /// `None` once the last piece has it.
    trace: Option<Trace>,
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
    /// With the last piece of an answer the request ends, as soon as it is sent.
    trace: Option<Box<Trace>>,
}

impl Answer {
    /// An answer whose bytes are all here.
    pub(super) fn full(bytes: Bytes, mut trace: Trace) -> Self {
        if bytes.is_empty() {
            trace.is_complete = true;
            return Self { body: Content::Full(None), trace: Some(trace) };
        }
        if trace.client().is_multiplexed() {
            trace.wait_for_client(bytes.len());
        }
        Self { body: Content::Full(Some(bytes)), trace: Some(trace) }
    }

    /// The answer of an endpoint. A short one is here already; then its connection is free again
    /// before the client reads the first byte.
    pub(super) fn stream(mut stream: Stream, mut trace: Trace, now: Instant) -> Self {
        if let Some(bytes) = stream.take_whole() {
            trace.complete_at = Some(now);
            return Self::full(bytes, trace);
        }
        let key = trace.wait_for_client(0);
        let relay = Relay::start(stream, Rc::clone(trace.lane()), key);
        Self { body: Content::Relayed(relay), trace: Some(trace) }
    }

    /// A stream of server-sent events.
    pub(super) fn events(watcher: Watcher, mut trace: Trace) -> Self {
        trace.watch();
        trace.wait_for_client(0);
        Self { body: Content::Events(Box::pin(watcher.events())), trace: Some(trace) }
    }

    /// A piece for the client, with which the request may end.
    fn hand_over(&mut self, bytes: Bytes) -> Outbound {
        let is_last = self.is_end_stream();
        if let Some(trace) = &mut self.trace {
            trace.took(bytes.len());
            if trace.client().is_multiplexed() {
                let trace = if is_last { self.trace.take().map(Box::new) } else { None };
                return Outbound { bytes, trace };
            }
            trace.is_complete = is_last || trace.is_watching;
        }
        Outbound { bytes, trace: None }
    }
}

impl Body for Answer {
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
                if let Some(trace) = &mut this.trace {
                    trace.flag = match error {
                        BrokenOff::Upstream(_) => Flag::UpstreamFailed,
                        BrokenOff::Overdue => Flag::Deadline,
                    };
                    trace.is_complete = true;
                }
                Some(Err(error))
            }
            None => {
                if let Some(trace) = &mut this.trace {
                    trace.is_complete = true;
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
        if let Some(trace) = &mut self.trace {
            let left = self.bytes.len() as u64;
            trace.bytes_out = trace.bytes_out.saturating_sub(left);
            trace.is_complete = left == 0;
        }
    }
}
