//! Accepts connections and speaks HTTP/1.1 on them until it is told to stop.
//!
//! The number of connections is bounded (more wait in the kernel's queue), as are the size of a
//! request head and the patience with it and with a client that does not read what is written to it. At the end idle connections are closed, busy ones get
//! their answer, and what is left after the drain timeout is cut.

use crate::Error;
use crate::config::Config;
use crate::patient::{Exchanges, Patience, Patient};
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a connection may be idle. Longer than a balancer keeps an idle connection, so that the
/// balancer is the one who closes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Largest request head.
const MAX_HEAD: usize = 64 * 1024;
/// Connections that may wait to be accepted. The default of 128 is less than the clients that a
/// balancer may send at once; who finds no room there tries again a second later.
const BACKLOG: u32 = 4096;
/// Pause after the system refused a connection (no file descriptors), lest the loop spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens on `address`; the system may allow fewer to wait than asked for.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As the standard library does, lest a restart wait for old connections.
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
}

impl Server {
    /// A server for `routes`.
    pub fn new(config: &Config, routes: Router) -> Self {
        let places = Arc::new(Semaphore::new(config.max_connections));
        let Config { drain_timeout, patience, .. } = *config;
        Self { routes, places, drain_timeout, patience }
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
                Ok((stream, place)) => {
                    let connection = self.speak(stream, &drain);
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        self.drain(drain, connections).await;
        Ok(())
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

    /// One connection, until it ends.
    fn speak(
        &self,
        stream: TcpStream,
        drain: &GracefulShutdown,
    ) -> impl Future<Output = ()> + use<> {
        let routes = TowerToHyperService::new(self.routes.clone());
        let exchanges = Arc::new(Exchanges::default());
        let stream = Patient::new(stream, self.patience, Arc::clone(&exchanges));
        let service = service_fn(move |request| {
            let exchange = exchanges.begin();
            let answer = routes.call(request);
            async { Ok::<_, Infallible>(answer.await?.map(|body| exchange.answered(body))) }
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
        let finished = async {
            drain.shutdown().await;
            while connections.join_next().await.is_some() {}
        };
        if timeout(self.drain_timeout, finished).await.is_err() {
            tracing::warn!("drain timeout: open connections are cut");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// None is accepted here; with room for 128 the next would have to try again after a second.
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
