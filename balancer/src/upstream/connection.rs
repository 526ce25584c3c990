//! One HTTP/1.1 connection to an endpoint, by hyper's client: for the comparison with our own codec.

use std::fmt::Debug;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fleet::{Endpoint, Fault};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderName, Request};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connecting;
use super::response::Head;
use crate::headers;

const WHOLE: u64 = 64 * 1024;

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

    /// For hyper.
    pub fn body(&self) -> Full<Bytes> {
        Full::new(self.data.clone())
    }
}

/// The next part of a response's body; `None` after the last.
pub(super) type Part = Option<Result<Bytes, Fault>>;

/// One connection to an endpoint.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    body: Option<Incoming>,
    keeps: bool,
    idle_since: Option<Instant>,
}

/// Nothing.
#[derive(Debug, Default)]
pub struct Room;

impl Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

fn fault_of(error: &hyper::Error) -> Fault {
    if error.is_parse() {
        Fault::NotHttp
    } else if error.is_canceled() || error.is_closed() || error.is_incomplete_message() {
        Fault::Closed
    } else {
        Fault::Reset
    }
}

impl Connection {
    /// Connects to `endpoint` within `limit`.
    pub async fn open(
        endpoint: &Endpoint,
        limit: Duration,
        _room: Rc<Room>,
    ) -> Result<Box<Self>, Fault> {
        let connecting = TcpStream::connect(endpoint.address());
        let connected = tokio::time::timeout(limit, connecting).await;
        let connected = connected.map_err(|_| Fault::ConnectTimedOut)?;
        let stream = connected.map_err(|error| connecting::fault_of(&error))?;
        stream.set_nodelay(true).map_err(|error| connecting::fault_of(&error))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| fault_of(&error))?;
        let driver = tokio::task::spawn_local(async move {
            let _ended = connection.await;
        });
        Ok(Box::new(Self { sender, driver, body: None, keeps: true, idle_since: None }))
    }

    /// Since when it is idle.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since
    }

    /// Gets it ready for the next request; false if it cannot carry one.
    pub fn rest(&mut self, now: Instant) -> bool {
        self.idle_since = Some(now);
        self.keeps && self.is_at_end() && {
            self.body = None;
            true
        }
    }

    /// Whether the other side still holds it open, as far as is known here.
    pub fn is_usable(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and waits for the beginning of its answer.
    pub async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        head: &mut Option<Head>,
    ) -> Result<Bytes, Fault> {
        self.keeps = false;
        self.sender.ready().await.map_err(|error| fault_of(&error))?;
        let answer = self.sender.send_request(request).await.map_err(|error| fault_of(&error))?;
        let (mut parts, body) = answer.into_parts();
        let fields = &mut parts.headers;
        let report = fields.remove(headers::LOAD);
        self.keeps = true;
        if let Some(connection) = fields.remove(CONNECTION) {
            self.keeps = !connection.as_bytes().eq_ignore_ascii_case(b"close");
        }
        fields.remove(CONTENT_LENGTH);
        fields.remove(TRANSFER_ENCODING);
        for name in ["keep-alive", "proxy-connection", "te", "trailer", "upgrade"] {
            fields.remove(HeaderName::from_static(name));
        }
        *head = Some(Head { parts, report });
        let exact = body.size_hint().exact();
        self.body = Some(body);
        std::future::poll_fn(|context| self.poll_first(context, exact)).await
    }

    fn poll_first(
        &mut self,
        context: &mut Context<'_>,
        exact: Option<u64>,
    ) -> Poll<Result<Bytes, Fault>> {
        let wants_all = exact.is_some_and(|length| (1..=WHOLE).contains(&length));
        let mut whole = BytesMut::new();
        loop {
            match ready!(self.poll_data(context)) {
                None => return Poll::Ready(Ok(whole.freeze())),
                Some(Err(fault)) => return Poll::Ready(Err(fault)),
                Some(Ok(data)) if whole.is_empty() && (!wants_all || self.is_at_end()) => {
                    return Poll::Ready(Ok(data));
                }
                // Only for the comparison: what waits in between is lost if the task is parked here.
                Some(Ok(data)) => {
                    whole.extend_from_slice(&data);
                    if self.is_at_end() {
                        return Poll::Ready(Ok(whole.freeze()));
                    }
                }
            }
        }
    }

    /// A part of the response's body.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Part> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match ready!(std::pin::Pin::new(body).poll_frame(context)) {
            None => Poll::Ready(None),
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame.into_data().unwrap_or_default()))),
            Some(Err(_)) => {
                self.keeps = false;
                Poll::Ready(Some(Err(Fault::Cut)))
            }
        }
    }

    /// Whether the response's body is complete.
    pub fn is_at_end(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    /// Bytes of the response's body that are still to come, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        self.body.as_ref().map_or(Some(0), |body| body.size_hint().exact())
    }

    /// Bytes of the request's body that are still to be sent.
    pub fn unsent_body(&self) -> usize {
        0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
