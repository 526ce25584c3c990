//! The connections of operators: limited in number, and none can lock the others out.
//!
//! When there are too many, the one that has been without a request for the longest time is closed,
//! so each operator is served regardless of the others. While another process has the socket,
//! nothing is accepted here; pending requests are still answered.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::server::linger::see_off;
use crate::shared::Shared;

/// Maximum number of concurrent operator connections.
const MAX: usize = 64;
/// Time limit for a head to arrive, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the first request of a connection that was accepted just before the port was lent.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// Pause after the system failed to accept a connection, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers a request that was sent to this address.
pub(super) type Responder =
    fn(&Arc<Shared>, &Request<Incoming>, Option<IpAddr>) -> Response<Full<Bytes>>;

/// One operator's connection.
struct Connection {
    task: AbortHandle,
    /// When it was last used, on the clock of [`Connections::uses`].
    last_use: Arc<AtomicU64>,
}

/// The open connections of operators.
struct Connections {
    shared: Arc<Shared>,
    answer: Responder,
    /// Whether another process serves operators; new connections then go to it.
    lent: watch::Receiver<bool>,
    tasks: JoinSet<()>,
    open: Vec<Connection>,
    /// Counts connections and requests: a logical clock for the order of uses.
    uses: Arc<AtomicU64>,
}

/// Serves forever, except while `lent` is true; `pause` reports that nothing is accepted.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    mut lent: watch::Receiver<bool>,
    pause: watch::Sender<bool>,
    answer: Responder,
) {
    let mut connections = Connections {
        shared,
        answer,
        lent: lent.clone(),
        tasks: JoinSet::new(),
        open: Vec::new(),
        uses: Arc::default(),
    };
    loop {
        let is_lent = *lent.borrow_and_update();
        pause.send_replace(is_lent);
        tokio::select! {
            accepted = listener.accept(), if !is_lent => match accepted {
                Ok((stream, _)) => connections.start(stream),
                Err(error) => {
                    tracing::debug!(%error, "operator connection not accepted");
                    connections.close_oldest();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.tasks.join_next() => {}
            Ok(()) = lent.changed() => {}
            else => std::future::pending().await,
        }
    }
}

impl Connections {
    fn start(&mut self, stream: TcpStream) {
        self.open.retain(|connection| !connection.task.is_finished());
        if self.open.len() >= MAX {
            self.close_oldest();
        }
        let last_use = Arc::new(AtomicU64::new(self.uses.fetch_add(1, Relaxed)));
        let connection = self.connection(stream, Arc::clone(&last_use));
        self.open.push(Connection { task: self.tasks.spawn(connection), last_use });
    }

    fn connection(
        &self,
        stream: TcpStream,
        last_use: Arc<AtomicU64>,
    ) -> impl Future<Output = ()> + use<> {
        let (shared, uses, answer) =
            (Arc::clone(&self.shared), Arc::clone(&self.uses), self.answer);
        let local = stream.local_addr().ok().map(|local| local.ip());
        let asked = Arc::new(Notify::new());
        let lent = self.lent.clone();
        let leave = leave(self.lent.clone(), Arc::clone(&asked));
        let service = service_fn(move |request: Request<Incoming>| {
            asked.notify_one();
            last_use.store(uses.fetch_add(1, Relaxed), Relaxed);
            let mut response = answer(&shared, &request, local);
            // The next request belongs to another process, or its start is unknown, because bodies
            // are not read.
            if *lent.borrow() || !request.body().is_end_stream() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            async { Ok::<_, Infallible>(response) }
        });
        let mut served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        async move {
            let result = tokio::select! {
                result = &mut served => result,
                () = leave => {
                    Pin::new(&mut served).graceful_shutdown();
                    (&mut served).await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "admin connection");
            }
            see_off(served.into_parts().io.into_inner()).await;
        }
    }

    fn close_oldest(&mut self) {
        let last_use = |connection: &Connection| connection.last_use.load(Relaxed);
        let uses = self.open.iter().map(last_use).enumerate();
        if let Some((oldest, _)) = uses.min_by_key(|(_, last_use)| *last_use) {
            self.open.swap_remove(oldest).task.abort();
        }
    }
}

/// Completes when a connection is to be closed after its current answer: the operator then
/// connects to the process that has the port. If nothing was `asked` yet, a request may be coming.
async fn leave(mut lent: watch::Receiver<bool>, asked: Arc<Notify>) {
    if lent.wait_for(|is_lent| *is_lent).await.is_err() {
        return std::future::pending().await;
    }
    drop(tokio::time::timeout(FIRST_REQUEST, asked.notified()).await);
}
