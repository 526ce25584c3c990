//! Connections of one sender thread: opened on demand up to a cap, reused last in, first out.
//!
//! What is lent is a lease: the right to send one request. An HTTP/1.1 connection is one lease; an
//! HTTP/2 connection is as many as requests may share it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::experiment::Protocol;
use crate::sample::Failure;

/// Requests that share one HTTP/2 connection: what servers commonly allow at once.
const STREAMS: usize = 100;

/// The right to have one connection; given back when its last lease is gone.
#[derive(Debug)]
pub(crate) struct Slot {
    openable: Rc<Cell<usize>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.openable.set(self.openable.get() + 1);
    }
}

/// The right to send one request.
#[derive(Debug)]
pub(crate) struct Lease {
    sender: Sender,
    _slot: Rc<Slot>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Lease {
    /// Waits until the connection takes a request; an error means that it is gone.
    pub(crate) async fn ready(&mut self) -> hyper::Result<()> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await,
            Sender::H2(sender) => sender.ready().await,
        }
    }

    /// Sends `request` and returns the head of the answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::H2(sender) => sender.send_request(request).await,
        }
    }
}

/// How a request gets to the service.
#[derive(Debug)]
pub(crate) enum Way {
    /// On a connection that is there.
    Lease(Lease),
    /// On one that has to be opened.
    Open(Slot),
}

/// Opens a connection: one lease, and the ones that share the connection with it.
pub(crate) async fn open(
    slot: Slot,
    address: SocketAddr,
    protocol: Protocol,
) -> Result<(Lease, Vec<Lease>), Failure> {
    let slot = Rc::new(slot);
    let stream = TcpStream::connect(address).await.map_err(|_| Failure::Connect)?;
    stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
    let io = TokioIo::new(stream);
    match protocol {
        Protocol::Http1 => {
            let (sender, connection) = http1::handshake(io).await.map_err(|_| Failure::Connect)?;
            tokio::task::spawn_local(connection);
            Ok((Lease { sender: Sender::Http1(sender), _slot: slot }, Vec::new()))
        }
        Protocol::H2 => {
            let (sender, connection) =
                http2::handshake(Local, io).await.map_err(|_| Failure::Connect)?;
            tokio::task::spawn_local(connection);
            let lease = || Lease { sender: Sender::H2(sender.clone()), _slot: Rc::clone(&slot) };
            Ok((lease(), (1..STREAMS).map(|_| lease()).collect()))
        }
    }
}

/// Spawns on the sender's own thread.
#[derive(Debug, Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// The connections of one thread that wait for work, and how many more it may open.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Vec<Lease>,
    openable: Rc<Cell<usize>>,
}

impl Pool {
    /// May open `cap` connections.
    pub(crate) fn new(cap: usize) -> Self {
        Self { idle: Vec::new(), openable: Rc::new(Cell::new(cap)) }
    }

    /// The connection that was busy last, else a new one, unless there are enough.
    pub(crate) fn way(&mut self) -> Option<Way> {
        if let Some(lease) = self.idle.pop() {
            return Some(Way::Lease(lease));
        }
        let left = self.openable.get().checked_sub(1)?;
        self.openable.set(left);
        Some(Way::Open(Slot { openable: Rc::clone(&self.openable) }))
    }

    /// Keeps a lease for later.
    pub(crate) fn keep(&mut self, lease: Lease) {
        self.idle.push(lease);
    }
}
