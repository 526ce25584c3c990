//! A connection that is closed when its client keeps it waiting for too long, either in the middle
//! of a request head or by not reading what is written to it.
//!
//! Without this, a client that never reads could keep its connection and its pending answer
//! indefinitely, and one that sends its head byte by byte for as long as an idle connection lives.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes per second that a client has to read once a write has stalled. Even the slowest networks
/// in use are this fast; a client that reads less would keep a large answer in memory for hours.
const MIN_RATE: u32 = 20_000;

/// How long a client may keep a connection waiting.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the first byte of a request head to its last; the first head is timed from the start of
    /// the connection.
    pub head: Duration,
    /// Without reading anything that is written to it.
    pub write: Duration,
}

/// The requests of one connection. Bytes that arrive while none is open belong to the next head.
#[derive(Debug, Default)]
pub struct Exchanges {
    begun: AtomicUsize,
    open: AtomicUsize,
}

/// A request whose answer is not complete.
#[derive(Debug)]
pub struct Exchange(Arc<Exchanges>);

/// The body of an answer, which ends its exchange when it is dropped.
#[derive(Debug)]
pub struct TrackedBody<B> {
    body: B,
    _exchange: Exchange,
}

impl Exchanges {
    /// Starts an exchange when a request head is complete.
    pub fn begin(self: &Arc<Self>) -> Exchange {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Exchange(Arc::clone(self))
    }

    /// The number of the next head; `None` while a request is open.
    fn next(&self) -> Option<usize> {
        let is_open = self.open.load(Ordering::Relaxed) > 0;
        (!is_open).then(|| self.begun.load(Ordering::Relaxed))
    }
}

impl Exchange {
    /// Keeps the exchange open until `body` ends.
    pub fn answered<B>(self, body: B) -> TrackedBody<B> {
        TrackedBody { body, _exchange: self }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: HttpBody + Unpin> HttpBody for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that limits how long its client may keep it waiting.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    patience: Patience,
    exchanges: Arc<Exchanges>,
    /// The head that has begun, by its number.
    head: Option<(usize, Limit)>,
    /// Set while a write is stalled. What the client has read since then earns it more time, up to
    /// that of a new stall.
    stalled: Option<Limit>,
}

/// A time limit, and the timer that wakes the connection when it is reached.
#[derive(Debug)]
struct Limit {
    until: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Limit {
    fn after(time: Duration) -> Self {
        Self { until: Instant::now() + time, timer: None }
    }

    /// Ready once the time is up.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let until = self.until;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(context)
    }
}

fn too_slow(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl<S> Patient<S> {
    /// A new connection, whose first head has begun.
    pub fn new(stream: S, patience: Patience, exchanges: Arc<Exchanges>) -> Self {
        let head = Some((0, Limit::after(patience.head)));
        Self { stream, patience, exchanges, head, stalled: None }
    }

    /// The outcome of a read: bytes may start a head, and the time for a head may be up.
    fn judge_read(
        &mut self,
        context: &mut Context<'_>,
        read: Poll<io::Result<()>>,
        has_more: bool,
    ) -> Poll<io::Result<()>> {
        let expected = self.exchanges.next();
        if self.head.as_ref().map(|(number, _)| *number) != expected {
            self.head = None;
        }
        let Some(expected) = expected else { return read };
        match (read, &mut self.head) {
            (Poll::Ready(Ok(())), None) if has_more => {
                self.head = Some((expected, Limit::after(self.patience.head)));
                Poll::Ready(Ok(()))
            }
            (Poll::Pending, Some((_, limit))) => {
                limit.poll(context).map(|()| Err(too_slow("the request head takes too long")))
            }
            (read, _) => read,
        }
    }

    /// The outcome of a write: credits its progress, or fails once it has stalled for too long.
    fn judge_write(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => {
                let idle = self.patience.write;
                let stalled = self.stalled.get_or_insert_with(|| Limit::after(idle));
                stalled.poll(context).map(|()| Err(too_slow("the client does not read")))
            }
            Poll::Ready(Ok(count)) => {
                self.progress(count, wanted);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    fn progress(&mut self, count: usize, wanted: usize) {
        if count >= wanted {
            self.stalled = None;
        } else if let Some(stalled) = &mut self.stalled {
            let earned = Duration::from_secs_f64(count as f64 / f64::from(MIN_RATE));
            stalled.until = (stalled.until + earned).min(Instant::now() + self.patience.write);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let has_more = buffer.filled().len() > before;
        self.judge_read(context, read, has_more)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge_write(context, written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge_write(context, written, wanted)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{Instant, sleep};

    use super::{Exchanges, Patience, Patient};

    const PATIENCE: Patience =
        Patience { head: Duration::from_secs(20), write: Duration::from_mins(1) };

    fn patient(stream: DuplexStream) -> (Patient<DuplexStream>, Arc<Exchanges>) {
        let exchanges = Arc::new(Exchanges::default());
        (Patient::new(stream, PATIENCE, Arc::clone(&exchanges)), exchanges)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_is_given_up() {
        let (stream, _client) = duplex(100);
        let begun = Instant::now();
        let error = patient(stream).0.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (ErrorKind::TimedOut, PATIENCE.write));
    }

    /// Reads a piece every 50 seconds until the stream ends.
    async fn read_slowly(mut client: DuplexStream, piece: usize) {
        let mut buffer = vec![0; piece];
        while let Ok(1..) = client.read(&mut buffer).await {
            sleep(Duration::from_secs(50)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_given_up_and_a_slow_reader_is_not() {
        for (piece, is_enough) in [(10, false), (30_000, false), (1_500_000, true)] {
            let (stream, client) = duplex(piece);
            let reader = tokio::spawn(read_slowly(client, piece));
            let (mut patient, _) = patient(stream);
            let outcome = patient.write_all(&vec![0; 20 * piece]).await;
            assert_eq!(outcome.is_ok(), is_enough, "{outcome:?}");
            drop(patient);
            reader.await.unwrap();
        }
    }

    /// Sends a byte per second until the other side has closed.
    async fn trickle(mut client: DuplexStream) {
        while client.write_all(b"x").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn read_on(stream: &mut Patient<DuplexStream>) -> ErrorKind {
        loop {
            if let Err(error) = stream.read(&mut [0; 10]).await {
                return error.kind();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_head_that_trickles_or_never_begins_is_given_up() {
        for is_silent in [true, false] {
            let (stream, client) = duplex(100);
            let (mut patient, _) = patient(stream);
            let begun = Instant::now();
            let kept = if is_silent {
                Some(client)
            } else {
                drop(tokio::spawn(trickle(client)));
                None
            };
            assert_eq!(read_on(&mut patient).await, ErrorKind::TimedOut);
            assert_eq!(begun.elapsed(), PATIENCE.head);
            drop(kept);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_head_has_as_long_as_the_first_from_its_first_byte() {
        let (stream, mut client) = duplex(100);
        let (mut patient, exchanges) = patient(stream);
        client.write_all(b"head").await.unwrap();
        patient.read_exact(&mut [0; 4]).await.unwrap();
        // The body may be slow, as may the answer and the start of the next request.
        let exchange = exchanges.begin();
        let slow = async {
            sleep(5 * PATIENCE.head).await;
            client.write_all(b"body").await.unwrap();
        };
        let mut buffer = [0; 10];
        let (read, ()) = tokio::join!(patient.read(&mut buffer), slow);
        assert_eq!(read.unwrap(), 4);
        drop(exchange.answered(()));
        let idle = async {
            sleep(3 * PATIENCE.head).await;
            client.write_all(b"h").await.unwrap();
        };
        let (read, ()) = tokio::join!(patient.read(&mut buffer), idle);
        assert_eq!(read.unwrap(), 1);
        let begun = Instant::now();
        drop(tokio::spawn(trickle(client)));
        assert_eq!(read_on(&mut patient).await, ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), PATIENCE.head);
    }
}
