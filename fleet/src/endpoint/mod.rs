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
use tokio::sync::Notify;
use tokio::time::Instant;
use wire::ModelIndexEntry;

use crate::admission::AdmissionQueue;
use crate::counters::Counters;
use crate::load::LoadReport;
use crate::service_time::{Estimate, ServiceTime};
use crate::state::{Event, Limits, Outlier, Probe, State};
use crate::vain::Vain;

/// Identifies an endpoint for as long as the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u32);

/// A failed request counts as an answer that took at least this long, so that an endpoint which
/// fails fast does not look like the fastest one.
const FAILURE_COST: Duration = Duration::from_secs(1);
/// How long a reported queue counts as current.
const NEWS: Duration = Duration::from_secs(5);
/// Connecting counts as slow after this multiple of its usual time, and not before.
const SLOW_CONNECT: u32 = 8;
const LEAST_CONNECT: Duration = Duration::from_millis(50);
/// The smallest part of its share that an endpoint takes during its slow start.
const LEAST_SHARE: f64 = 0.1;

/// The outcome of the last probe.
#[derive(Debug, Clone)]
pub struct LastProbe {
    /// When the probe ended.
    pub at: Instant,
    /// What was wrong with the answer, if anything was.
    pub fault: Option<Arc<str>>,
}

/// What operators are told about the state of an endpoint.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Why it takes no requests; empty while it does, or while that is not known.
    pub reason: Arc<str>,
    /// Since when its availability is what it is.
    pub since: Instant,
    /// The last probe, if there was one.
    pub probe: Option<LastProbe>,
}

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
    /// When it was reported, nanoseconds after `born`.
    reported_at: AtomicU64,
    time: ServiceTime,
    /// How long connecting takes, in nanoseconds: an eighth of the latest, and the rest of before.
    connect_time: AtomicU64,
    vain: Mutex<Vain>,
    /// When its slow start began, nanoseconds after `born`; 0 when it is over.
    warming_since: AtomicU64,
    /// How long its slow start lasts, in nanoseconds.
    warming_for: AtomicU64,
    state: Mutex<State>,
    /// Whether a success would change `state`; spares the request path its lock.
    is_troubled: AtomicBool,
    /// Whether its process is known not to run, so that what answers at its address is another.
    is_absent: AtomicBool,
    /// Whether it is down by its probes.
    is_down: AtomicBool,
    /// Whether its last probe got no sign of life in time.
    is_mute: AtomicBool,
    /// What operators are told about its state.
    standing: Mutex<Standing>,
    models: ArcSwapOption<Vec<ModelIndexEntry>>,
    /// Requests an early probe.
    doubts: Notify,
    counters: Counters,
    /// Where requests wait for room on it.
    queue: Arc<AdmissionQueue>,
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
        Self::in_pool(id, name, address, state, now, Arc::default())
    }

    /// An endpoint in `state`, born at `now`, whose room is handed to those in `queue`.
    pub(crate) fn in_pool(
        id: EndpointId,
        name: &str,
        address: SocketAddr,
        state: State,
        now: Instant,
        queue: Arc<AdmissionQueue>,
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

    /// Notes that its process does not run (then no probe passes), or runs again.
    pub fn set_absent(&self, is_absent: bool) {
        self.is_absent.store(is_absent, Relaxed);
    }

    /// Whether its process is known not to run.
    pub fn is_absent(&self) -> bool {
        self.is_absent.load(Relaxed)
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

    /// Requests that it has not answered completely.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        // In one order with the queue's count of waiters, like everything that moves room: a
        // request that joins the queue and then finds no room here is seen by the one that makes
        // some later.
        self.in_flight.load(SeqCst)
    }

    /// The most requests it takes at a time.
    #[inline]
    pub fn limit(&self) -> u32 {
        self.limit.load(SeqCst)
    }

    /// Sets the most requests it takes at a time.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit.max(1), SeqCst);
    }

    /// Whether it may take one more request.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.in_flight() < self.limit()
    }

    /// Counts one request as in flight, if it may take one more, until the permit is dropped.
    #[inline]
    pub fn try_begin(self: &Arc<Self>, now: Instant) -> Option<Permit> {
        let before = self.take_room()?;
        Some(self.begun(before, now))
    }

    /// The same for a request that directly follows another.
    pub(crate) fn try_go_on(self: &Arc<Self>) -> Option<Permit> {
        self.take_room().map(|_| Permit { endpoint: Arc::clone(self) })
    }

    /// Takes room for one request; tells how many were in flight before.
    #[inline]
    fn take_room(&self) -> Option<u32> {
        let limit = self.limit();
        let more = |count| (count < limit).then(|| count + 1);
        self.in_flight.fetch_update(SeqCst, SeqCst, more).ok()
    }

    /// Counts one request as in flight, whatever the limit, until the permit is dropped.
    #[inline]
    pub fn begin(self: &Arc<Self>, now: Instant) -> Permit {
        let before = self.in_flight.fetch_add(1, SeqCst);
        self.begun(before, now)
    }

    #[inline]
    fn begun(self: &Arc<Self>, before: u32, now: Instant) -> Permit {
        let permit = Permit { endpoint: Arc::clone(self) };
        if before == 0 {
            self.time.ask(self.since_birth(now));
        }
        permit
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

    /// The queue that the worker last reported.
    pub fn reported_queue(&self) -> u32 {
        self.reported_queue.load(Relaxed)
    }

    /// The queue that the worker last reported, if that is recent: an endpoint without requests
    /// reports nothing, and must not be avoided because of an old report.
    pub fn queue_of_late(&self, now: Instant) -> u32 {
        let queue = self.reported_queue();
        let age = self.since_birth(now).saturating_sub(self.reported_at.load(Relaxed));
        if queue > 0 && age > nanoseconds(NEWS) { 0 } else { queue }
    }

    /// Notes the queue that the worker reported.
    pub fn report_queue(&self, queue: u32, now: Instant) {
        self.reported_queue.store(queue, Relaxed);
        self.reported_at.store(self.since_birth(now), Relaxed);
    }

    /// Notes the queue in a worker's load report.
    pub fn record_load_report(&self, report: &HeaderValue, now: Instant) {
        let report = report.to_str().ok().map(LoadReport::parse);
        if let Some(queue) = report.and_then(|report| report.queue) {
            self.report_queue(queue, now);
        }
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

    /// Notes the models it serves; returns whether they changed.
    pub fn learn_models(&self, models: Vec<ModelIndexEntry>) -> bool {
        let news = self.models.load().as_deref() != Some(&models);
        if news {
            self.models.store(Some(Arc::new(models)));
        }
        news
    }

    /// A useful answer took this long.
    #[inline]
    pub fn observe(&self, elapsed: Duration, now: Instant) {
        self.counters.observe(elapsed);
        self.time.observe(elapsed, self.since_birth(now));
    }

    /// An answer that is useless to a client, through no fault of the endpoint, took this long: it
    /// is no evidence that useful ones are as fast.
    pub fn observe_useless(&self, elapsed: Duration, now: Instant) {
        self.counters.observe(elapsed);
        self.time.observe_useless(elapsed, self.since_birth(now));
    }

    /// An answer that says the endpoint is overloaded took this long: it counts as a slow one,
    /// however fast it came.
    pub fn observe_refusal(&self, elapsed: Duration, now: Instant) {
        self.counters.observe(elapsed);
        self.observe_failure(elapsed, now);
    }

    /// A request failed: counts as a slow answer.
    pub fn observe_failure(&self, elapsed: Duration, now: Instant) {
        self.time.observe_useless(elapsed.max(FAILURE_COST), self.since_birth(now));
    }

    /// A request that had been waiting since `began` was abandoned; it counts with the time that it
    /// has waited.
    pub fn observe_abandoned(&self, began: Instant, now: Instant) {
        let (from, to) = (self.since_birth(began), self.since_birth(now));
        let usual = self.time.estimate(to, false).nanoseconds();
        self.time.raise(now.saturating_duration_since(began), to);
        let mut vain = self.vain.lock().unwrap_or_else(PoisonError::into_inner);
        vain.add(from, to, self.time.answered_at(), usual);
    }

    /// Whether the abandoned requests show that it hangs. They count once.
    pub(crate) fn hangs(&self, limits: &Limits) -> bool {
        let mut vain = self.vain.lock().unwrap_or_else(PoisonError::into_inner);
        let hangs = vain.is_enough(self.time.answered_at(), limits);
        if hangs {
            *vain = Vain::default();
        }
        hangs
    }

    /// Connecting took this long. Two threads may race here and lose one sample.
    pub fn observe_connect(&self, elapsed: Duration) {
        let (before, sample) = (self.connect_time.load(Relaxed), nanoseconds(elapsed));
        let next = if before == 0 { sample } else { before - before / 8 + sample / 8 };
        self.connect_time.store(next.max(1), Relaxed);
    }

    /// How long to wait for a connection before trying another endpoint as well.
    pub fn connect_patience(&self) -> Duration {
        let usual = Duration::from_nanos(self.connect_time.load(Relaxed));
        usual.saturating_mul(SLOW_CONNECT).max(LEAST_CONNECT)
    }

    /// What is known about its service time.
    #[inline]
    pub fn estimate(&self, now: Instant) -> Estimate {
        self.time.estimate(self.since_birth(now), self.in_flight.load(Relaxed) > 0)
    }

    /// The service time as of `now`, in nanoseconds; 0 if it is unknown. It decays while nothing is
    /// heard, so that an endpoint which was slow once is tried again.
    pub fn service_time(&self, now: Instant) -> f64 {
        self.estimate(now).nanoseconds()
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

    /// What operators are told about its state.
    pub fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why its availability has changed.
    pub(crate) fn set_reason(&self, reason: &str, now: Instant) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        (standing.reason, standing.since) = (reason.into(), now);
    }

    /// Notes what was wrong with the answer to a probe, if anything was.
    pub fn set_probed(&self, fault: Option<&str>, now: Instant) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.probe = Some(LastProbe { at: now, fault: fault.map(Arc::from) });
    }

    /// Notes whether its last probe got no sign of life in time.
    pub fn set_mute(&self, is_mute: bool) {
        self.is_mute.store(is_mute, Relaxed);
    }

    /// Whether it is down without any sign of life, so that its answers may never come. One that
    /// says that it is not ready, or refuses connections, may well finish its requests.
    #[inline]
    pub fn is_silent(&self) -> bool {
        self.is_down.load(Relaxed) && self.is_mute.load(Relaxed)
    }

    /// Whether the next success has to be applied as an event.
    #[inline]
    pub fn is_troubled(&self) -> bool {
        self.is_troubled.load(Relaxed)
    }

    /// Requests an early probe.
    pub(crate) fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// Waits until an early probe is requested.
    pub async fn doubted(&self) {
        self.doubts.notified().await;
    }

    /// It has come back: earlier measurements are forgotten, and for `slow_start` it grows into its
    /// share again.
    pub fn come_back(&self, now: Instant, slow_start: Duration) {
        let now = self.since_birth(now).max(1);
        self.time.forget(now);
        self.warming_for.store(nanoseconds(slow_start), Relaxed);
        self.warming_since.store(now, Relaxed);
    }

    /// The part of its share that it should take at `now`, from 0.1 to 1.
    #[inline]
    pub fn slow_start_weight(&self, now: Instant) -> f64 {
        let since = self.warming_since.load(Relaxed);
        if since == 0 {
            return 1.0;
        }
        let age = self.since_birth(now).saturating_sub(since);
        let ramp = self.warming_for.load(Relaxed);
        if age >= ramp {
            self.warming_since.store(0, Relaxed);
            return 1.0;
        }
        (age as f64 / ramp as f64).max(LEAST_SHARE)
    }

    #[inline]
    fn since_birth(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.born))
    }
}

/// One request's place on an endpoint; it counts as in flight there as long as this lives.
///
/// Dropping it frees the place and hands it to the first request in the queue that can use it.
#[derive(Debug)]
pub struct Permit {
    endpoint: Arc<Endpoint>,
}

impl Permit {
    /// The endpoint that the request is on.
    #[inline]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, SeqCst);
        if self.endpoint.queue.waiting() > 0 {
            self.endpoint.queue.pass_on(&self.endpoint);
        }
    }
}

#[inline]
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
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
    fn in_flight_ends_with_its_permit() {
        let endpoint = endpoint(Instant::now());
        let guards: Vec<_> = (0..3).map(|_| endpoint.begin(Instant::now())).collect();
        assert_eq!(endpoint.in_flight(), 3);
        drop(guards);
        assert_eq!(endpoint.in_flight(), 0);
    }

    #[test]
    fn failing_fast_looks_slow() {
        let start = Instant::now();
        let endpoint = endpoint(start);
        endpoint.observe_failure(Duration::from_micros(50), start);
        assert!(endpoint.service_time(start) >= 1e9);
    }

    #[test]
    fn a_request_that_is_given_up_counts_for_as_long_as_it_waited() {
        let start = Instant::now();
        let endpoint = endpoint(start);
        endpoint.observe(Duration::from_millis(2), start);
        let later = start + Duration::from_millis(250);
        endpoint.observe_abandoned(start, later);
        assert!(endpoint.service_time(later) >= 2.5e8);
        endpoint.observe_abandoned(later, later + Duration::from_millis(1));
        assert!(
            endpoint.service_time(later) >= 2.4e8,
            "a client without patience is no fast answer"
        );
    }

    #[test]
    fn connecting_is_slow_by_what_it_usually_takes() {
        let endpoint = endpoint(Instant::now());
        assert_eq!(endpoint.connect_patience(), LEAST_CONNECT, "nothing is known");
        (0..100).for_each(|_| endpoint.observe_connect(Duration::from_millis(100)));
        let patience = endpoint.connect_patience().as_secs_f64();
        assert!((0.75..=0.8).contains(&patience), "{patience}");
    }

    #[test]
    fn a_report_is_news_for_a_few_seconds() {
        let start = Instant::now();
        let endpoint = endpoint(start);
        endpoint.report_queue(50, start);
        assert_eq!(endpoint.queue_of_late(start + Duration::from_secs(2)), 50);
        assert_eq!(endpoint.queue_of_late(start + Duration::from_secs(6)), 0);
    }

    #[test]
    fn who_comes_back_grows_into_its_share_and_is_not_what_it_was() {
        let start = Instant::now();
        let endpoint = endpoint(start);
        endpoint.observe_failure(Duration::ZERO, start);
        endpoint.come_back(start, Duration::from_secs(10));
        let after = |seconds| endpoint.slow_start_weight(start + Duration::from_secs(seconds));
        assert!(endpoint.service_time(start) < 1.0);
        assert!((after(0) - 0.1).abs() < 1e-9 && (after(5) - 0.5).abs() < 1e-6);
        assert!((after(11) - 1.0).abs() < 1e-9);
    }
}
