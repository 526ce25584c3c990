//! Returns memory freed by requests to the system.
//!
//! The allocator keeps freed memory for reuse, which pays while there is load but not in the hours
//! after it, and the memory of a large request may never be used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

use super::memory::Allowance;

/// Requests that used less memory are not worth a clean-up.
const WORTH: usize = 256 << 10;
/// After requests that used more, memory is returned even under load.
const LARGE: usize = 8 << 20;
/// Time within which requests that end together have all ended.
const SETTLING: Duration = Duration::from_millis(500);
/// A pause is this many times `SETTLING` without a request.
const PAUSE: u32 = 6;

/// Calls `give_back` after large requests, and in pauses.
#[derive(Debug)]
pub(super) struct Tidier(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    give_back: fn(),
    is_watching: AtomicBool,
    /// Number of requests that have left memory to return.
    ended: AtomicU64,
    was_large: AtomicBool,
}

impl Tidier {
    pub(super) fn new(give_back: fn()) -> Self {
        Self(Arc::new(Shared {
            give_back,
            is_watching: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            was_large: AtomicBool::new(false),
        }))
    }

    /// A guard to drop at the end of the request that `memory` belongs to, whether it is answered
    /// or its client hangs up.
    pub(super) fn after<'a>(&'a self, memory: &'a Allowance) -> Leftovers<'a> {
        Leftovers { tidier: self, memory }
    }

    fn tidy_after(&self, bytes: usize) {
        let shared = &self.0;
        if bytes < WORTH {
            return;
        }
        shared.ended.fetch_add(1, Ordering::Relaxed);
        if bytes >= LARGE {
            shared.was_large.store(true, Ordering::Relaxed);
        }
        let Ok(runtime) = Handle::try_current() else { return };
        if !shared.is_watching.swap(true, Ordering::AcqRel) {
            drop(runtime.spawn(Arc::clone(shared).watch()));
        }
    }
}

impl Shared {
    /// Runs until there is a pause.
    async fn watch(self: Arc<Self>) {
        let mut quiet = 0;
        while quiet < PAUSE {
            let before = self.ended.load(Ordering::Relaxed);
            sleep(SETTLING).await;
            if self.was_large.swap(false, Ordering::Relaxed) {
                self.tidy().await;
            }
            let is_quiet = before == self.ended.load(Ordering::Relaxed);
            quiet = if is_quiet { quiet + 1 } else { 0 };
        }
        // Before tidying, so that a request that ends now is not missed.
        self.is_watching.store(false, Ordering::Release);
        self.tidy().await;
    }

    /// Runs `give_back` on a blocking thread, because it takes milliseconds.
    async fn tidy(&self) {
        drop(tokio::task::spawn_blocking(self.give_back).await);
    }
}

/// What a request leaves to the allocator when it ends.
#[derive(Debug)]
pub(super) struct Leftovers<'a> {
    tidier: &'a Tidier,
    memory: &'a Allowance,
}

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        self.tidier.tidy_after(self.memory.most());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A tidier that counts its clean-ups.
    macro_rules! tidier {
        () => {{
            static TIMES: AtomicUsize = AtomicUsize::new(0);
            let tidier = Tidier::new(|| {
                TIMES.fetch_add(1, Ordering::Relaxed);
            });
            (tidier, || TIMES.load(Ordering::Relaxed))
        }};
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_are_tidied_up_after_under_load_once_for_all_that_end_together() {
        let (tidier, times) = tidier!();
        for _ in 0..5 {
            tidier.tidy_after(LARGE);
        }
        for _ in 0..20 {
            sleep(SETTLING / 2).await;
            tidier.tidy_after(WORTH);
        }
        assert_eq!(times(), 1);
        tidier.tidy_after(LARGE);
        sleep(2 * SETTLING).await;
        assert_eq!(times(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn usual_requests_are_tidied_up_after_when_they_pause() {
        let (tidier, times) = tidier!();
        for round in 1..3 {
            for _ in 0..20 {
                tidier.tidy_after(WORTH);
                sleep(SETTLING).await;
            }
            assert_eq!(times(), round - 1);
            sleep((PAUSE + 2) * SETTLING).await;
            assert_eq!(times(), round);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn small_requests_leave_nothing_to_tidy_up() {
        let (tidier, times) = tidier!();
        tidier.tidy_after(WORTH - 1);
        sleep(100 * SETTLING).await;
        assert_eq!(times(), 0);
    }
}
