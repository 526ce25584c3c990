//! One client connection from its first byte to its last.
//!
//! First come a PROXY protocol header and a TLS handshake, where they are configured; then hyper
//! serves HTTP/1.1 here or HTTP/2 next door, and both lead to the same [`forward::answer`]. Around
//! that stand the limits: a connection may be told to close, or to give its buffers back while it
//! is idle. A parked connection is a socket and a few words of memory, and wakes with the next
//! byte. On shutdown every answer says that it is the last one; only a client that asks for nothing
//! more is hung up on.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::io::Result;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::deferred::Deferred;
use super::multiplexed;
use super::stream::Watched;
use crate::forward;
use crate::headers::Origin;
use crate::lane::{Client, Lane, Order};
use crate::proxy_protocol;
use crate::tls::Tls;

/// hyper reads a request head, and pieces of its body, into a buffer of at most this size.
const MAX_BUFFER: usize = 64 * 1024;
/// How every HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A byte stream to a client.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Debug {
    /// Whether there is something to read, or the client has closed.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<Result<()>>;
}

impl Transport for TcpStream {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_read_ready(context)
    }
}

impl Transport for TlsStream<TcpStream> {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
        // hyper has read all there was before it fell idle, so nothing is left between the two.
        self.get_ref().0.poll_read_ready(context)
    }
}

/// Serves a connection that was accepted, unless there are too many.
pub(super) fn start(lane: &Rc<Lane>, stream: TcpStream, peer: SocketAddr) {
    let shared = &lane.shared;
    let peer = peer.ip().to_canonical();
    if !shared.connections.take(1) {
        shared.traffic.connections_refused.fetch_add(1, Relaxed);
        return;
    }
    let is_proxied = shared.config.proxy_protocol && shared.config.is_trusted(peer);
    let Some(seat) = (if is_proxied { Some(None) } else { Seat::take(lane, peer).map(Some) })
    else {
        shared.connections.give_back(1);
        shared.traffic.connections_refused.fetch_add(1, Relaxed);
        return;
    };
    shared.traffic.connections.fetch_add(1, Relaxed);
    let lane = Rc::clone(lane);
    tokio::task::spawn_local(async move {
        let client = Rc::new(Client::new(direct_origin(&lane, peer, &stream), Instant::now()));
        let key = lane.clients.add(&client);
        match seat {
            Some(_seat) => open(&lane, &client, stream).await,
            None => Box::pin(introduce(&lane, (key, &client), stream)).await,
        }
        lane.clients.remove(key);
        lane.shared.connections.give_back(1);
    });
}

/// One of the connections that an address may have.
struct Seat {
    lane: Rc<Lane>,
    address: IpAddr,
}

impl Seat {
    fn take(lane: &Rc<Lane>, address: IpAddr) -> Option<Self> {
        lane.shared.clients.enter(address).then(|| Self { lane: Rc::clone(lane), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lane.shared.clients.leave(self.address);
    }
}

/// Of a client that may give orders it matters for which address it asks. Those of this machine can
/// only ask for this machine.
fn direct_origin(lane: &Lane, ip: IpAddr, stream: &TcpStream) -> Origin {
    let may_order = !ip.is_loopback() && lane.shared.config.takes_orders_from(ip);
    let local = if may_order { stream.local_addr().ok() } else { None };
    Origin { local: local.map(|local| local.ip()), ..origin(lane, ip) }
}

fn origin(lane: &Lane, ip: IpAddr) -> Origin {
    let is_trusted = lane.shared.config.is_trusted(ip);
    let forwarded_for = HeaderValue::try_from(ip.to_string()).expect("an address is plain text");
    let scheme = if lane.shared.config.tls.is_some() { "https" } else { "http" };
    Origin::new(forwarded_for, scheme, is_trusted)
}

/// Runs `work` until the connection is to be closed.
async fn guarded<T>(client: &Client, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| {
        client.set_waker(context.waker());
        if client.take_order() == Order::Close {
            return Poll::Ready(None);
        }
        work.as_mut().poll(context).map(Some)
    })
    .await
}

/// Has the proxy say who the client is.
async fn introduce(lane: &Rc<Lane>, (key, proxy): (usize, &Client), mut stream: TcpStream) {
    let client = match guarded(proxy, proxy_protocol::read(&mut stream)).await {
        None => return,
        Some(Err(error)) => return tracing::debug!(%error, "PROXY protocol"),
        Some(Ok(None)) => Client::new(proxy.origin.clone(), Instant::now()),
        Some(Ok(Some(address))) => {
            let Some(_seat) = Seat::take(lane, address) else {
                lane.shared.traffic.connections_refused.fetch_add(1, Relaxed);
                return;
            };
            let client = Rc::new(Client::new(origin(lane, address), Instant::now()));
            lane.clients.replace(key, &client);
            return open(lane, &client, stream).await;
        }
    };
    let client = Rc::new(client);
    lane.clients.replace(key, &client);
    open(lane, &client, stream).await;
}

async fn open(lane: &Rc<Lane>, client: &Rc<Client>, stream: TcpStream) {
    match &lane.shared.config.tls {
        None if lane.shared.config.h2c && begins_with_preface(client, &stream).await => {
            Box::pin(multiplexed::serve(lane, client, stream)).await;
        }
        None => serve(lane, client, stream).await,
        // In a box, so that the many connections without TLS stay small.
        Some(tls) => Box::pin(encrypt(lane, client, (tls, stream))).await,
    }
}

/// Looks at the first bytes without taking them.
async fn begins_with_preface(client: &Client, stream: &TcpStream) -> bool {
    let mut first = [0; 4];
    let peeked = guarded(client, stream.peek(&mut first)).await;
    matches!(peeked, Some(Ok(count)) if count > 0 && first[..count] == PREFACE[..count])
}

async fn encrypt(lane: &Rc<Lane>, client: &Rc<Client>, (tls, stream): (&Arc<Tls>, TcpStream)) {
    let handshake = TlsAcceptor::from(tls.current()).accept(stream);
    match guarded(client, handshake).await {
        None => {}
        Some(Err(error)) => tracing::debug!(%error, "TLS handshake"),
        Some(Ok(stream)) => {
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                multiplexed::serve(lane, client, stream).await;
            } else {
                serve(lane, client, stream).await;
            }
        }
    }
}

async fn serve<S: Transport + 'static>(lane: &Rc<Lane>, client: &Rc<Client>, stream: S) {
    let mut stream = stream;
    while wait_for_bytes(client, &stream).await {
        client.set_parked(false);
        match serve_until_idle(lane, client, stream).await {
            Some(parked) => stream = parked,
            None => return,
        }
        client.set_parked(true);
    }
}

/// Waits for the next byte; false if the connection is to be closed instead.
async fn wait_for_bytes<S: Transport>(client: &Client, stream: &S) -> bool {
    let ready = poll_fn(|context| stream.poll_readable(context));
    guarded(client, ready).await.is_some_and(|ready| ready.is_ok())
}

/// Serves requests; gives the stream back when the connection is idle, and nothing when it is over.
async fn serve_until_idle<S: Transport + 'static>(
    lane: &Rc<Lane>,
    client: &Rc<Client>,
    stream: S,
) -> Option<S> {
    let watched = Watched { inner: stream, client: Rc::clone(client), lane: Rc::clone(lane) };
    let service =
        service_fn(|request| forward::answer(Rc::clone(lane), Rc::clone(client), request));
    let mut connection = Box::new(
        http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            // Answers are short: copying them behind their heads is cheaper than a list of buffers.
            .writev(false)
            .serve_connection(TokioIo::new(Deferred::new(watched)), service),
    );
    let is_parked = poll_fn(|context| {
        client.set_waker(context.waker());
        match client.take_order() {
            Order::Close => return Poll::Ready(false),
            Order::Park => return Poll::Ready(true),
            Order::None => {}
        }
        Pin::new(&mut *connection).poll(context).map(|ended| {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection");
            }
            false
        })
    })
    .await;
    if !is_parked {
        return None;
    }
    let parts = connection.into_parts();
    parts.io.into_inner().into_inner().filter(|_| parts.read_buf.is_empty())
}
