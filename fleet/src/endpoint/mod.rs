//! One worker address and everything the balancer knows about it.
//!
//! Every thread reads and writes an [`Endpoint`] on the request path, so the parts that change
//! there are atomic and nothing waits: its [`room`], and how fast it is ([`pace`]). Only changes of
//! its [`State`] take a lock ([`standing`]), and those are rare. An endpoint owns no socket.

mod counters;
mod pace;
mod room;
mod service_time;
mod standing;
mod vain;

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
pub use counters::{Counters, LATENCY_BOUNDS};
use http::HeaderValue;
pub use room::Permit;
pub(crate) use room::Waiters;
pub use service_time::Estimate;
use service_time::ServiceTime;
pub use standing::{LastProbe, Standing};
use tokio::sync::Notify;
use tokio::time::Instant;
use vain::Vain;
use wire::ModelIndexEntry;

use crate::state::State;

/// Identifies an endpoint for as long as the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u32);

/// One worker address.
#[derive(Debug)]
pub struct Endpoint {
    id: EndpointId,
    name: Box<str>,
    address: SocketAddr,
    label: HeaderValue,
    line: Box<[u8]>,
    quoted: Box<str>,
    born: Instant,
    in_flight: AtomicU32,
    limit: AtomicU32,
    weight: AtomicU32,
    reported_queue: AtomicU32,
    /// When it was reported, in nanoseconds after `born`.
    reported_at: AtomicU64,
    time: ServiceTime,
    /// How long connecting takes, in nanoseconds: moving average, the latest counts an eighth.
    connect_time: AtomicU64,
    vain: Mutex<Vain>,
    /// When its slow start began, in nanoseconds after `born`; 0 when it is over.
    warming_since: AtomicU64,
    /// How long its slow start lasts, in nanoseconds.
    warming_for: AtomicU64,
    state: Mutex<State>,
    /// Whether a success would change `state`; spares the request path its lock.
    is_troubled: AtomicBool,
    /// Whether its process is known not to be running: whatever answers at its address is another.
    is_absent: AtomicBool,
    /// Whether it is down by its probes.
    is_down: AtomicBool,
    /// Whether its probes get no sign of life.
    is_mute: AtomicBool,
    /// What operators are told about its state.
    standing: Mutex<Standing>,
    models: ArcSwapOption<Vec<ModelIndexEntry>>,
    /// Requests an early probe.
    doubts: Notify,
    counters: Counters,
    /// Where requests wait for room on it, if they do.
    queue: Option<Arc<dyn Waiters>>,
}

impl Endpoint {
    /// An endpoint in `state`, created at `now`, without requests in flight.
    pub fn new(
        id: EndpointId,
        name: &str,
        address: SocketAddr,
        state: State,
        now: Instant,
    ) -> Self {
        Self::with_queue(id, name, address, state, now, None)
    }

    /// An endpoint in `state`, born at `now`, whose room is handed to the waiters in `queue`.
    pub(crate) fn with_queue(
        id: EndpointId,
        name: &str,
        address: SocketAddr,
        state: State,
        now: Instant,
        queue: Option<Arc<dyn Waiters>>,
    ) -> Self {
        let label = HeaderValue::from_str(name).unwrap_or(HeaderValue::from_static("endpoint"));
        let field = wire::header::ENDPOINT.as_bytes();
        let line = [field, b": ", label.as_bytes(), b"\r\n"].concat().into();
        Self {
            id,
            name: name.into(),
            address,
            label,
            line,
            quoted: serde_json::Value::from(name).to_string().into(),
            born: now,
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(u32::MAX),
            weight: AtomicU32::new(1),
            reported_queue: AtomicU32::new(0),
            reported_at: AtomicU64::new(0),
            time: ServiceTime::new(),
            connect_time: AtomicU64::new(0),
            vain: Mutex::default(),
            warming_since: AtomicU64::new(0),
            warming_for: AtomicU64::new(0),
            state: Mutex::new(state),
            is_troubled: AtomicBool::new(false),
            is_absent: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
            is_mute: AtomicBool::new(false),
            standing: Mutex::new(Standing { reason: "".into(), since: now, probe: None }),
            models: ArcSwapOption::empty(),
            doubts: Notify::new(),
            counters: Counters::default(),
            queue,
        }
    }

    /// Identifies it among all endpoints of this process.
    #[inline]
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// The name in logs, metrics and answers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name as a header value.
    pub fn label(&self) -> &HeaderValue {
        &self.label
    }

    /// The name as a header line.
    #[inline]
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// The name as a JSON string.
    pub fn quoted(&self) -> &str {
        &self.quoted
    }

    /// Where it listens.
    #[inline]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its share under the weighted policy.
    #[inline]
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Sets its share under the weighted policy; see [`crate::Pool::set_weight`].
    pub(crate) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    /// What has happened on it so far.
    #[inline]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The models it serves, once a probe has learned them.
    pub fn models(&self) -> Option<Arc<Vec<ModelIndexEntry>>> {
        self.models.load_full()
    }

    /// Notes the models it serves; returns whether they changed. See [`crate::Pool::learn_models`].
    pub(crate) fn learn_models(&self, models: Arc<Vec<ModelIndexEntry>>) -> bool {
        let news = self.models.load().as_ref() != Some(&models);
        if news {
            self.models.store(Some(models));
        }
        news
    }

    #[inline]
    fn since_birth(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.born))
    }
}

#[inline]
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
