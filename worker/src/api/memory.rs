//! The memory that requests may hold: a limit for each, and one for all together.
//!
//! Everything that a request makes the worker hold is charged before it is allocated: the body as
//! it arrives and once unpacked, parsed values, tensors, outputs, the answer. A request over its
//! own limit is too large (413); if the shared memory is in use, it may try again (429). An answer
//! occupies memory until its client has read it, so all answers together may hold only half of the
//! shared memory: slow readers do not lock out requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Problem;
use crate::config::most_memory;
use crate::metrics::{Metrics, Rejection};

/// Step of charging for small allocations, so that not each of them costs an atomic operation.
const STEP: usize = 4096;
/// Answers up to this size fit the buffers of a connection and are not counted while they are written.
const SMALL_ANSWER: usize = 16 << 10;

/// The memory of all requests.
#[derive(Debug)]
pub(super) struct Pool {
    used: AtomicUsize,
    limit: usize,
    /// The limit of each request.
    each: usize,
    /// Memory of finished answers that have not been read yet.
    unread: AtomicUsize,
    freed: Notify,
    metrics: Arc<Metrics>,
}

/// The memory of one request.
#[derive(Debug)]
pub(super) struct Allowance {
    pool: Arc<Pool>,
    used: AtomicUsize,
    /// The limit: the pool's limit per request, or less for a small one.
    limit: AtomicUsize,
    /// Number of bytes received with it.
    received: AtomicUsize,
    /// The peak of `used`.
    most: AtomicUsize,
}

/// Some memory of a request, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    allowance: Arc<Allowance>,
    bytes: usize,
    /// How many of them are not used yet.
    spare: usize,
}

/// Bytes and the charge for them.
struct Charged {
    bytes: Vec<u8>,
    _charge: Charge,
    _unread: Option<Unread>,
}

/// An answer's share of the unread bytes.
struct Unread {
    pool: Arc<Pool>,
    bytes: usize,
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.pool.unread.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Short {
    Request,
    Pool,
}

impl Pool {
    pub(super) fn new(limit: usize, each: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let [used, unread] = [const { AtomicUsize::new(0) }; 2];
        Arc::new(Self { used, limit, each, unread, freed: Notify::new(), metrics })
    }

    fn overloaded(&self, why: &str) -> Problem {
        self.metrics.rejected(Rejection::Memory);
        Problem::Overloaded(why.to_owned())
    }

    /// The allowance of a new request.
    pub(super) fn allowance(self: &Arc<Self>) -> Arc<Allowance> {
        let [used, received, most] = [const { AtomicUsize::new(0) }; 3];
        Arc::new(Allowance {
            pool: Arc::clone(self),
            used,
            limit: self.each.into(),
            received,
            most,
        })
    }
}

impl Allowance {
    /// A new charge, of `bytes` to begin with.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Result<Charge, Problem> {
        let mut charge = Charge { allowance: Arc::clone(self), bytes: 0, spare: 0 };
        charge.grow(bytes)?;
        Ok(charge)
    }

    /// How much of its own limit the request may still use.
    pub(super) fn left(&self) -> usize {
        self.limit().saturating_sub(self.used.load(Ordering::Relaxed))
    }

    /// Limits the request by its size: a small one must not take much memory.
    pub(super) fn bound_by(&self, received: usize) {
        self.limit.store(most_memory(received, self.pool.each), Ordering::Relaxed);
        self.received.store(received, Ordering::Relaxed);
    }

    /// Number of bytes received with the request.
    pub(super) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// The peak memory use of the request.
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> Result<(), Short> {
        add(&self.used, bytes, self.limit()).ok_or(Short::Request)?;
        if add(&self.pool.used, bytes, self.pool.limit).is_some() {
            self.most.fetch_max(self.used.load(Ordering::Relaxed), Ordering::Relaxed);
            return Ok(());
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        Err(Short::Pool)
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.pool.used.fetch_sub(bytes, Ordering::Release);
        if bytes > 0 {
            self.pool.freed.notify_waiters();
        }
    }

    fn problem(&self, short: Short) -> Problem {
        match short {
            Short::Request => Problem::TooLarge(format!(
                "this request takes more than the {} bytes of memory that one may \
                 (--max-request-memory)",
                self.limit()
            )),
            Short::Pool => self.pool.overloaded("too many large requests at once, try again"),
        }
    }
}

impl Charge {
    /// Charges more, or returns why it cannot.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        self.try_grow(bytes).map_err(|short| self.allowance.problem(short))
    }

    /// Charges more, waiting while other requests hold the missing memory.
    pub(super) async fn grow_by(&mut self, bytes: usize, until: Instant) -> Result<(), Problem> {
        let pool = Arc::clone(&self.allowance.pool);
        loop {
            let mut freed = std::pin::pin!(pool.freed.notified());
            freed.as_mut().enable();
            match self.try_grow(bytes) {
                Ok(()) => return Ok(()),
                Err(Short::Pool) if timeout_at(until, freed).await.is_ok() => {}
                Err(short) => return Err(self.allowance.problem(short)),
            }
        }
    }

    /// Another charge of the same request.
    pub(super) fn beside(&self) -> Result<Self, Problem> {
        self.allowance.charge(0)
    }

    /// Bytes that hold this charge for as long as they live.
    pub(super) fn hold(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Charged { bytes, _charge: self, _unread: None })
    }

    /// The bytes of an answer, charged until they are written; the rest of this charge is released.
    pub(super) fn answer(mut self, mut bytes: Vec<u8>) -> Result<Bytes, Problem> {
        if bytes.len() < SMALL_ANSWER {
            return Ok(bytes.into());
        }
        bytes.shrink_to_fit();
        self.shrink(bytes.len());
        let pool = Arc::clone(&self.allowance.pool);
        if add(&pool.unread, self.bytes, pool.limit / 2).is_none() {
            return Err(pool.overloaded("too many large answers wait to be read, try again"));
        }
        let unread = Some(Unread { pool, bytes: self.bytes });
        Ok(Bytes::from_owner(Charged { bytes, _charge: self, _unread: unread }))
    }

    /// Gives everything back.
    pub(super) fn clear(&mut self) {
        self.shrink(0);
    }

    /// Gives back everything beyond `bytes`.
    fn shrink(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.spare = 0;
        self.allowance.give_back(surplus);
    }

    fn try_grow(&mut self, bytes: usize) -> Result<(), Short> {
        if let Some(spare) = self.spare.checked_sub(bytes) {
            self.spare = spare;
            return Ok(());
        }
        let missing = bytes - self.spare;
        let step = missing.max(STEP.min(self.bytes));
        self.allowance.take(step)?;
        self.bytes += step;
        self.spare = step - missing;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.allowance.give_back(self.bytes);
    }
}

/// Adds, unless the sum would be above `limit`.
fn add(counter: &AtomicUsize, bytes: usize, limit: usize) -> Option<usize> {
    let sum = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
    counter.fetch_update(Ordering::AcqRel, Ordering::Relaxed, sum).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::{Allowance, Pool};
    use crate::config::ANY_REQUEST;
    use crate::metrics::Metrics;

    fn pool(limit: usize, each: usize) -> Arc<Pool> {
        Pool::new(limit, each, Arc::new(Metrics::new()))
    }

    fn status(allowance: &Arc<Allowance>, bytes: usize) -> u16 {
        allowance.charge(bytes).map_or_else(|problem| problem.status().as_u16(), |_| 200)
    }

    #[test]
    fn a_request_has_a_bound_and_all_together_have_one() {
        let pool = pool(150, 100);
        let (one, other) = (pool.allowance(), pool.allowance());
        let held = one.charge(90).unwrap();
        assert_eq!((status(&one, 11), status(&one, 10)), (413, 200));
        assert_eq!((status(&other, 61), status(&other, 60)), (429, 200));
        drop(held);
        assert_eq!((status(&other, 100), status(&other, usize::MAX)), (200, 413));
    }

    #[test]
    fn a_small_request_has_a_smaller_bound() {
        let pool = pool(1 << 30, 64 << 20);
        let allowance = pool.allowance();
        for (received, most) in
            [(0, ANY_REQUEST), (100_000, ANY_REQUEST + 4_000_000), (1 << 20, 64 << 20)]
        {
            allowance.bound_by(received);
            assert_eq!((status(&allowance, most), status(&allowance, most + 1)), (200, 413));
        }
    }

    #[tokio::test]
    async fn who_waits_gets_what_another_gives_back() {
        let pool = pool(100, 100);
        let held = pool.allowance().charge(100).unwrap();
        let mut waiting = pool.allowance().charge(0).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let grown = async { waiting.grow_by(50, until).await };
        let (grown, ()) = tokio::join!(grown, async { drop(held) });
        grown.unwrap();
        let late = pool.allowance().charge(0).unwrap().grow_by(51, Instant::now()).await;
        assert_eq!(late.unwrap_err().status(), 429);
    }

    #[test]
    fn answers_that_nobody_reads_keep_no_request_out() {
        let pool = pool(400_000, 200_000);
        let answer = |counted: usize| {
            let mut text = Vec::with_capacity(counted);
            text.resize(90_000, b'x');
            pool.allowance().charge(counted).unwrap().answer(text)
        };
        // Of what was charged for writing an answer, only its length remains.
        let unread = [answer(200_000).unwrap(), answer(120_000).unwrap()];
        assert_eq!(answer(200_000).unwrap_err().status(), 429);
        assert_eq!((status(&pool.allowance(), 200_000), unread[0].len()), (200, 90_000));
        let small = pool.allowance().charge(1000).unwrap().answer(vec![b'x'; 1000]);
        assert_eq!(small.unwrap().len(), 1000);
        drop(unread);
        answer(200_000).unwrap();
        let all = [pool.allowance(), pool.allowance()].map(|one| one.charge(200_000));
        assert!(all.iter().all(Result::is_ok));
    }

    proptest! {
        #[test]
        fn nothing_stays_charged(sizes in proptest::collection::vec(0usize..9000, 0..30)) {
            let pool = pool(100_000, 50_000);
            let allowance = pool.allowance();
            let mut charge = allowance.charge(0).unwrap();
            let mut sum = 0;
            for size in sizes {
                if charge.grow(size).is_ok() {
                    sum += size;
                }
                prop_assert!(sum + allowance.left() <= 50_000);
            }
            drop(charge);
            prop_assert_eq!(allowance.left(), 50_000);
            prop_assert_eq!(status(&pool.allowance(), 50_000), 200);
        }
    }
}
