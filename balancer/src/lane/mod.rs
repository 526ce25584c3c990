//! What one thread of the balancer owns alone.
//!
//! Every thread has a listener, a runtime and connections of its own, and no request ever changes
//! threads. So the idle connections, the random numbers, the access log's buffer and the list of
//! waiting requests need no lock: a [`Lane`] is deliberately not `Sync`. What the threads share is
//! in [`crate::shared::Shared`].

mod backlog;
mod client;
mod clients;
mod failed_attempts;
mod idle;
mod waits;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use http::HeaderMap;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::access_log::Buffer;
use crate::error::ProxyError;
use crate::gate::{Openings, Place};
use crate::outbox::Outbox;
use crate::policy::{Kind, Occasion};
use crate::shared::{Chosen, Shared};
use crate::upstream::{Candidates, Class, Endpoint, EndpointId, InFlight, Room, Snapshot};

pub use backlog::Backlog;
pub use client::{Client, EndOfInput, Order};
pub use clients::Clients;
pub use failed_attempts::FailedAttempts;
pub use idle::Idle;
pub use waits::{Wait, Waits};

/// Room for the fields of a usual response.
const USUAL_FIELDS: usize = 12;
/// Longer lists of fields are not used again.
const MAX_FIELDS: usize = 96;
/// Lists of fields that are kept.
const MAX_SPARE: usize = 16;

type Cached<T> = RefCell<Cache<Arc<ArcSwap<T>>, Arc<T>>>;

/// One thread's share of the balancer.
#[derive(Debug)]
pub struct Lane {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Idle connections to endpoints.
    pub idle: Idle,
    /// What operators were told of failed attempts.
    pub failed_attempts: FailedAttempts,
    /// Client connections.
    pub clients: Clients,
    /// Answers that wait for their clients.
    pub backlog: Backlog,
    /// Requests that wait for something.
    pub waits: Waits,
    /// Writes that wait for the end of the round.
    pub outbox: Outbox,
    /// The access log, if one is written.
    pub log: Option<RefCell<Buffer>>,
    /// Whether new requests should go elsewhere.
    pub is_draining: Cell<bool>,
    /// Where responses are received.
    pub room: Rc<Room>,
    /// Empty lists of fields whose memory is used again.
    spare: RefCell<Vec<HeaderMap>>,
    snapshot: Cached<Snapshot>,
    policy: Cached<Chosen>,
    rng: RefCell<SmallRng>,
}

/// What a request needs of an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The model; see [`Snapshot::candidates`].
    pub model: Option<&'a str>,
    /// How many endpoints of the list take part.
    pub count: usize,
    /// For the hash policy; `None` for a request without what it goes by.
    pub key: Option<u64>,
    /// Endpoints that it has tried.
    pub avoided: &'a [EndpointId],
}

/// Why there is no endpoint for a request.
#[derive(Debug)]
pub enum Refusal {
    /// Every candidate has as many requests as it takes.
    Busy,
    /// There is no candidate.
    Final(ProxyError),
}

impl Lane {
    /// A lane with nothing on it yet.
    pub fn new(shared: Arc<Shared>, log: Option<Buffer>) -> Self {
        Self {
            idle: Idle::new(),
            failed_attempts: FailedAttempts::default(),
            clients: Clients::default(),
            backlog: Backlog::new(shared.config.bounds.answers / shared.config.threads),
            waits: Waits::new(Instant::now()),
            outbox: Outbox::default(),
            log: log.map(RefCell::new),
            is_draining: Cell::new(false),
            room: Rc::default(),
            spare: RefCell::default(),
            snapshot: RefCell::new(Cache::new(shared.pool.current())),
            policy: RefCell::new(Cache::new(Arc::clone(&shared.policy))),
            rng: RefCell::new(SmallRng::from_rng(&mut rand::rng())),
            shared,
        }
    }

    /// A random number.
    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }

    /// An empty list of fields.
    pub fn spare_fields(&self) -> HeaderMap {
        self.spare.borrow_mut().pop().unwrap_or_else(|| HeaderMap::with_capacity(USUAL_FIELDS))
    }

    /// Keeps the memory of a list of fields that nobody needs any more.
    pub fn recycle(&self, mut fields: HeaderMap) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < MAX_SPARE && (USUAL_FIELDS..=MAX_FIELDS).contains(&fields.capacity()) {
            fields.clear();
            spare.push(fields);
        }
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
    pub fn pick(&self, wanted: &Wanted<'_>, now: Instant) -> Result<InFlight, Refusal> {
        let mut cached = self.snapshot.borrow_mut();
        let (candidates, may_wait) = match cached.load().candidates(wanted.model, wanted.count) {
            Candidates::Some(_, candidates) => (candidates, true),
            Candidates::Unheard(candidates) => (candidates, false),
            Candidates::Nobody => return Err(Refusal::Final(NOBODY)),
            Candidates::Loading => return Err(Refusal::Final(NOT_READY)),
            Candidates::UnknownModel => return Err(Refusal::Final(unknown(wanted))),
        };
        let busy = || if may_wait { Refusal::Busy } else { Refusal::Final(unknown(wanted)) };
        self.take(candidates, wanted, now).ok_or_else(busy)
    }

    /// Whether there are endpoints that it is worth waiting for.
    pub fn can_wait(&self, wanted: &Wanted<'_>) -> bool {
        class(self.snapshot.borrow_mut().load(), wanted).is_ok()
    }

    /// Whether there is an endpoint for a request that it has not tried yet.
    pub fn has_untried(&self, wanted: &Wanted<'_>) -> bool {
        match self.snapshot.borrow_mut().load().candidates(wanted.model, wanted.count) {
            Candidates::Some(_, candidates) => {
                candidates.iter().any(|endpoint| !wanted.avoided.contains(&endpoint.id()))
            }
            Candidates::Unheard(_)
            | Candidates::Nobody
            | Candidates::Loading
            | Candidates::UnknownModel => false,
        }
    }

    /// Joins the queue for an endpoint with room. Who would wait in vain is told at once.
    pub fn queue(&self, wanted: &Wanted<'_>) -> Result<Place<'_>, ProxyError> {
        class(self.snapshot.borrow_mut().load(), wanted)?;
        let place = self.shared.gate.join(wanted, self.waits.now());
        self.serve_waiting();
        place.ok_or(ProxyError::Overloaded)
    }

    /// Hands room to those who wait for it. Due whenever a request has left an endpoint.
    #[inline]
    pub fn serve_waiting(&self) {
        let now = self.waits.now();
        let snapshot = || self.shared.pool.snapshot();
        self.shared.gate.serve(now, || LaneOpenings { lane: self, snapshot: snapshot(), now });
    }

    /// Has the policy choose one of `candidates` that has room.
    fn take(
        &self,
        candidates: &[Arc<Endpoint>],
        &Wanted { key, avoided, .. }: &Wanted<'_>,
        now: Instant,
    ) -> Option<InFlight> {
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
            // Another thread may have taken the last room of the chosen one; then it looks again.
            if let Some(in_flight) = self.choose(&others, key, now).try_begin(now) {
                return Some(in_flight);
            }
        }
    }

    /// Asks the policy.
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

/// What those who wait may be given, as this lane sees it.
struct LaneOpenings<'a> {
    lane: &'a Lane,
    snapshot: Arc<Snapshot>,
    now: Instant,
}

impl Openings for LaneOpenings<'_> {
    fn generation(&self) -> u64 {
        self.snapshot.generation()
    }

    fn class(&self, wanted: &Wanted<'_>) -> Result<Class, ProxyError> {
        class(&self.snapshot, wanted)
    }

    fn full_before(&self, set: usize) -> usize {
        let set = self.snapshot.set(set);
        set.iter().position(|endpoint| endpoint.has_room()).unwrap_or(set.len())
    }

    fn take(&self, class: Class, wanted: &Wanted<'_>) -> Option<InFlight> {
        let set = self.snapshot.set(class.set);
        self.lane.take(&set[..class.first.min(set.len())], wanted, self.now)
    }
}

/// Which endpoints a request may wait for.
fn class(snapshot: &Snapshot, wanted: &Wanted<'_>) -> Result<Class, ProxyError> {
    match snapshot.candidates(wanted.model, wanted.count) {
        Candidates::Some(class, _) => Ok(class),
        Candidates::Unheard(_) | Candidates::UnknownModel => Err(unknown(wanted)),
        Candidates::Nobody => Err(NOBODY),
        Candidates::Loading => Err(NOT_READY),
    }
}

const NOBODY: ProxyError = ProxyError::Unavailable("no worker is available");
const NOT_READY: ProxyError = ProxyError::Unavailable("no worker that serves this model is ready");

fn unknown(wanted: &Wanted<'_>) -> ProxyError {
    let model = wanted.model.unwrap_or_default();
    ProxyError::NotFound(format!("no worker serves the model {model:?}"))
}
