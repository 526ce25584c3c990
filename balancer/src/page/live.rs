//! The status as it changes, for open pages: a stream of server-sent events for each.
//!
//! One task looks at the fleet a few times per second, formats what has changed once for all
//! streams, and does nothing while no page is open. A slow stream skips updates. The number of
//! streams is limited, and each ends after a while like any other answer; browsers reconnect by
//! themselves, and pages without a stream poll the status.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::status::status;
use crate::shared::{Budget, Shared};

/// Streams at a time.
const MAX_WATCHERS: usize = 256;
/// Time between two looks at the fleet.
const PERIOD: Duration = Duration::from_millis(200);
/// A stream in which nothing happens says so after this long: its client may have gone.
const BEAT: Duration = Duration::from_secs(10);
/// A stream ends after this long. No limit on the time of an answer is shorter.
const LENGTH: Duration = Duration::from_secs(25);

/// The latest event, and who waits for the next.
#[derive(Debug)]
pub struct Live {
    latest: watch::Sender<Bytes>,
    watchers: Budget,
}

impl Default for Live {
    fn default() -> Self {
        Self { latest: watch::Sender::default(), watchers: Budget::new(MAX_WATCHERS) }
    }
}

/// Sends changes to the streams, forever.
pub async fn run(shared: Arc<Shared>) {
    let mut looks = interval(PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if shared.live.watchers.used() > 0 {
            let event = event(&shared);
            shared.live.latest.send_if_modified(|latest| {
                let is_news = *latest != event;
                if is_news {
                    *latest = event;
                }
                is_news
            });
        }
    }
}

fn event(shared: &Shared) -> Bytes {
    Bytes::from(format!("retry: 1000\ndata: {}\n\n", status(shared)))
}

/// One stream of events, to one open page.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    changes: watch::Receiver<Bytes>,
    /// What the stream begins with.
    first: Option<Bytes>,
    until: Instant,
}

impl Watcher {
    /// A stream that begins with the status as of now; `None` if there are too many.
    pub fn new(shared: &Arc<Shared>) -> Option<Self> {
        shared.live.watchers.take(1).then(|| Self {
            shared: Arc::clone(shared),
            changes: shared.live.latest.subscribe(),
            first: Some(event(shared)),
            until: Instant::now() + LENGTH,
        })
    }

    /// The events, to the end of the stream.
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
        if self.shared.is_draining.load(Relaxed) {
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
        self.shared.live.watchers.give_back(1);
    }
}
