//! One client connection from its first byte to its last.
//!
//! First come a PROXY protocol header and a TLS handshake, if configured; then HTTP/1 or HTTP/2,
//! which both lead to the same [`crate::forward::answer`]. Limits apply throughout: a connection
//! may be told to close, or to release its buffers while it is idle. On shutdown every answer
//! announces that it is the last one.

use std::io::{ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::linger::{hang_up, linger};
use super::transport::{PREFACE, Transport, guarded};
use super::{http1, multiplexed};
use crate::headers::Origin;
use crate::proxy_protocol;
use crate::shard::{Client, Shard};
use crate::shared::Shared;
use crate::tls::Tls;

/// Serves an accepted connection. When there are too many, an idle one is closed; if none is
/// idle, this one.
pub(super) fn start(shard: &Rc<Shard>, stream: TcpStream, peer: SocketAddr) {
    let Shared { config, connections, traffic, .. } = &*shard.shared;
    let peer = peer.ip().to_canonical();
    if !connections.take(1) {
        if !shard.clients.make_room() {
            traffic.connections_refused.fetch_add(1, Relaxed);
            return;
        }
        connections.take_over(1);
        traffic.connections_evicted.fetch_add(1, Relaxed);
    }
    let is_proxied = config.proxy_protocol && config.is_trusted(peer);
    let Some(seat) = (if is_proxied { Some(None) } else { Seat::take(shard, peer).map(Some) })
    else {
        connections.give_back(1);
        traffic.connections_refused.fetch_add(1, Relaxed);
        return;
    };
    traffic.connections.fetch_add(1, Relaxed);
    let client = Rc::new(Client::new(direct_origin(shard, peer, &stream), Instant::now()));
    let listed = Listed::new(shard, &client);
    tokio::task::spawn_local(async move {
        match seat {
            Some(_seat) => open(&listed.shard, &client, stream).await,
            None => Box::pin(introduce(&listed, &client, stream)).await,
        }
    });
}

/// An entry in the list of open connections. However the connection ends, even by a panic,
/// this removes it.
struct Listed {
    shard: Rc<Shard>,
    key: usize,
}

impl Listed {
    /// Lists a connection that is already counted in the shared budget.
    fn new(shard: &Rc<Shard>, client: &Rc<Client>) -> Self {
        Self { shard: Rc::clone(shard), key: shard.clients.add(client) }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shard.clients.remove(self.key);
        self.shard.shared.connections.give_back(1);
    }
}

/// One of the connections that an address may have.
struct Seat {
    shard: Rc<Shard>,
    address: IpAddr,
}

impl Seat {
    fn take(shard: &Rc<Shard>, address: IpAddr) -> Option<Self> {
        shard.shared.clients.enter(address).then(|| Self { shard: Rc::clone(shard), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shard.shared.clients.leave(self.address);
    }
}

/// The address that the client connected to matters if the client may control models: its requests
/// must name that host. Clients on this machine can only name this machine.
fn direct_origin(shard: &Shard, ip: IpAddr, stream: &TcpStream) -> Origin {
    let may_order = !ip.is_loopback() && shard.shared.config.allows_model_control_from(ip);
    let local = if may_order { stream.local_addr().ok() } else { None };
    Origin { local: local.map(|local| local.ip()), ..origin(shard, ip) }
}

fn origin(shard: &Shard, ip: IpAddr) -> Origin {
    let is_trusted = shard.shared.config.is_trusted(ip);
    let forwarded_for = HeaderValue::try_from(ip.to_string()).expect("an address is plain text");
    let scheme = if shard.shared.config.tls.is_some() { "https" } else { "http" };
    Origin::new(forwarded_for, scheme, is_trusted)
}

/// Reads the client's address from the proxy's header.
async fn introduce(listed: &Listed, proxy: &Client, mut stream: TcpStream) {
    let shard = &listed.shard;
    let (origin, _seat) = match guarded(proxy, proxy_protocol::read(&mut stream)).await {
        None => return,
        Some(Err(error)) => {
            shard.shared.traffic.introductions_failed.fetch_add(1, Relaxed);
            return tracing::debug!(reason = %error, "PROXY protocol header refused");
        }
        Some(Ok(None)) => (proxy.origin.clone(), None),
        Some(Ok(Some(address))) => {
            let Some(seat) = Seat::take(shard, address) else {
                shard.shared.traffic.connections_refused.fetch_add(1, Relaxed);
                return;
            };
            (origin(shard, address), Some(seat))
        }
    };
    let client = Rc::new(Client::new(origin, Instant::now()));
    shard.clients.replace(listed.key, &client);
    open(shard, &client, stream).await;
}

async fn open<S: Transport + 'static>(shard: &Rc<Shard>, client: &Rc<Client>, mut stream: S) {
    match &shard.shared.config.tls {
        None if shard.shared.config.h2c => {
            let Some(Ok((is_preface, first))) = guarded(client, begin(&mut stream)).await else {
                return;
            };
            if is_preface {
                Box::pin(multiplexed::serve(shard, client, stream, first)).await;
            } else {
                http1::serve(shard, client, stream, first).await;
            }
        }
        None => http1::serve(shard, client, stream, Bytes::new()).await,
        // Boxed, so that the many connections without TLS stay small.
        Some(tls) => Box::pin(encrypt(shard, client, tls, stream)).await,
    }
}

/// Reads until it is certain whether the client begins with the HTTP/2 preface.
async fn begin<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(bool, Bytes)> {
    let mut first = BytesMut::with_capacity(1024);
    loop {
        let is_over = stream.read_buf(&mut first).await? == 0;
        if first.starts_with(PREFACE) {
            return Ok((true, first.freeze()));
        }
        if is_over || !PREFACE.starts_with(&first) {
            return Ok((false, first.freeze()));
        }
    }
}

async fn encrypt<S: Transport + 'static>(
    shard: &Rc<Shard>,
    client: &Rc<Client>,
    tls: &Tls,
    stream: S,
) {
    let handshake = TlsAcceptor::from(tls.current()).accept(stream).into_fallible();
    match guarded(client, handshake).await {
        None => {}
        Some(Err((error, mut stream))) => {
            tracing::debug!(reason = %error, "TLS handshake failed");
            // Other errors come from the network: the client has gone.
            if error.kind() == ErrorKind::InvalidData {
                shard.shared.traffic.handshakes_failed.fetch_add(1, Relaxed);
                // The client was told what is wrong, and should get to see it.
                hang_up(&mut stream).await;
                linger(shard, client, &mut stream).await;
            }
        }
        Some(Ok(stream)) => {
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                multiplexed::serve(shard, client, stream, Bytes::new()).await;
            } else {
                http1::serve(shard, client, stream, Bytes::new()).await;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
