//! Reads every request body to its end before the route sees it.
//!
//! The size, time and memory limits of all bodies are enforced here. Memory is charged as the bytes
//! arrive, so a client that announces a large body and sends little does not lock out others. The
//! body of a refused request is read and discarded for a while: a client that is still sending
//! would otherwise find its connection reset and never read the answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use message::Coding;
use tokio::time::{Instant, timeout, timeout_at};

use super::memory::{Allowance, Charge};
use super::{App, Problem, inflate};

/// What the routes know about a request besides its head and body.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When the upload was complete.
    pub received_at: Instant,
    /// The deadline, after which the answer is of no value.
    pub deadline: Instant,
    /// The memory that the request may still use.
    pub(super) memory: Arc<Allowance>,
}

/// How long each part of an upload waits for other requests to release memory.
const MEMORY_WAIT: Duration = Duration::from_secs(1);
/// The most bytes of a refused request's body to discard, and the longest time to spend on it.
const MOST_DISCARDED: usize = 256 << 20;
const LONGEST_DISCARD: Duration = Duration::from_secs(10);

/// Middleware: hands the complete body and an [`Arrival`] to the route.
pub(super) async fn collect(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (mut head, body) = request.into_parts();
    let deadline = began + app.patience(&head.headers);
    let memory = app.memory.allowance();
    let _leftovers = app.tidier.after(&memory);
    let upload = Upload { app: &app, headers: &head.headers, memory: &memory, began, deadline };
    let (bytes, _charge) = match upload.read(body).await {
        Ok(read) => read,
        Err(problem) => return problem.into_response(),
    };
    let arrival = Arrival { received_at: Instant::now(), deadline, memory: Arc::clone(&memory) };
    head.extensions.insert(arrival.clone());
    let mut response = next.run(Request::from_parts(head, Body::from(bytes))).await;
    response.extensions_mut().insert(arrival);
    response
}

struct Upload<'a> {
    app: &'a App,
    headers: &'a HeaderMap,
    memory: &'a Arc<Allowance>,
    began: Instant,
    deadline: Instant,
}

/// The part of a body that has arrived: one piece as it was read, or several joined.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    whole: Vec<u8>,
}

impl Upload<'_> {
    /// The body, and the charge for its memory until the answer is made.
    async fn read(&self, body: Body) -> Result<(Bytes, Charge), Problem> {
        let mut charge = self.memory.charge(0)?;
        if axum::body::HttpBody::is_end_stream(&body) {
            return Ok((Bytes::new(), charge));
        }
        let coding = Coding::of(self.headers)?;
        let bytes = self.gather(body, &mut charge).await?;
        self.memory.bound_by(bytes.len());
        let Some(coding) = coding else { return Ok((bytes, charge)) };
        let unpacked = inflate::inflate(bytes, coding, self.app.limits.max_body, self.memory);
        timeout_at(self.deadline, unpacked).await.map_err(|_| Problem::Deadline)?
    }

    async fn gather(&self, mut body: Body, charge: &mut Charge) -> Result<Bytes, Problem> {
        let limit = self.app.limits.max_body;
        let announced = axum::body::HttpBody::size_hint(&body).exact();
        let most = announced.map_or(limit, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if most > limit {
            return Err(self.refuse(body, self.too_large()).await);
        }
        let mut gathered = Gathered::default();
        while let Some(chunk) = self.next(&mut body, gathered.len()).await? {
            let missing = gathered.missing(chunk.len(), most);
            let until = self.deadline.min(Instant::now() + MEMORY_WAIT);
            let room = if gathered.len() + chunk.len() > limit {
                Err(self.too_large())
            } else {
                charge.grow_by(missing, until).await
            };
            if let Err(problem) = room {
                // The bytes received are neither kept nor charged while the rest is discarded.
                drop((gathered, chunk));
                charge.clear();
                return Err(self.refuse(body, problem).await);
            }
            gathered.add(chunk, missing);
        }
        Ok(gathered.finish())
    }

    /// The next piece of the body, `None` at its end.
    async fn next(&self, body: &mut Body, received: usize) -> Result<Option<Bytes>, Problem> {
        let limits = &self.app.limits;
        // Bytes received extend the time limit, so a trickle is cut off just as silence is.
        let earned = received as f64 / f64::from(limits.min_rate.max(1));
        let slowest = self.began + limits.body_idle + Duration::from_secs_f64(earned);
        loop {
            let idle = Instant::now() + limits.body_idle;
            let until = idle.min(slowest).min(self.deadline);
            let Ok(frame) = timeout_at(until, body.frame()).await else {
                let is_late = until == self.deadline;
                return Err(if is_late { Problem::Deadline } else { Problem::SlowUpload });
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

    fn too_large(&self) -> Problem {
        let limit = self.app.limits.max_body;
        Problem::TooLarge(format!("the body is larger than the {limit} bytes allowed"))
    }

    /// Keeps reading for a while; the answer is the same however much arrives.
    async fn refuse(&self, mut body: Body, problem: Problem) -> Problem {
        if !self.headers.contains_key(header::EXPECT) {
            let mut left = MOST_DISCARDED;
            let discard = async {
                while left > 0
                    && let Some(Ok(frame)) = body.frame().await
                {
                    left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                }
            };
            drop(timeout(LONGEST_DISCARD, discard).await);
        }
        problem
    }
}

impl Gathered {
    fn len(&self) -> usize {
        self.first.len() + self.whole.len()
    }

    /// Memory that another piece needs, given that at most `most` bytes will arrive.
    fn missing(&self, piece: usize, most: usize) -> usize {
        let needed = self.len() + piece;
        if self.len() == 0 {
            return piece;
        }
        let capacity = self.whole.capacity();
        let larger = needed.max((2 * capacity).min(most));
        if needed <= capacity { 0 } else { larger - capacity }
    }

    /// Adds another piece, for which `missing` bytes were charged.
    fn add(&mut self, piece: Bytes, missing: usize) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        if missing > 0 {
            let capacity = self.whole.capacity() + missing;
            self.whole.reserve_exact(capacity - self.whole.len());
        }
        self.whole.extend_from_slice(&std::mem::take(&mut self.first));
        self.whole.extend_from_slice(&piece);
    }

    fn finish(self) -> Bytes {
        if self.whole.is_empty() { self.first } else { self.whole.into() }
    }
}

impl App {
    /// How long the client waits for its answer.
    fn patience(&self, headers: &HeaderMap) -> Duration {
        let longest = self.limits.deadline;
        headers
            .get(wire::header::TIMEOUT_MS)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map_or(longest, |ms| Duration::from_millis(ms).min(longest))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::HttpBody;
    use hyper::body::Frame;

    use super::*;

    /// A body that yields these pieces and then never ends.
    struct Endless(Vec<Bytes>);

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.pop().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_is_refused_holds_no_memory_while_the_rest_of_it_comes() {
        let app = App::with_defaults(None);
        let memory = app.memory.allowance();
        let (headers, began, all) = (HeaderMap::new(), Instant::now(), memory.left());
        let deadline = began + Duration::from_mins(1);
        let upload = Upload { app: &app, headers: &headers, memory: &memory, began, deadline };
        let piece = Bytes::from(vec![0; app.limits.max_body / 2]);
        let refused = upload.read(Body::new(Endless(vec![piece; 3])));
        let mut refused = std::pin::pin!(refused);
        assert!(timeout(LONGEST_DISCARD / 2, &mut refused).await.is_err(), "it is read on");
        assert_eq!(memory.left(), all);
        assert_eq!(refused.await.unwrap_err().status(), 413);
    }
}
