//! The output of a worker: always read, so that no full pipe ever stops the worker, and passed on
//! to the operator's log under the worker's name.
//!
//! A worker may print anything: bytes that are not text, lines without an end, more than can be
//! read. Each has a limit here, and what exceeds it is counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::log::operator::WORKER_OUTPUT;
use crate::log::text;

/// Longer lines are split.
const MAX_LINE: u64 = 4 * 1024;
/// Maximum number of lines of one stream that are passed on within [`WINDOW`].
const MAX_LINES: u32 = 1000;
const WINDOW: Duration = Duration::from_secs(1);

/// Reads `stream` to its end. The first line that names an address is reported instead of passed
/// on.
pub(super) async fn follow(
    worker: Arc<str>,
    stream: impl AsyncRead + Unpin,
    mut told: Option<oneshot::Sender<SocketAddr>>,
) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let mut allowance = Allowance::new();
    loop {
        line.clear();
        match (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return allowance.tell(&worker),
            Ok(_) => {}
        }
        let address = if told.is_some() { address(&line) } else { None };
        if let Some((address, told)) = address.zip(told.take_if(|_| address.is_some())) {
            // Without a receiver the worker is being stopped.
            let _told = told.send(address).is_ok();
        } else if allowance.allows(&worker) {
            tracing::info!(target: WORKER_OUTPUT, worker = &*worker, "{}", text::lossy(line.trim_ascii_end()));
        }
    }
}

/// Limits how many lines are passed on.
#[derive(Debug)]
struct Allowance {
    since: Instant,
    lines: u32,
    dropped: u64,
}

impl Allowance {
    fn new() -> Self {
        Self { since: Instant::now(), lines: 0, dropped: 0 }
    }

    fn allows(&mut self, worker: &str) -> bool {
        if self.lines >= MAX_LINES && self.since.elapsed() >= WINDOW {
            self.tell(worker);
            *self = Self::new();
        }
        let is_allowed = self.lines < MAX_LINES;
        self.lines = self.lines.saturating_add(1);
        self.dropped += u64::from(!is_allowed);
        is_allowed
    }

    fn tell(&self, worker: &str) {
        if self.dropped > 0 {
            tracing::warn!(
                worker,
                lines = self.dropped,
                "worker prints too much, lines were dropped"
            );
        }
    }
}

/// The address in `listening on ADDR:PORT`.
fn address(line: &[u8]) -> Option<SocketAddr> {
    let address = std::str::from_utf8(line).ok()?.trim().strip_prefix("listening on ")?;
    address.strip_prefix("http://").unwrap_or(address).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_says_where_it_listens() {
        let expected = SocketAddr::from(([127, 0, 0, 1], 4242));
        assert_eq!(address(b"listening on 127.0.0.1:4242"), Some(expected));
        assert_eq!(address(b"listening on http://127.0.0.1:4242\n"), Some(expected));
        assert_eq!(address(b"hello"), None);
        assert_eq!(address(b"listening on caf\xe9"), None);
    }

    #[tokio::test]
    async fn the_address_is_found_among_lines_that_are_no_text_and_have_no_end() {
        let endless = vec![b'x'; 3 * usize::try_from(MAX_LINE).expect("small")];
        let printed =
            [b"caf\xe9\n", &endless[..], b"\nlistening on 127.0.0.1:1\n\xff\xff"].concat();
        let (tell, told) = oneshot::channel();
        follow("worker1".into(), &printed[..], Some(tell)).await;
        assert_eq!(told.await, Ok(SocketAddr::from(([127, 0, 0, 1], 1))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_prints_without_pause_gets_a_part_of_the_log() {
        let mut allowance = Allowance::new();
        let passed = |allowance: &mut Allowance| {
            (0..5 * MAX_LINES).filter(|_| allowance.allows("worker1")).count()
        };
        assert_eq!(passed(&mut allowance), MAX_LINES as usize);
        tokio::time::advance(WINDOW).await;
        assert_eq!(passed(&mut allowance), MAX_LINES as usize);
    }
}
