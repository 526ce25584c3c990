//! Accepts connections and serves HTTP/1.1 on them until it is told to stop.
//!
//! The number of connections is bounded (further ones wait in the kernel's queue), as are the size
//! of a request head, the time to receive it, and the time that a client may go without reading its
//! answer. On shutdown, no connection is closed while a request may be arriving on it: each stays
//! open for a moment, and the answer to a request in that time announces the close. Then idle
//! connections are closed, busy ones get their answer, and those left after the drain timeout are
//! closed too.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Error;
use crate::config::Config;
use crate::patient::{Exchanges, Patience, Patient};

/// How long a connection may be idle. Longer than a balancer keeps an idle connection, so that the
/// balancer closes first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Largest request head.
const MAX_HEAD: usize = 64 * 1024;
/// Connections that may wait to be accepted. The default of 128 is fewer than a balancer may open
/// at the same time; a connection that finds no room is retried a second later.
const BACKLOG: u32 = 4096;
/// Pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long open connections are still served on shutdown, when new ones are already refused:
/// longer than a request is in transit, so that those sent before it was visible are answered.
const LINGER: Duration = Duration::from_millis(250);

/// Listens on `address`; the system may allow a smaller backlog than requested.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As the standard library does, so that a restart need not wait for old connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves one application on one listener.
#[derive(Debug)]
pub struct Server {
    routes: Router,
    places: Arc<Semaphore>,
    drain_timeout: Duration,
    patience: Patience,
    linger: Duration,
    is_leaving: Arc<AtomicBool>,
}

impl Server {
    /// A server for `routes`.
    pub fn new(config: &Config, routes: Router) -> Self {
        let places = Arc::new(Semaphore::new(config.max_connections));
        let Config { drain_timeout, patience, .. } = *config;
        let is_leaving = Arc::default();
        Self { routes, places, drain_timeout, patience, linger: LINGER, is_leaving }
    }

    /// Accepts until `leave` ends, then drains.
    pub async fn run(
        self,
        listener: TcpListener,
        leave: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let drain = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut leave = std::pin::pin!(leave);
        loop {
            let accepted = tokio::select! {
                () = &mut leave => break,
                accepted = self.accept(&listener) => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            match accepted {
                Ok((stream, place)) => self.serve(stream, place, &drain, &mut connections),
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        self.is_leaving.store(true, Relaxed);
        self.accept_the_last(listener, &drain, &mut connections);
        self.drain(drain, connections).await;
        Ok(())
    }

    /// Accepts the connections in the backlog, which would be reset when the listener closes.
    fn accept_the_last(
        &self,
        listener: TcpListener,
        drain: &GracefulShutdown,
        connections: &mut JoinSet<()>,
    ) {
        // The runtime may not know about them yet; the system does.
        let Ok(listener) = listener.into_std() else { return };
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned()
            && let Ok((stream, _)) = listener.accept()
        {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            {
                self.serve(stream, place, drain, connections);
            }
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        place: OwnedSemaphorePermit,
        drain: &GracefulShutdown,
        connections: &mut JoinSet<()>,
    ) {
        let connection = self.speak(stream, drain);
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }

    async fn accept(
        &self,
        listener: &TcpListener,
    ) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let place =
            Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, place))
    }

    /// Serves one connection until it ends.
    fn speak(
        &self,
        stream: TcpStream,
        drain: &GracefulShutdown,
    ) -> impl Future<Output = ()> + use<> {
        let routes = TowerToHyperService::new(self.routes.clone());
        let exchanges = Arc::new(Exchanges::default());
        let stream = Patient::new(stream, self.patience, Arc::clone(&exchanges));
        let is_leaving = Arc::clone(&self.is_leaving);
        let service = service_fn(move |request| {
            let exchange = exchanges.begin();
            let answer = routes.call(request);
            let is_leaving = Arc::clone(&is_leaving);
            async move {
                let mut answer = answer.await?.map(|body| exchange.answered(body));
                if is_leaving.load(Relaxed) {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let watched = drain.watch(connection);
        async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "connection ended early");
            }
        }
    }

    async fn drain(&self, drain: GracefulShutdown, mut connections: JoinSet<()>) {
        let all_ended = async {
            let ended = async { while connections.join_next().await.is_some() {} };
            if timeout(self.linger, ended).await.is_err() {
                drain.shutdown().await;
                while connections.join_next().await.is_some() {}
            }
        };
        if timeout(self.drain_timeout, all_ended).await.is_err() {
            tracing::warn!("drain timeout: open connections are cut");
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    /// A server's address, the sender that stops it, and its task.
    type Running = (SocketAddr, oneshot::Sender<()>, JoinHandle<()>);

    /// A server that answers "here".
    fn server(linger: Duration) -> Running {
        let listener = bind(([127, 0, 0, 1], 0).into()).expect("bound");
        let address = listener.local_addr().expect("bound");
        let second = Duration::from_secs(1);
        let server = Server {
            routes: Router::new().route("/", get(async || "here")),
            places: Arc::new(Semaphore::new(8)),
            drain_timeout: 20 * second,
            patience: Patience { head: 20 * second, write: 20 * second },
            linger,
            is_leaving: Arc::default(),
        };
        let (leave, left) = oneshot::channel();
        let ended = tokio::spawn(async move {
            server.run(listener, async { drop(left.await) }).await.expect("it ran");
        });
        (address, leave, ended)
    }

    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: worker\r\n\r\n").await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"here") {
            let length = stream.read_buf(&mut answer).await.expect("read");
            assert!(length > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        }
        String::from_utf8(answer).expect("text")
    }

    /// A request may be in transit on any of them, and its sender cannot know of the shutdown.
    #[tokio::test]
    async fn every_connection_that_was_made_has_a_last_request_answered() {
        let (address, leave, ended) = server(Duration::from_secs(20));
        let mut kept = TcpStream::connect(address).await.expect("connected");
        assert!(!ask(&mut kept).await.contains("connection: close"));
        let mut fresh = TcpStream::connect(address).await.expect("connected");
        drop(leave);
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        for stream in [&mut kept, &mut fresh] {
            assert!(ask(stream).await.contains("connection: close"));
            assert_eq!(stream.read(&mut [0]).await.expect("closed in order"), 0);
        }
        ended.await.expect("it ends with the last answer");
    }

    #[tokio::test]
    async fn connections_on_which_nothing_is_asked_hold_up_the_end_for_a_moment_only() {
        let (address, leave, ended) = server(Duration::from_millis(10));
        let mut kept = TcpStream::connect(address).await.expect("connected");
        ask(&mut kept).await;
        let mut fresh = TcpStream::connect(address).await.expect("connected");
        drop(leave);
        timeout(Duration::from_secs(10), ended).await.expect("in time").expect("it ends");
        for stream in [&mut kept, &mut fresh] {
            assert_eq!(stream.read(&mut [0]).await.expect("closed in order"), 0);
        }
    }

    /// None is accepted here; with a backlog of 128 the next would have to retry after a second.
    #[tokio::test]
    async fn many_clients_that_come_at_once_find_room() {
        let listener = bind(([127, 0, 0, 1], 0).into()).expect("bound");
        let address = listener.local_addr().expect("bound");
        let mut clients = Vec::new();
        for number in 0..300 {
            let connected = timeout(Duration::from_millis(900), TcpStream::connect(address)).await;
            let client = connected.unwrap_or_else(|_| panic!("client {number} found no room"));
            clients.push(client.expect("connected"));
        }
    }
}
