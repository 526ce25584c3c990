//! Reads every request body to its end before the route sees it.
//!
//! One place bounds the size, the patience and the memory of all bodies together. A body that is
//! too large is read on and thrown away for a while, because a client that is still sending would
//! find its connection reset and never read the 413.

use super::{App, Problem, inflate};
use crate::metrics::Rejection;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

/// What the routes know of a request besides its head and body.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// When the upload was complete.
    pub received_at: Instant,
    /// When the answer is worthless.
    pub deadline: Instant,
}

/// The unit in which memory for bodies is counted: a semaphore holds too few bytes.
const BLOCK: usize = 1024;
/// How much of a body that is too large is thrown away, and how long.
const MOST_DISCARDED: usize = 256 << 20;
const LONGEST_DISCARD: Duration = Duration::from_secs(10);

/// Middleware: hands the complete body and an [`Arrival`] to the route.
pub(super) async fn collect(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (mut head, body) = request.into_parts();
    let deadline = began + app.patience(&head.headers);
    let upload = Upload { app: &app, headers: &head.headers, deadline };
    let (bytes, _memory) = match upload.read(body).await {
        Ok(read) => read,
        Err(problem) => return problem.into_response(),
    };
    let arrival = Arrival { received_at: Instant::now(), deadline };
    head.extensions.insert(arrival);
    let mut response = next.run(Request::from_parts(head, Body::from(bytes))).await;
    response.extensions_mut().insert(arrival);
    response
}

struct Upload<'a> {
    app: &'a App,
    headers: &'a HeaderMap,
    deadline: Instant,
}

impl Upload<'_> {
    /// The body, and the memory it holds until the answer is made.
    async fn read(&self, body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
        if axum::body::HttpBody::is_end_stream(&body) {
            return Ok((Bytes::new(), None));
        }
        let limit = self.app.limits.max_body;
        let announced = axum::body::HttpBody::size_hint(&body).exact();
        let size = announced.map_or(limit, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if size > limit {
            return Err(self.too_large(body).await);
        }
        let packed = inflate::is_gzip(self.headers)?;
        let memory = self.app.body_memory(if packed { limit } else { size }, self.deadline).await?;
        let bytes = self.gather(body).await?;
        let bytes = if packed { inflate::inflate(bytes, limit).await? } else { bytes };
        Ok((bytes, Some(memory)))
    }

    async fn gather(&self, mut body: Body) -> Result<Bytes, Problem> {
        let mut whole = Vec::new();
        let mut first = Bytes::new();
        while let Some(chunk) = self.next(&mut body).await? {
            if first.len() + whole.len() + chunk.len() > self.app.limits.max_body {
                return Err(self.too_large(body).await);
            }
            if first.is_empty() && whole.is_empty() {
                first = chunk;
                continue;
            }
            if whole.is_empty() {
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(if whole.is_empty() { first } else { whole.into() })
    }

    /// The next piece of the body, `None` at its end.
    async fn next(&self, body: &mut Body) -> Result<Option<Bytes>, Problem> {
        loop {
            let idle = Instant::now() + self.app.limits.body_idle;
            let Ok(frame) = timeout_at(idle.min(self.deadline), body.frame()).await else {
                return Err(Problem::SlowUpload);
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(Problem::Malformed(format!("the body broke off: {error}")));
                }
                Some(Ok(frame)) => {
                    if let Ok(chunk) = frame.into_data() {
                        return Ok(Some(chunk));
                    }
                }
            }
        }
    }

    async fn too_large(&self, mut body: Body) -> Problem {
        if !self.headers.contains_key(header::EXPECT) {
            let mut left = MOST_DISCARDED;
            let discard = async {
                while left > 0
                    && let Some(Ok(frame)) = body.frame().await
                {
                    left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                }
            };
            // However far it came, the answer is the same.
            drop(timeout(LONGEST_DISCARD, discard).await);
        }
        let limit = self.app.limits.max_body;
        Problem::TooLarge(format!("the body is larger than the {limit} bytes allowed"))
    }
}

impl App {
    /// How long the caller of a request waits for its answer.
    fn patience(&self, headers: &HeaderMap) -> Duration {
        let longest = self.limits.deadline;
        headers
            .get(wire::header::TIMEOUT_MS)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map_or(longest, |ms| Duration::from_millis(ms).min(longest))
    }

    /// Reserves memory for a body, or refuses when others hold it too long.
    async fn body_memory(
        &self,
        bytes: usize,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, Problem> {
        let blocks = u32::try_from(bytes.div_ceil(BLOCK)).unwrap_or(u32::MAX);
        let reserved = Arc::clone(&self.bodies).acquire_many_owned(blocks);
        if let Ok(Ok(permit)) = timeout_at(deadline, reserved).await {
            return Ok(permit);
        }
        self.metrics.rejected(Rejection::Memory);
        Err(Problem::Overloaded("too many uploads at once, try again".to_owned()))
    }

    /// Blocks of memory that `bytes` are.
    pub(super) fn blocks(bytes: usize) -> usize {
        bytes.div_ceil(BLOCK)
    }
}
