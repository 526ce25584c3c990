//! A stub of the service on a free port: it reads whole requests and answers as the test specifies.
#![allow(dead_code, reason = "each test binary looks at its own part")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: http::Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A running stub, stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    is_encrypted: bool,
    runtime: tokio::runtime::Runtime,
}

/// The version of HTTP that a stub speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    H2,
    /// HTTP/2 with this limit on concurrent streams.
    H2Streams(u32),
}

impl Stub {
    /// Answers every request with `answer`.
    pub(crate) fn start<F, A>(speaks: Speaks, answer: A) -> Self
    where
        A: Fn(Seen) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        Self::start_with(None, speaks, answer)
    }

    /// The same, encrypted if `tls` is given.
    pub(crate) fn start_with<F, A>(tls: Option<TlsAcceptor>, speaks: Speaks, answer: A) -> Self
    where
        A: Fn(Seen) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let is_encrypted = tls.is_some();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a stub starts");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a stub starts");
        let address = listener.local_addr().expect("a stub starts");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let answer = Arc::new(answer);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                stream.set_nodelay(true).expect("the socket is open");
                tokio::spawn(welcome(tls.clone(), stream, speaks, Arc::clone(&answer)));
            }
        });
        Self { address, connections, is_encrypted, runtime }
    }

    /// Until the result is dropped, blocks the stub for `length` at the start of every `period`.
    pub(crate) fn stall_every(&self, period: Duration, length: Duration) -> Stall {
        Stall(self.runtime.spawn(async move {
            let mut start = tokio::time::interval(period);
            loop {
                start.tick().await;
                #[expect(clippy::disallowed_methods, reason = "the stall is what is simulated")]
                std::thread::sleep(length);
            }
        }))
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        if self.is_encrypted {
            // The certificate is for this name.
            return format!("https://localhost:{}", self.address.port());
        }
        format!("http://{}", self.address)
    }
}

/// Stalls of a stub, which end when this is dropped.
#[derive(Debug)]
pub(crate) struct Stall(tokio::task::JoinHandle<()>);

impl Drop for Stall {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn welcome<F, A>(tls: Option<TlsAcceptor>, stream: TcpStream, speaks: Speaks, answer: Arc<A>)
where
    A: Fn(Seen) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let Some(tls) = tls else { return serve(stream, speaks, answer).await };
    // The client closes if it does not trust the certificate.
    if let Ok(stream) = tls.accept(stream).await {
        serve(stream, speaks, answer).await;
    }
}

async fn serve<S, F, A>(stream: S, speaks: Speaks, answer: Arc<A>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Seen) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = Arc::clone(&answer);
        async move {
            let (head, body) = request.into_parts();
            let path = head.uri.path_and_query().map_or("", |it| it.as_str()).to_owned();
            let body = body.collect().await?.to_bytes();
            let seen = Seen { method: head.method, path, headers: head.headers, body };
            Ok::<_, hyper::Error>(answer(seen).await)
        }
    });
    let io = TokioIo::new(stream);
    // In some tests the client disconnects in the middle of a request.
    let _ended = match speaks {
        Speaks::Http1 => http1::Builder::new().serve_connection(io, service).await,
        Speaks::H2 => http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await,
        Speaks::H2Streams(most) => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(most).serve_connection(io, service).await
        }
    };
}

/// A balancer's answer to a client without preferences.
pub(crate) fn label(label: &str, endpoint: &str) -> Response<Full<Bytes>> {
    Response::builder()
        .header(wire::header::ENDPOINT, endpoint)
        .header(wire::header::SERVER_TIMING, "queue;dur=1.5, compute;dur=3")
        .body(Full::from(format!("\"{label}\"\n")))
        .expect("a stub starts")
}

/// An error answer.
pub(crate) fn error(status: u16) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .body(Full::from("{\"error\":\"no\"}"))
        .expect("a stub starts")
}
