//! What goes back to the client, and what is noted when it has gone.
//!
//! An [`Answer`] is the body of a response: bytes that are here already, or the stream of an
//! endpoint together with the connection that feeds it. Whatever it is, its end (or its being
//! dropped, when the client hangs up) is the one moment where the request is counted and logged and
//! where the connection goes back to the idle ones.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::access_log::{End, Entry};
use crate::lane::{Client, Lane};
use crate::metrics::Flag;
use crate::upstream::{BrokenOff, Connection, InFlight};

/// A part of an endpoint's response body.
pub(super) type Piece = Result<Bytes, BrokenOff>;

/// The body of a response.
#[derive(Debug)]
pub struct Answer {
    body: Content,
    trace: Trace,
}

#[derive(Debug)]
enum Content {
    Full(Option<Bytes>),
    Stream(Box<Stream>),
}

/// The response of an endpoint that has not arrived completely.
#[derive(Debug)]
pub(super) struct Stream {
    /// `None` once the body is complete and the connection has gone back to the idle ones.
    connection: Option<(Connection, InFlight)>,
    /// A piece that was read ahead.
    ahead: Option<Bytes>,
    lane: Rc<Lane>,
    deadline: Instant,
    watch: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// What is known about a request, until it is noted.
#[derive(Debug)]
pub(super) struct Trace {
    lane: Rc<Lane>,
    client: Rc<Client>,
    /// The line of the access log, if one is written.
    pub(super) entry: Option<Box<Entry>>,
    pub(super) status: StatusCode,
    pub(super) flag: Flag,
    bytes_out: u64,
    is_complete: bool,
    /// When all of the answer was here, if it came in one piece.
    complete_at: Option<Instant>,
}

impl Trace {
    /// Begins to follow a request.
    pub(super) fn new(lane: Rc<Lane>, client: Rc<Client>, entry: Option<Box<Entry>>) -> Self {
        lane.shared.traffic.active.fetch_add(1, Relaxed);
        client.begin();
        Self {
            lane,
            client,
            entry,
            status: StatusCode::OK,
            // Until it is known better: dropping a request before its answer means this.
            flag: Flag::Cancelled,
            bytes_out: 0,
            is_complete: false,
            complete_at: None,
        }
    }

    pub(super) fn client(&self) -> &Rc<Client> {
        &self.client
    }

    pub(super) fn lane(&self) -> &Rc<Lane> {
        &self.lane
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let flag = if self.is_complete { self.flag } else { Flag::Cancelled };
        self.lane.shared.traffic.active.fetch_sub(1, Relaxed);
        self.lane.shared.traffic.record(flag);
        self.client.end(self.lane.waits.now());
        if !self.is_complete {
            self.client.cancel();
        }
        self.lane.serve_waiting();
        if let (Some(entry), Some(log)) = (self.entry.take(), &self.lane.log) {
            let now = self.complete_at.unwrap_or_else(Instant::now);
            let end = End { now, status: self.status, bytes_out: self.bytes_out, flag };
            log.borrow_mut().add(&entry, &self.client.origin.forwarded_for, end);
            if let Some(head) = Rc::into_inner(entry.head) {
                self.lane.recycle(head.headers);
            }
        }
    }
}

impl Answer {
    /// An answer whose bytes are all here.
    pub(super) fn full(bytes: Bytes, mut trace: Trace) -> Self {
        trace.bytes_out = bytes.len() as u64;
        trace.is_complete = true;
        Self { body: Content::Full((!bytes.is_empty()).then_some(bytes)), trace }
    }

    /// The answer of an endpoint. A short one is usually here already; then its connection is free
    /// again before the client reads the first byte.
    pub(super) fn stream(mut stream: Stream, mut trace: Trace, now: Instant) -> Self {
        if let Some(bytes) = stream.read_short() {
            trace.complete_at = Some(now);
            return Self::full(bytes, trace);
        }
        trace.is_complete = false;
        Self { body: Content::Stream(Box::new(stream)), trace }
    }
}

impl Stream {
    pub(super) fn new(
        connection: Connection,
        in_flight: InFlight,
        lane: Rc<Lane>,
        deadline: Instant,
    ) -> Self {
        let is_complete = connection.is_at_end();
        let connection = Some((connection, in_flight));
        let mut stream = Self { connection, ahead: None, lane, deadline, watch: None };
        if is_complete {
            stream.finish();
        }
        stream
    }

    /// The whole body, if it has arrived in one piece.
    pub(super) fn read_short(&mut self) -> Option<Bytes> {
        if let Some((connection, _)) = &mut self.connection {
            match connection.data_now() {
                Poll::Ready(Some(Ok(data))) => self.ahead = Some(data),
                Poll::Ready(None) => {}
                // An error comes up again when the answer is read.
                Poll::Ready(Some(Err(BrokenOff))) | Poll::Pending => return None,
            }
            self.finish_at_end();
        }
        if self.connection.is_some() { None } else { Some(self.ahead.take().unwrap_or_default()) }
    }

    fn is_at_end(&self) -> bool {
        self.ahead.is_none() && self.connection.is_none()
    }

    /// What is still to come, a piece that was read ahead included.
    fn size_hint(&self) -> SizeHint {
        let ahead = self.ahead.as_ref().map_or(0, |data| data.len() as u64);
        let rest =
            self.connection.as_ref().map_or(Some(0), |(connection, _)| connection.remaining());
        rest.map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest + ahead))
    }

    fn finish_at_end(&mut self) {
        if self.connection.as_ref().is_some_and(|(connection, _)| connection.is_at_end()) {
            self.finish();
        }
    }

    /// Gives the connection back.
    fn finish(&mut self) {
        if let Some((connection, in_flight)) = self.connection.take() {
            let now = self.lane.waits.now();
            self.lane.idle.put(in_flight.endpoint().id(), connection, now);
            drop(in_flight);
            // The client may take its time with the answer; the endpoint is free now.
            self.lane.serve_waiting();
        }
    }

    pub(super) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        if let Some(data) = self.ahead.take() {
            return Poll::Ready(Some(Ok(data)));
        }
        let Some((connection, _)) = &mut self.connection else { return Poll::Ready(None) };
        let Poll::Ready(piece) = connection.poll_data(context) else {
            return self.poll_deadline(context);
        };
        // A body that broke off is not at its end, so its connection is not used again.
        self.finish_at_end();
        Poll::Ready(piece)
    }

    /// An answer that has begun must end too.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        let deadline = self.deadline;
        let watch = self.watch.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        watch.as_mut().poll(context).map(|()| Some(Err(BrokenOff)))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        match &mut this.body {
            Content::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Stream(stream) => {
                let piece = std::task::ready!(stream.poll_piece(context));
                match &piece {
                    Some(Ok(bytes)) => {
                        this.trace.bytes_out += bytes.len() as u64;
                        this.trace.is_complete = stream.is_at_end();
                    }
                    Some(Err(BrokenOff)) => {
                        this.trace.flag = Flag::UpstreamFailed;
                        this.trace.is_complete = true;
                    }
                    None => this.trace.is_complete = true,
                }
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Content::Full(bytes) => bytes.is_none(),
            Content::Stream(stream) => stream.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Content::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Stream(stream) => stream.size_hint(),
        }
    }
}
