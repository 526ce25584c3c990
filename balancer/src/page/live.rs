//! Live status updates for open pages, each with its own stream of server-sent events.
//!
//! One task checks the fleet a few times per second, formats changes once for all streams, and does
//! nothing while no page is open. A slow stream skips updates. The number of streams is limited,
//! and each ends after a while like any other answer; browsers reconnect by themselves, and pages
//! without a stream poll the status.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::budget::Budget;

/// Maximum number of concurrent streams.
const MAX_WATCHERS: usize = 256;
/// Time between two looks at the fleet.
const PERIOD: Duration = Duration::from_millis(200);
/// An idle stream sends a comment after this time, because its client may have gone.
const BEAT: Duration = Duration::from_secs(10);
/// A stream ends after this long. No limit on the time of an answer is shorter.
const LENGTH: Duration = Duration::from_secs(25);

/// The latest event and the streams that wait for the next.
#[derive(Debug)]
pub struct Live {
    latest: watch::Sender<Bytes>,
    watchers: Budget,
    /// Whether the balancer is about to stop.
    is_over: AtomicBool,
}

impl Default for Live {
    fn default() -> Self {
        let (latest, watchers) = (watch::Sender::default(), Budget::new(MAX_WATCHERS));
        Self { latest, watchers, is_over: AtomicBool::new(false) }
    }
}

impl Live {
    /// Opens another stream, which begins with this status; `None` if there are too many.
    pub fn watch(self: &Arc<Self>, status: impl FnOnce() -> Value) -> Option<Watcher> {
        self.watchers.take(1).then(|| Watcher {
            live: Arc::clone(self),
            changes: self.latest.subscribe(),
            first: Some(event(&status())),
            until: Instant::now() + LENGTH,
        })
    }

    /// Ends the streams with their next event.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Relaxed);
    }
}

/// Sends changes to the streams, forever.
pub async fn run(live: Arc<Live>, status: impl Fn() -> Value) {
    let mut looks = interval(PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if live.watchers.used() > 0 {
            let event = event(&status());
            live.latest.send_if_modified(|latest| {
                let is_news = *latest != event;
                if is_news {
                    *latest = event;
                }
                is_news
            });
        }
    }
}

fn event(status: &Value) -> Bytes {
    Bytes::from(format!("retry: 1000\ndata: {status}\n\n"))
}

/// The stream of events for one open page.
#[derive(Debug)]
pub struct Watcher {
    live: Arc<Live>,
    changes: watch::Receiver<Bytes>,
    /// The first event of the stream.
    first: Option<Bytes>,
    until: Instant,
}

impl Watcher {
    /// The events until the end of the stream.
    pub fn events(self) -> impl Stream<Item = Bytes> + 'static {
        unfold(self, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((event, watcher))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.first.is_some() {
            return self.first.take();
        }
        if self.live.is_over.load(Relaxed) {
            return None;
        }
        tokio::select! {
            changed = self.changes.changed() => {
                changed.ok().map(|()| self.changes.borrow_and_update().clone())
            }
            () = sleep(BEAT) => Some(Bytes::from_static(b":\n\n")),
            () = sleep_until(self.until) => None,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.live.watchers.give_back(1);
    }
}
