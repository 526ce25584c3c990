//! A connection that is given up when its client reads nothing of what is written to it for too long.
//!
//! Without this a client that never reads keeps its connection, and the answer that waits for it, for
//! as long as it likes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes that a client has to read each second, once it has kept writes waiting.
const MIN_RATE: u32 = 500;

/// A stream with a limit to the patience of writes.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    idle: Duration,
    /// Set while something waits to be written.
    stalled: Option<Stalled>,
}

#[derive(Debug)]
struct Stalled {
    /// What has been read since earns more time, up to that of a fresh stall.
    until: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> Patient<S> {
    /// Gives writes up after `idle` without progress.
    pub fn new(stream: S, idle: Duration) -> Self {
        Self { stream, idle, stalled: None }
    }

    /// What becomes of a write: counts its progress, or the time without any.
    fn judge(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.wait(context),
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
            stalled.until = (stalled.until + earned).min(Instant::now() + self.idle);
        }
    }

    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let until = Instant::now() + self.idle;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Stalled { until, timer: Box::pin(sleep_until(until)) });
        if stalled.timer.deadline() != stalled.until {
            stalled.timer.as_mut().reset(stalled.until);
        }
        let error = || io::Error::new(io::ErrorKind::TimedOut, "the client does not read");
        stalled.timer.as_mut().poll(context).map(|()| Err(error()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, written, wanted)
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
    use super::Patient;
    use std::io::ErrorKind;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    const IDLE: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_is_given_up() {
        let (stream, _client) = duplex(100);
        let begun = Instant::now();
        let error = Patient::new(stream, IDLE).write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (ErrorKind::TimedOut, IDLE));
    }

    /// Reads a piece now and then, until nothing comes.
    async fn read_slowly(mut client: DuplexStream, piece: usize) {
        let mut buffer = vec![0; piece];
        while let Ok(1..) = client.read(&mut buffer).await {
            tokio::time::sleep(Duration::from_secs(50)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_given_up_and_a_slow_reader_is_not() {
        for (piece, is_enough) in [(10, false), (30_000, true)] {
            let (stream, client) = duplex(piece);
            let reader = tokio::spawn(read_slowly(client, piece));
            let mut patient = Patient::new(stream, IDLE);
            let outcome = patient.write_all(&vec![0; 20 * piece]).await;
            assert_eq!(outcome.is_ok(), is_enough, "{outcome:?}");
            drop(patient);
            reader.await.unwrap();
        }
    }
}
