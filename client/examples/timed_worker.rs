//! A worker whose service time is a timer: it answers requests in sequence, each after a time drawn
//! from a distribution, and computes nothing.
//!
//! In a slice it stands in for `worker` when queues are to be measured rather than the processor:
//! other work on the host disturbs a computation, but hardly a timer. `client/validate.sh` checks
//! the simulator against it. It accepts the flags that `client slice run` passes to a worker.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use client::simulate::ServiceTime;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// One server with an unbounded queue.
struct Server {
    service: ServiceTime,
    state: Mutex<State>,
}

struct State {
    rng: Xoshiro256PlusPlus,
    free_at: Instant,
}

impl Server {
    /// Completion time and service time of a request that arrives now.
    fn take(&self) -> (Instant, Duration) {
        let mut state = self.state.lock().expect("no thread panics with it");
        let time = Duration::from_secs_f64(self.service.sampler().draw(&mut state.rng));
        state.free_at = state.free_at.max(Instant::now()) + time;
        (state.free_at, time)
    }
}

async fn answer(
    server: Arc<Server>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let endpoint = request.headers().get(wire::header::ENDPOINT).cloned();
    // A body that breaks off ends the connection anyway.
    let _body = request.into_body().collect().await;
    let text = match path.as_str() {
        "/v2/health/ready" | "/v2/health/live" => "{}",
        "/v2/repository/index" => "[{\"name\":\"mnist\",\"version\":\"1\",\"state\":\"READY\"}]",
        _ => {
            let came = Instant::now();
            let (done, time) = server.take();
            tokio::time::sleep_until(done).await;
            let mut response = Response::new(Full::from("\"7\"\n"));
            let (total, time) = (came.elapsed().as_secs_f64() * 1e3, time.as_secs_f64() * 1e3);
            let queue = (total - time).max(0.0);
            let timing =
                format!("queue;dur={queue:.3}, compute;dur={time:.3}, total;dur={total:.3}");
            let headers = response.headers_mut();
            headers.insert(wire::header::SERVER_TIMING, timing.parse().expect("digits"));
            if let Some(name) = endpoint {
                headers.insert(wire::header::ENDPOINT, name);
            }
            return Ok(response);
        }
    };
    Ok(Response::new(Full::from(text)))
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::disallowed_methods, reason = "an example has no command line of its own")]
async fn main() -> anyhow::Result<()> {
    let service = std::env::var("TIMED_WORKER").unwrap_or_else(|_| "exp:20ms".to_owned());
    let service = service.parse().map_err(anyhow::Error::msg).context("TIMED_WORKER")?;
    let mut arguments = std::env::args().skip_while(|argument| argument != "--listen").skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8501".to_owned());
    let rng = Xoshiro256PlusPlus::seed_from_u64(u64::from(std::process::id()));
    let state = Mutex::new(State { rng, free_at: Instant::now() });
    let server = Arc::new(Server { service, state });
    let listener = TcpListener::bind(&address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let server = Arc::clone(&server);
        let service = service_fn(move |request| answer(Arc::clone(&server), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
