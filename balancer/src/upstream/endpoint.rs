//! One worker address and everything the balancer knows about it.
//!
//! Every thread reads and writes an [`Endpoint`] on the request path, so what changes there is
//! atomic and nothing waits: the count of unanswered requests, the moving average of the service
//! time, the queue that the worker reported. Only changes of its [`State`] take a lock, and those
//! are rare. An endpoint owns no socket.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use tokio::time::Instant;
use wire::ModelIndexEntry;

use super::counters::Counters;
use super::load::Load;
use super::state::{Event, Limits, Outlier, Probe, State};

/// Identifies an endpoint for as long as the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u32);

/// The moving average forgets with this time constant.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint is taken to cost before its first answer.
const FIRST_GUESS: Duration = Duration::from_millis(1);
/// A failed request counts as an answer that took at least this long, so that an endpoint which
/// fails fast does not look like the fastest one.
const FAILURE_COST: Duration = Duration::from_secs(1);

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
    /// Moving average of the service time, nanoseconds as the bits of an `f64`.
    average: AtomicU64,
    /// When the average was last updated, nanoseconds after `born`.
    averaged_at: AtomicU64,
    /// When its slow start began, nanoseconds after `born`; 0 when it is over.
    warming_since: AtomicU64,
    state: Mutex<State>,
    /// Whether a success would change `state`; spares the request path its lock.
    is_troubled: AtomicBool,
    /// Whether its process is known not to run, so that what answers at its address is another.
    is_absent: AtomicBool,
    /// Whether it is down by its probes.
    is_down: AtomicBool,
    /// Whether its last probe brought no sign of life in time.
    is_mute: AtomicBool,
    models: ArcSwapOption<Vec<ModelIndexEntry>>,
    counters: Counters,
}

impl Endpoint {
    /// An endpoint in `state`, born at `now`.
    pub fn new(
        id: EndpointId,
        name: &str,
        address: SocketAddr,
        state: State,
        now: Instant,
    ) -> Self {
        let label = HeaderValue::from_str(name).unwrap_or(HeaderValue::from_static("endpoint"));
        let line = [b"x-imagefleet-endpoint: ", label.as_bytes(), b"\r\n"].concat().into();
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
            average: AtomicU64::new((nanoseconds(FIRST_GUESS) as f64).to_bits()),
            averaged_at: AtomicU64::new(0),
            warming_since: AtomicU64::new(0),
            state: Mutex::new(state),
            is_troubled: AtomicBool::new(false),
            is_absent: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
            is_mute: AtomicBool::new(false),
            models: ArcSwapOption::empty(),
            counters: Counters::default(),
        }
    }

    /// Identifies it among all endpoints of this process.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// The name in logs, metrics and answers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Notes that its process does not run (then no probe passes), or runs again.
    pub fn set_absent(&self, is_absent: bool) {
        self.is_absent.store(is_absent, Relaxed);
    }

    /// Whether its process is known not to run.
    pub fn is_absent(&self) -> bool {
        self.is_absent.load(Relaxed)
    }

    /// The name, ready to be sent.
    pub fn label(&self) -> &HeaderValue {
        &self.label
    }

    /// The name as a line of a request's head.
    pub(crate) fn line(&self) -> &[u8] {
        &self.line
    }

    /// The name as a JSON string.
    pub(crate) fn quoted(&self) -> &str {
        &self.quoted
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that it has not answered completely.
    pub fn in_flight(&self) -> u32 {
        // In one order with the gate's count of those who wait, like all that moves room: who joins
        // the queue and then finds no room here is seen by whoever makes some after that.
        self.in_flight.load(SeqCst)
    }

    /// The most requests it takes at a time.
    pub fn limit(&self) -> u32 {
        self.limit.load(SeqCst)
    }

    /// Sets the most requests it takes at a time.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit.max(1), SeqCst);
    }

    /// Whether it may take one more request.
    pub fn has_room(&self) -> bool {
        self.in_flight() < self.limit()
    }

    /// Counts one request as in flight, if it may take one more, until the guard is dropped.
    pub fn try_begin(self: &Arc<Self>) -> Option<InFlight> {
        let limit = self.limit();
        self.in_flight
            .fetch_update(SeqCst, SeqCst, |count| (count < limit).then(|| count + 1))
            .ok()
            .map(|_| InFlight { endpoint: Arc::clone(self) })
    }

    /// Its share under the weighted policy.
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Sets its share under the weighted policy; 0 keeps requests away.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    /// The queue that the worker last reported.
    pub fn reported_queue(&self) -> u32 {
        self.reported_queue.load(Relaxed)
    }

    /// Notes the queue that the worker reported.
    pub fn report_queue(&self, queue: u32) {
        self.reported_queue.store(queue, Relaxed);
    }

    /// Notes the queue in a worker's load report.
    pub fn hear(&self, report: &HeaderValue) {
        if let Some(queue) = report.to_str().ok().and_then(|report| Load::parse(report).queue) {
            self.report_queue(queue);
        }
    }

    /// What happened on it so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The models it serves, once a probe has learned them.
    pub fn models(&self) -> Option<Arc<Vec<ModelIndexEntry>>> {
        self.models.load_full()
    }

    /// Notes the models it serves; true if that is news.
    pub fn learn_models(&self, models: Vec<ModelIndexEntry>) -> bool {
        let news = self.models.load().as_deref() != Some(&models);
        if news {
            self.models.store(Some(Arc::new(models)));
        }
        news
    }

    /// Counts one request as in flight, whatever the limit, until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, SeqCst);
        InFlight { endpoint: Arc::clone(self) }
    }

    /// Feeds the duration of an answered request to the moving average: a slow answer counts at
    /// once, a fast one bit by bit (peak EWMA, as Finagle has it).
    pub fn observe(&self, elapsed: Duration, now: Instant) {
        self.counters.observe(elapsed);
        self.average_in(elapsed, now);
    }

    /// Counts a failed request as a slow answer.
    pub fn observe_failure(&self, elapsed: Duration, now: Instant) {
        self.average_in(elapsed.max(FAILURE_COST), now);
    }

    // Two threads may race here and lose one sample; the next one repairs it.
    fn average_in(&self, elapsed: Duration, now: Instant) {
        let stamp = self.since_birth(now);
        let sample = nanoseconds(elapsed) as f64;
        let before = self.average.load(Relaxed);
        let gap = stamp.saturating_sub(self.averaged_at.load(Relaxed));
        let average = f64::from_bits(before);
        let keep = kept(gap);
        let next = if sample > average { sample } else { average * keep + sample * (1.0 - keep) };
        if next.to_bits() != before {
            self.average.store(next.to_bits(), Relaxed);
        }
        self.averaged_at.store(stamp, Relaxed);
    }

    /// The moving average of the service time as of `now`, in nanoseconds. It sinks while nothing
    /// is heard, so that an endpoint which was slow once is tried again.
    pub fn service_time(&self, now: Instant) -> f64 {
        let gap = self.since_birth(now).saturating_sub(self.averaged_at.load(Relaxed));
        let average = f64::from_bits(self.average.load(Relaxed));
        if gap < nanoseconds(DECAY) / 64 {
            return average;
        }
        average * kept(gap)
    }

    /// The state as of now.
    pub fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies an event; returns the states before and after it.
    pub fn apply(&self, event: Event, now: Instant, limits: &Limits) -> (State, State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *state;
        *state = before.next(event, now, limits);
        self.is_troubled.store(state.outlier != Outlier::Admitted { failures: 0 }, Relaxed);
        self.is_down.store(matches!(state.probe, Probe::Down { .. }), Relaxed);
        (before, *state)
    }

    /// Notes whether its last probe brought no sign of life in time.
    pub fn set_mute(&self, is_mute: bool) {
        self.is_mute.store(is_mute, Relaxed);
    }

    /// Whether it is down because it gives no sign of life, so that its answers may never come. One
    /// that says that it is not ready, or takes no new connections, may well finish what it has.
    pub fn is_silent(&self) -> bool {
        self.is_down.load(Relaxed) && self.is_mute.load(Relaxed)
    }

    /// Whether the next success has to be applied as an event.
    pub fn is_troubled(&self) -> bool {
        self.is_troubled.load(Relaxed)
    }

    /// Starts its slow start: it has just come back after others carried its share.
    pub fn warm_up_from(&self, now: Instant) {
        self.warming_since.store(self.since_birth(now).max(1), Relaxed);
    }

    /// The share of its normal traffic that it should take at `now`, from 0.1 to 1.
    pub fn warmth(&self, now: Instant, slow_start: Duration) -> f64 {
        let since = self.warming_since.load(Relaxed);
        if since == 0 {
            return 1.0;
        }
        let age = self.since_birth(now).saturating_sub(since) as f64;
        let warmth = age / slow_start.as_nanos().max(1) as f64;
        if warmth >= 1.0 {
            self.warming_since.store(0, Relaxed);
        }
        warmth.clamp(0.1, 1.0)
    }

    fn since_birth(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.born))
    }
}

/// Counts one request on an endpoint while it lives.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
}

impl InFlight {
    /// The endpoint that the request is on.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, SeqCst);
    }
}

/// The share of the average that is left after `gap` nanoseconds.
fn kept(gap: u64) -> f64 {
    let age = gap as f64 / nanoseconds(DECAY) as f64;
    // Under load the gaps are short; then the first terms of the series are exact to 1e-9.
    if age < 1e-3 { 1.0 - age + age * age / 2.0 } else { (-age).exp() }
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(now: Instant) -> Arc<Endpoint> {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        Arc::new(Endpoint::new(EndpointId(1), "a", address, State::up(), now))
    }

    #[test]
    fn in_flight_ends_with_its_guard() {
        let endpoint = endpoint(Instant::now());
        let guards: Vec<_> = (0..3).map(|_| endpoint.begin()).collect();
        assert_eq!(endpoint.in_flight(), 3);
        drop(guards);
        assert_eq!(endpoint.in_flight(), 0);
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let start = Instant::now();
        let endpoint = endpoint(start);
        endpoint.observe(Duration::from_millis(500), start);
        assert!((endpoint.service_time(start) - 5e8).abs() < 1.0);
        let later = start + Duration::from_secs(10);
        endpoint.observe(Duration::from_millis(5), later);
        let average = endpoint.service_time(later);
        assert!(average > 1.8e8 && average < 2e8, "{average}");
    }

    #[test]
    fn failing_fast_looks_slow() {
        let start = Instant::now();
        let endpoint = endpoint(start);
        endpoint.observe_failure(Duration::from_micros(50), start);
        assert!(endpoint.service_time(start) >= 1e9);
    }

    #[test]
    fn the_short_cut_for_short_gaps_is_the_exponential() {
        for gap in [0, 1, 999, 1_000_000, 9_999_999, 10_000_001] {
            let exact = (-(gap as f64) / 1e10).exp();
            assert!((kept(gap) - exact).abs() < 1e-9, "{gap}");
        }
    }

    #[test]
    fn silence_lowers_the_average() {
        let start = Instant::now();
        let endpoint = endpoint(start);
        endpoint.observe(Duration::from_secs(1), start);
        let silent = endpoint.service_time(start + Duration::from_mins(1));
        assert!(silent < 1e7, "{silent}");
    }
}
