//! A shard: the state that belongs to one thread of the balancer.
//!
//! Every thread has its own listener, runtime and connections, and no request ever changes
//! threads. So the idle connections, the random numbers, the access log's buffer and the list of
//! waiting requests need no lock: a [`Shard`] is deliberately not `Sync`. What the threads share
//! is in [`crate::shared::Shared`].

mod backlog;
mod client;
mod clients;
mod failed_attempts;
mod idle;
mod waits;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

pub use backlog::Backlog;
pub use client::{Client, EndOfInput, SweepAction};
pub use clients::Clients;
pub use failed_attempts::FailedAttempts;
use fleet::policy::Kind;
use fleet::{Attempt, Failure, Notice, Snapshot, View};
use http::HeaderMap;
pub use idle::Idle;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::Instant;
pub use waits::{Wait, Waits};

use crate::access_log::Buffer;
use crate::log::changes::tell;
use crate::shared::Shared;
use crate::upstream::Room;
use crate::write_queue::{RoundClock, WriteQueue};

/// Capacity for the fields of a typical response.
const USUAL_FIELDS: usize = 12;
/// Larger field maps are not reused.
const MAX_FIELDS: usize = 96;
/// Maximum number of field maps kept for reuse.
const MAX_SPARE: usize = 16;

/// One thread's share of the balancer.
#[derive(Debug)]
pub struct Shard {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Idle connections to endpoints.
    pub idle: Idle,
    /// Failed attempts that were logged recently.
    pub failed_attempts: FailedAttempts,
    /// The client connections of this thread.
    pub clients: Clients,
    /// Answers that wait for their clients.
    pub backlog: Backlog,
    /// Requests that wait for something.
    pub waits: Waits,
    /// Writes that wait for the end of the round.
    pub write_queue: Rc<WriteQueue>,
    /// The access log, if one is written.
    pub log: Option<RefCell<Buffer>>,
    /// Whether new requests should go elsewhere.
    pub is_draining: Cell<bool>,
    /// The buffer into which responses are received.
    pub room: Rc<Room>,
    /// Empty field maps whose memory is reused.
    spare: RefCell<Vec<HeaderMap>>,
    /// The fleet, as this thread sees it.
    pub view: View<SmallRng, RoundClock>,
}

impl Shard {
    /// A shard without any connections yet.
    pub fn new(shared: Arc<Shared>, log: Option<Buffer>) -> Self {
        let write_queue = Rc::new(WriteQueue::default());
        let rng = SmallRng::from_rng(&mut rand::rng());
        Self {
            idle: Idle::new(),
            failed_attempts: FailedAttempts::default(),
            clients: Clients::default(),
            backlog: Backlog::new(shared.config.bounds.answers / shared.config.threads),
            waits: Waits::new(Instant::now()),
            log: log.map(RefCell::new),
            is_draining: Cell::new(false),
            room: Rc::default(),
            spare: RefCell::default(),
            view: View::new(Arc::clone(&shared.fleet), rng, RoundClock::new(&write_queue)),
            write_queue,
            shared,
        }
    }

    /// Draws a number from this thread's own generator.
    pub fn random(&self) -> u64 {
        self.view.random()
    }

    /// An empty field map.
    pub fn spare_fields(&self) -> HeaderMap {
        self.spare.borrow_mut().pop().unwrap_or_else(|| HeaderMap::with_capacity(USUAL_FIELDS))
    }

    /// Keeps the memory of a field map that is no longer needed.
    pub fn recycle(&self, mut fields: HeaderMap) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < MAX_SPARE && (USUAL_FIELDS..=MAX_FIELDS).contains(&fields.capacity()) {
            fields.clear();
            spare.push(fields);
        }
    }

    /// The policy in use.
    pub fn policy_kind(&self) -> Kind {
        self.view.policy_kind()
    }

    /// Records that an attempt failed, and logs it for operators.
    pub(crate) fn note_failed<A>(
        &self,
        attempt: &mut Attempt<RoundClock>,
        failure: &Failure<A>,
        now: Instant,
    ) {
        let pool = &self.shared.fleet.pool;
        let Some(Notice { reason, is_news, changes }) = attempt.failed(pool, failure, now) else {
            return;
        };
        if is_news {
            self.failed_attempts.warn(attempt.endpoint(), reason, self.waits.now());
        } else {
            tracing::debug!(endpoint = attempt.endpoint().name(), reason, "attempt failed");
        }
        tell(&changes);
    }

    /// The pool as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.view.snapshot()
    }
}
