//! One client connection from its first byte to its last.
//!
//! hyper serves it; around that stand the limits: a connection may be told to close, to finish (on
//! shutdown), or to give its buffers back while it is idle. A parked connection is a socket and a
//! few words of memory, and wakes with the next byte.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::stream::Watched;
use crate::forward;
use crate::headers::Origin;
use crate::lane::{Client, Lane, Order};

/// Most header fields of a request.
const MAX_FIELDS: usize = 100;
/// hyper reads a request head, and pieces of its body, into a buffer of at most this size.
const MAX_BUFFER: usize = 64 * 1024;

/// Serves a connection that was accepted, unless there are too many.
pub(super) fn start(lane: &Rc<Lane>, stream: TcpStream, peer: SocketAddr) {
    let shared = &lane.shared;
    let address = peer.ip().to_canonical();
    if !shared.clients.enter(address) {
        shared.traffic.connections_refused.fetch_add(1, Relaxed);
        return;
    }
    if !shared.connections.take(1) {
        shared.clients.leave(address);
        shared.traffic.connections_refused.fetch_add(1, Relaxed);
        return;
    }
    shared.traffic.connections.fetch_add(1, Relaxed);
    let lane = Rc::clone(lane);
    tokio::task::spawn_local(async move {
        let client = Rc::new(Client::new(origin(&lane, address), Instant::now()));
        let key = lane.clients.add(&client);
        serve(&lane, &client, stream).await;
        lane.clients.remove(key);
        lane.shared.connections.give_back(1);
        lane.shared.clients.leave(address);
    });
}

fn origin(lane: &Lane, ip: IpAddr) -> Origin {
    let is_trusted = lane.shared.config.trusted_proxies.contains(&ip);
    let forwarded_for = HeaderValue::try_from(ip.to_string()).expect("an address is plain text");
    Origin { forwarded_for, is_encrypted: false, is_trusted }
}

async fn serve(lane: &Rc<Lane>, client: &Rc<Client>, stream: TcpStream) {
    let mut stream = stream;
    while wait_for_bytes(lane, client, &stream).await {
        client.set_parked(false);
        match serve_until_idle(lane, client, stream).await {
            Some(parked) => stream = parked,
            None => return,
        }
        client.set_parked(true);
    }
}

/// Waits for the next byte; false if the connection is to be closed instead.
async fn wait_for_bytes(lane: &Lane, client: &Client, stream: &TcpStream) -> bool {
    poll_fn(|context| {
        client.set_waker(context.waker());
        if client.take_order() == Order::Close {
            return Poll::Ready(false);
        }
        match stream.poll_read_ready(context) {
            Poll::Ready(ready) => Poll::Ready(ready.is_ok()),
            Poll::Pending if lane.is_draining.get() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Serves requests; gives the stream back when the connection is idle, and nothing when it is over.
async fn serve_until_idle(
    lane: &Rc<Lane>,
    client: &Rc<Client>,
    stream: TcpStream,
) -> Option<TcpStream> {
    let watched = Watched { inner: stream, client: Rc::clone(client), lane: Rc::clone(lane) };
    let service = service_fn(|request| {
        let answer = forward::answer(Rc::clone(lane), Rc::clone(client), request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = Box::new(
        http1::Builder::new()
            .max_headers(MAX_FIELDS)
            .max_buf_size(MAX_BUFFER)
            .serve_connection(TokioIo::new(watched), service),
    );
    let mut is_told = false;
    let is_parked = poll_fn(|context| {
        client.set_waker(context.waker());
        if lane.is_draining.get() && !is_told {
            Pin::new(&mut *connection).graceful_shutdown();
            is_told = true;
        }
        match client.take_order() {
            Order::Close => return Poll::Ready(false),
            Order::Park if !is_told => return Poll::Ready(true),
            Order::Park | Order::None => {}
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
    parts.read_buf.is_empty().then(|| parts.io.into_inner().inner)
}
