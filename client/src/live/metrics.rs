//! The figures of a run for Prometheus, at `/metrics` on an address of the user's choice.
//!
//! A reader that hangs occupies one of a few connections for some seconds; the run is unaffected.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{Board, Figures};

/// Limit on concurrent readers.
const READERS: usize = 16;
/// Time limit for each reader.
const LIMIT: Duration = Duration::from_secs(5);

/// A metrics server, which runs until it is dropped.
#[derive(Debug)]
pub struct Metrics {
    board: Board,
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Metrics {
    /// Listens on `address` for scrapes.
    pub fn listen(address: SocketAddr) -> anyhow::Result<Self> {
        let shown = || format!("--metrics-listen {address}");
        let listener = TcpListener::bind(address).with_context(shown)?;
        listener.set_nonblocking(true).with_context(shown)?;
        let address = listener.local_addr().with_context(shown)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let board = Board::default();
        let shared = board.clone();
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = answer(listener, shared) => {}
                    // Sent or dropped: either way the run is over.
                    _ended = ended => {}
                }
            });
        })?;
        Ok(Self { board, address, end: Some(end), thread: Some(thread) })
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The board to which the run writes its figures.
    pub(crate) fn board(&self) -> Board {
        self.board.clone()
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // The thread returns nothing.
            let _ended = thread.join();
        }
    }
}

async fn answer(listener: TcpListener, board: Board) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut readers = JoinSet::new();
    loop {
        while readers.len() >= READERS {
            readers.join_next().await;
        }
        let Ok((stream, _)) = listener.accept().await else {
            // Most likely out of descriptors; the next reader may be luckier.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let board = board.clone();
        readers.spawn(tokio::time::timeout(LIMIT, async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = page(request.uri().path(), &board.figures());
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).keep_alive(false);
            // Errors of a reader do not matter here.
            let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
        }));
        while readers.try_join_next().is_some() {}
    }
}

fn page(path: &str, figures: &Figures) -> Response<Full<Bytes>> {
    let (status, text) = if path == wire::path::METRICS {
        (StatusCode::OK, text(figures))
    } else {
        (StatusCode::NOT_FOUND, "the figures are at /metrics\n".to_owned())
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

/// The figures in Prometheus' text format.
fn text(figures: &Figures) -> String {
    let Figures { succeeded, failed, rate, p50, p95, p99 } = figures;
    let mut text = format!(
        "# HELP client_requests_total Requests that ended.\n\
         # TYPE client_requests_total counter\n\
         client_requests_total{{outcome=\"succeeded\"}} {succeeded}\n\
         client_requests_total{{outcome=\"failed\"}} {failed}\n\
         # HELP client_request_rate Requests that ended in the last second.\n\
         # TYPE client_request_rate gauge\n\
         client_request_rate {rate}\n\
         # HELP client_latency_seconds Latency from the scheduled instant, over the last ten seconds.\n\
         # TYPE client_latency_seconds gauge\n"
    );
    for (q, value) in [("0.5", p50), ("0.95", p95), ("0.99", p99)] {
        if let Some(milliseconds) = value {
            let seconds = milliseconds / 1e3;
            writeln!(text, "client_latency_seconds{{quantile=\"{q}\"}} {seconds}")
                .expect("a string takes any text");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::{Figures, Metrics, page};

    #[test]
    fn figures_are_read_over_http_and_a_silent_reader_holds_nobody_up() {
        let metrics = Metrics::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let figures = Figures { succeeded: 7, p50: Some(20.0), ..Figures::default() };
        metrics.board.write(figures);
        let _silent = std::net::TcpStream::connect(metrics.address()).unwrap();
        let mut reader = std::net::TcpStream::connect(metrics.address()).unwrap();
        reader.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut answer = String::new();
        reader.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("client_requests_total{outcome=\"succeeded\"} 7\n"), "{answer}");
        assert!(answer.contains("client_latency_seconds{quantile=\"0.5\"} 0.02\n"), "{answer}");
        assert!(!answer.contains("0.99"), "too few to say");
        drop(metrics);
    }

    #[test]
    fn anything_else_is_not_found() {
        assert_eq!(page("/", &Figures::default()).status(), 404);
    }
}
