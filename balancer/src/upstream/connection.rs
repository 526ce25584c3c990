//! One HTTP/1.1 connection to an endpoint, driven by the request that uses it.
//!
//! hyper splits a client connection into a sender and a driver that is usually a task of its own.
//! Here the request's own task polls the driver: no second task, no wake-up between the two. That
//! works because only the driver makes progress for the sender, so the sender's future is polled
//! right after the driver and needs no waker. An idle connection is polled with no waker at all and
//! looked at once more before it is used again.

use std::fmt::Debug;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Endpoint;

/// The collected body of a request, cheap to clone and to send again.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    data: Option<Bytes>,
}

impl Payload {
    /// A body of these bytes.
    pub fn new(data: Bytes) -> Self {
        Self { data: (!data.is_empty()).then_some(data) }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.data.as_deref().unwrap_or_default()
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

/// Why a request got no response head.
#[derive(Debug)]
pub enum SendError {
    /// Nothing was sent; here is the request back.
    Unsent(Box<Request<Payload>>),
    /// The endpoint closed the connection before it answered.
    Closed,
    /// What the endpoint sent is not HTTP, or it is beyond the limits.
    Malformed(hyper::Error),
}

type Driver = http1::Connection<TokioIo<TcpStream>, Payload>;

/// One connection to an endpoint.
pub struct Connection {
    sender: http1::SendRequest<Payload>,
    /// `None` once it has ended.
    driver: Option<Pin<Box<Driver>>>,
    idle_since: Option<Instant>,
}

impl Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("idle_since", &self.idle_since).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects to `endpoint` within `limit`.
    pub async fn open(endpoint: &Endpoint, limit: Duration) -> std::io::Result<Self> {
        let connecting = TcpStream::connect(endpoint.address());
        let stream = tokio::time::timeout(limit, connecting).await??;
        stream.set_nodelay(true)?;
        let handshake = http1::Builder::new()
            .max_headers(100)
            .max_header_size(64 * 1024)
            .handshake(TokioIo::new(stream));
        let (sender, driver) = handshake.await.map_err(std::io::Error::other)?;
        Ok(Self { sender, driver: Some(Box::pin(driver)), idle_since: None })
    }

    /// Whether it carried a request before.
    pub fn is_reused(&self) -> bool {
        self.idle_since.is_some()
    }

    /// Since when it is idle.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since
    }

    /// Gets it ready for the next request; false if it cannot carry one.
    pub fn rest(&mut self, now: Instant) -> bool {
        self.idle_since = Some(now);
        self.is_usable()
    }

    /// Whether the other side still holds it open, as far as is known here.
    pub fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Reads and writes what can be read and written now.
    pub fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(context).is_ready()
        {
            self.driver = None;
        }
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(
        &mut self,
        request: Request<Payload>,
    ) -> Result<Response<Incoming>, SendError> {
        let mut response = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let sent = std::future::poll_fn(|context| {
            if let Some(running) = driver
                && running.as_mut().poll(context).is_ready()
            {
                *driver = None;
            }
            response.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await;
        sent.map_err(|mut error| match error.take_message() {
            Some(request) => SendError::Unsent(Box::new(request)),
            None => match error.into_error() {
                error if error.is_parse() || error.is_user() => SendError::Malformed(error),
                _ => SendError::Closed,
            },
        })
    }
}
