//! The fleet that all threads share, and each thread's view of it.
//!
//! A [`Fleet`] is atomic or swapped as a whole, so that no request waits for a lock. Each thread
//! has a [`View`] with what need not be shared: the latest snapshot and policy that it has seen,
//! and its random numbers.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use rand::Rng;
use tokio::time::Instant;

use crate::admission::Waiter;
use crate::endpoint::{Endpoint, Permit};
use crate::hedging::Hedging;
use crate::policy::{Kind, Occasion, Policy};
use crate::pool::Pool;
use crate::retry::RetryBudget;
use crate::snapshot::{Candidates, Snapshot};
use crate::wanted::{Refusal, Wanted};

/// The policy in use.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The name that operators know the policy by.
    pub kind: Kind,
    /// The instance that picks, with what it has learnt so far.
    pub policy: Arc<dyn Policy>,
}

impl Chosen {
    /// A new instance of a policy.
    pub fn new(kind: Kind) -> Self {
        Self { kind, policy: kind.build() }
    }
}

/// Everything that decisions depend on.
#[derive(Debug)]
pub struct Fleet {
    /// The endpoints to pick from.
    pub pool: Arc<Pool>,
    /// The policy that chooses among them.
    pub policy: Arc<ArcSwap<Chosen>>,
    /// How many retries are allowed.
    pub retries: RetryBudget,
    /// When requests are sent twice, if at all.
    pub hedging: Option<Hedging>,
}

impl Fleet {
    /// The endpoints of a pool under a policy; nothing is sent twice before it has failed.
    pub fn new(pool: Arc<Pool>, policy: Kind, retries: RetryBudget) -> Self {
        let policy = Arc::new(ArcSwap::from_pointee(Chosen::new(policy)));
        Self { pool, policy, retries, hedging: None }
    }
}

/// The source of time: one clock for the whole path of a request.
pub trait Clock: Clone {
    /// The current time. How stale it may be depends on the type of the clock.
    fn now(&self) -> Instant;
}

type Cached<T> = RefCell<Cache<Arc<ArcSwap<T>>, Arc<T>>>;

/// One thread's view of the fleet: `R` is its source of random numbers, `C` its clock.
#[derive(Debug)]
pub struct View<R, C> {
    fleet: Arc<Fleet>,
    clock: C,
    snapshot: Cached<Snapshot>,
    policy: Cached<Chosen>,
    rng: RefCell<R>,
}

impl<R: Rng, C: Clock> View<R, C> {
    /// A view with its own random number generator.
    pub fn new(fleet: Arc<Fleet>, rng: R, clock: C) -> Self {
        Self {
            clock,
            snapshot: RefCell::new(Cache::new(fleet.pool.current())),
            policy: RefCell::new(Cache::new(Arc::clone(&fleet.policy))),
            rng: RefCell::new(rng),
            fleet,
        }
    }

    /// The fleet that it shows.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// The clock that it reads.
    #[inline]
    pub fn clock(&self) -> &C {
        &self.clock
    }

    /// A random number.
    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }

    /// The policy in use.
    pub fn policy_kind(&self) -> Kind {
        self.policy.borrow_mut().load().kind
    }

    /// The pool as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.snapshot.borrow_mut().load())
    }

    /// Chooses an endpoint other than those `avoided` and counts the request on it.
    pub fn pick(&self, wanted: &Wanted<'_>, now: Instant) -> Result<Permit, Refusal> {
        let mut cached = self.snapshot.borrow_mut();
        let (candidates, full) = match cached.load().candidates(wanted.model, wanted.count) {
            Candidates::Some(_, candidates) => (candidates, Refusal::Busy),
            Candidates::Unheard(candidates) => (candidates, Refusal::UnknownModel),
            Candidates::None => return Err(Refusal::NoEndpoint),
            Candidates::Loading => return Err(Refusal::NotReady),
            Candidates::UnknownModel => return Err(Refusal::UnknownModel),
        };
        self.take(candidates, wanted, now).ok_or(full)
    }

    /// Whether there are endpoints worth waiting for.
    pub fn can_wait(&self, wanted: &Wanted<'_>) -> bool {
        wanted.class(self.snapshot.borrow_mut().load()).is_ok()
    }

    /// Whether there is an endpoint for a request that it has not tried yet.
    pub fn has_untried(&self, wanted: &Wanted<'_>) -> bool {
        match self.snapshot.borrow_mut().load().candidates(wanted.model, wanted.count) {
            Candidates::Some(_, candidates) => {
                candidates.iter().any(|endpoint| !wanted.avoided.contains(&endpoint.id()))
            }
            Candidates::Unheard(_)
            | Candidates::None
            | Candidates::Loading
            | Candidates::UnknownModel => false,
        }
    }

    /// Why a request that has waited for too long is refused: all endpoints were busy, or none came.
    pub fn why_in_vain(&self, wanted: &Wanted<'_>) -> Refusal {
        let class = wanted.class(self.snapshot.borrow_mut().load());
        class.err().unwrap_or(Refusal::Overloaded)
    }

    /// Joins the queue for an endpoint with room; refuses immediately if waiting would be in vain.
    pub fn queue(&self, wanted: &Wanted<'_>, now: Instant) -> Result<Waiter, Refusal> {
        let refusal = || wanted.class(self.snapshot.borrow_mut().load()).err();
        if let Some(refused) = refusal() {
            let is_starting = refused.ends_with_a_start() && self.fleet.pool.expects(now);
            // An endpoint that is no longer expected may have arrived since the first check.
            if !is_starting && let Some(refused) = refusal() {
                return Err(refused);
            }
        }
        let join = || {
            let waiter = self.fleet.pool.queue().join(wanted, now);
            self.serve_waiting(now);
            waiter
        };
        // A full, standing queue is shorter once the requests that have waited too long are gone.
        join().or_else(join).ok_or(Refusal::Overloaded)
    }

    /// Hands out room that was not freed by a request: that of endpoints that were added, or take
    /// more. Call it from time to time, and again soon if it returns true: then there are more
    /// requests that have waited too long.
    #[inline]
    pub fn serve_waiting(&self, now: Instant) -> bool {
        self.fleet.pool.queue().serve(now, |endpoints, wanted| self.take(endpoints, wanted, now))
    }

    /// Lets the policy choose one of `candidates` that has room.
    fn take(
        &self,
        candidates: &[Arc<Endpoint>],
        &Wanted { key, avoided, .. }: &Wanted<'_>,
        now: Instant,
    ) -> Option<Permit> {
        if avoided.is_empty()
            && let Some(in_flight) = self.choose(candidates, key, now).try_begin(now)
        {
            return Some(in_flight);
        }
        loop {
            let others: Vec<Arc<Endpoint>> = candidates
                .iter()
                .filter(|endpoint| endpoint.has_room() && !avoided.contains(&endpoint.id()))
                .cloned()
                .collect();
            if others.is_empty() {
                return None;
            }
            // If another thread has taken the last room of the chosen endpoint, look again.
            if let Some(in_flight) = self.choose(&others, key, now).try_begin(now) {
                return Some(in_flight);
            }
        }
    }

    /// Lets the policy choose one of `candidates`.
    fn choose<'e>(
        &self,
        candidates: &'e [Arc<Endpoint>],
        key: Option<u64>,
        now: Instant,
    ) -> &'e Arc<Endpoint> {
        let mut rng = self.rng.borrow_mut();
        let mut policy = self.policy.borrow_mut();
        let mut occasion = Occasion { now, key, rng: &mut *rng };
        let position = policy.load().policy.pick(candidates, &mut occasion);
        &candidates[position.unwrap_or(0)]
    }
}

/// How long a request with this much time left may wait for room. Half of its time is kept for the
/// answer: otherwise, in an overload, every request would wait as long as allowed, and endpoints
/// would do useless work for requests without any time left.
pub fn patience(limit: Duration, left: Duration) -> Duration {
    limit.min(left / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_time_is_kept_for_the_answer() {
        let seconds = Duration::from_secs;
        assert_eq!(patience(seconds(2), seconds(30)), seconds(2));
        assert_eq!(patience(seconds(2), seconds(1)), Duration::from_millis(500));
        assert_eq!(patience(seconds(2), Duration::ZERO), Duration::ZERO);
    }
}
