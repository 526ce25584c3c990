//! Accepts connections and speaks HTTP/1.1 on them until it is told to stop.
//!
//! The number of connections is bounded (more wait in the kernel's queue), as are the size of a
//! request head and the patience with it. At the end idle connections are closed, busy ones get
//! their answer, and what is left after the drain timeout is cut.

use crate::Error;
use crate::config::Config;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a connection may be idle or take to send a request head. Longer than a balancer keeps
/// an idle connection, so that the balancer is the one who closes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Largest request head.
const MAX_HEAD: usize = 64 * 1024;
/// Pause after the system refused a connection (no file descriptors), lest the loop spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves one application on one listener.
#[derive(Debug)]
pub struct Server {
    routes: Router,
    places: Arc<Semaphore>,
    drain_timeout: Duration,
}

impl Server {
    /// A server for `routes`.
    pub fn new(config: &Config, routes: Router) -> Self {
        let places = Arc::new(Semaphore::new(config.max_connections));
        Self { routes, places, drain_timeout: config.drain_timeout }
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
        let service = TowerToHyperService::new(self.routes.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
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
