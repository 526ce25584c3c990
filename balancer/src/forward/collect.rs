//! Collects the body of a request: bounded in size, in time, and by the shared budget.
//!
//! A body that arrived in one piece is not copied. Bytes are charged to the budget as they arrive,
//! never in advance, so announcing a large body reserves nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Incoming};
use message::Coding;
use message::coding::Unpacking;
use tokio::time::Instant;

use super::request_log::RequestLog;
use crate::error::{Part, ProxyError};
use crate::shard::{Shard, Wait};
use crate::upstream::Payload;

/// Maximum number of bytes read from a client whose request was refused.
pub(crate) const MAX_DISCARDED: usize = 1_000_000_000;
/// Longest time for which they are read.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(30);
/// Longest pause between them.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(10);
/// The average rate is checked only after this time.
const RATE_GRACE: Duration = Duration::from_secs(5);

/// A collected body, which holds its share of the budget.
#[derive(Debug)]
pub(super) struct Collected {
    shard: Rc<Shard>,
    taken: usize,
    payload: Payload,
    /// Whether there are trailers. Endpoints do not need them. But in HTTP/1, hyper and another
    /// parser may see their end in different places (a line that ends without CR), so nothing after
    /// them counts.
    has_trailers: bool,
}

impl Collected {
    /// The bytes that were collected.
    pub(super) fn payload(&self) -> &Payload {
        &self.payload
    }

    fn empty(shard: &Rc<Shard>) -> Self {
        Self { shard: Rc::clone(shard), taken: 0, payload: Payload::default(), has_trailers: false }
    }

    fn take(&mut self, amount: usize) -> Result<(), ProxyError> {
        let shared = &self.shard.shared;
        if self.taken + amount > shared.config.bounds.body {
            return Err(ProxyError::TooLarge(Part::Body(shared.config.bounds.body)));
        }
        if !shared.bodies.take(amount) {
            return Err(ProxyError::Overloaded);
        }
        self.taken += amount;
        Ok(())
    }
}

impl Collected {
    /// Decompresses the body in steps, between which other requests can run.
    pub(super) async fn unpacked(
        &self,
        coding: Coding,
        deadline: Instant,
    ) -> Result<Unpacked, ProxyError> {
        let limit = self.shard.shared.config.bounds.body;
        let mut unpacking = Unpacking::new(coding, self.payload.as_slice(), limit);
        let mut unpacked = Unpacked { shard: Rc::clone(&self.shard), taken: 0, plain: Vec::new() };
        while let Some(amount) = unpacking.step(&mut unpacked.plain)? {
            if !self.shard.shared.bodies.take(amount) {
                return Err(ProxyError::Overloaded);
            }
            unpacked.taken += amount;
            tokio::task::yield_now().await;
            if Instant::now() > deadline {
                return Err(ProxyError::Deadline);
            }
        }
        Ok(unpacked)
    }
}

/// A decompressed body, which holds its share of the budget.
#[derive(Debug)]
pub(super) struct Unpacked {
    shard: Rc<Shard>,
    taken: usize,
    plain: Vec<u8>,
}

impl Unpacked {
    /// The bytes in one piece.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.plain
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        self.shard.shared.bodies.give_back(self.taken);
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.shard.shared.bodies.give_back(self.taken);
    }
}

/// Collects `body` within the limits on size, memory and time.
pub(super) async fn collect(
    request_log: &RequestLog,
    body: &mut Incoming,
) -> Result<Collected, ProxyError> {
    let shard = request_log.shard();
    if body.is_end_stream() {
        return Ok(Collected::empty(shard));
    }
    let limit = shard.shared.config.bounds.body;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let result = if announced > limit {
        Err(ProxyError::TooLarge(Part::Body(limit)))
    } else {
        pieces(shard, announced, body).await
    };
    if result.as_ref().is_ok_and(|collected| collected.has_trailers) {
        request_log.client().set_last();
    }
    result
}

async fn pieces(
    shard: &Rc<Shard>,
    announced: usize,
    body: &mut Incoming,
) -> Result<Collected, ProxyError> {
    let mut collected = Collected::empty(shard);
    let start = shard.waits.now();
    let pause = shard.shared.config.timeouts.body;
    let mut wait = shard.waits.until(start + pause);
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(piece) = next_piece(body, &mut wait).await? {
        let Piece::Data(piece) = piece else {
            collected.has_trailers = true;
            continue;
        };
        collected.take(piece.len())?;
        match (&first, rest.is_empty()) {
            (None, true) => first = Some(piece),
            (Some(_), true) => {
                let before = first.take().unwrap_or_default();
                rest.reserve(announced.min(256 * 1024).max(before.len() + piece.len()));
                rest.extend_from_slice(&before);
                rest.extend_from_slice(&piece);
            }
            _ => rest.extend_from_slice(&piece),
        }
        let now = shard.waits.now();
        let rate = shard.shared.config.bounds.body_rate;
        if is_too_slow(collected.taken, start, now, rate) {
            return Err(ProxyError::RequestTimeout);
        }
        wait.reset(now + pause);
    }
    collected.payload = Payload::new(first.unwrap_or_else(|| rest.freeze()));
    Ok(collected)
}

/// Whether a body of which `taken` bytes have arrived since `start` is slower than `rate`
/// bytes per second.
#[inline]
fn is_too_slow(taken: usize, start: Instant, now: Instant, rate: usize) -> bool {
    // Most bodies have arrived before the rate has to be computed.
    now > start + RATE_GRACE
        && (taken as f64) < now.duration_since(start).as_secs_f64() * rate as f64
}

/// A part of a body.
enum Piece {
    Data(Bytes),
    Trailers,
}

async fn next_piece(body: &mut Incoming, wait: &mut Wait<'_>) -> Result<Option<Piece>, ProxyError> {
    poll_fn(|context| match Pin::new(&mut *body).poll_frame(context) {
        Poll::Ready(None) => Poll::Ready(Ok(None)),
        Poll::Ready(Some(Ok(frame))) => {
            let piece = frame.into_data().map_or(Piece::Trailers, Piece::Data);
            Poll::Ready(Ok(Some(piece)))
        }
        Poll::Ready(Some(Err(_))) => {
            let text = "the request body is not framed properly or was cut off";
            Poll::Ready(Err(ProxyError::BadRequest(text.into())))
        }
        Poll::Pending if wait.is_over(context) => Poll::Ready(Err(ProxyError::RequestTimeout)),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Reads what the client still sends after its request was refused, unless it `is_late` already.
/// Not every client reads the answer when its stream is reset; in HTTP/1 the whole connection ends,
/// which takes time anyway.
pub(super) fn throw_away(shard: &Rc<Shard>, mut body: Incoming, is_late: bool) {
    let shard = Rc::clone(shard);
    tokio::task::spawn_local(async move {
        let start = shard.waits.now();
        let (pause, end) =
            if is_late { (Duration::ZERO, start) } else { (MAX_PAUSE, start + MAX_TIME) };
        let mut wait = shard.waits.until(start + pause);
        let mut discarded = 0;
        while let Ok(Some(piece)) = next_piece(&mut body, &mut wait).await {
            if let Piece::Data(piece) = piece {
                discarded += piece.len();
            }
            let now = shard.waits.now();
            if discarded >= MAX_DISCARDED || now >= end {
                return;
            }
            wait.reset((now + pause).min(end));
        }
    });
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
