//! How fast an endpoint is, according to its answers, its silence and its own reports.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::{Endpoint, Estimate, Vain, nanoseconds};
use crate::load::LoadReport;
use crate::state::Limits;

/// A failed request counts as an answer that took at least this long, so that an endpoint which
/// fails fast does not look like the fastest one.
const FAILURE_COST: Duration = Duration::from_secs(1);
/// How long a reported queue counts as current.
const NEWS: Duration = Duration::from_secs(5);
/// Connecting counts as slow after this multiple of its usual time, but not before
/// [`LEAST_CONNECT`].
const SLOW_CONNECT: u32 = 8;
const LEAST_CONNECT: Duration = Duration::from_millis(50);
/// The smallest part of its share that an endpoint takes during its slow start.
const LEAST_SHARE: f64 = 0.1;

impl Endpoint {
    /// The queue that the worker last reported.
    pub fn reported_queue(&self) -> u32 {
        self.reported_queue.load(Relaxed)
    }

    /// The queue that the worker last reported, if the report is recent, otherwise 0: an endpoint
    /// without requests reports nothing, and must not be avoided because of an old report.
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

    /// Records how long a useful answer took.
    #[inline]
    pub fn observe(&self, elapsed: Duration, now: Instant) {
        self.counters.observe(elapsed);
        self.time.observe(elapsed, self.since_birth(now));
    }

    /// Records how long an answer took that is useless to a client, through no fault of the
    /// endpoint: it is no evidence that useful ones are as fast.
    pub fn observe_useless(&self, elapsed: Duration, now: Instant) {
        self.counters.observe_useless(elapsed);
        self.time.observe_useless(elapsed, self.since_birth(now));
    }

    /// Records how long the refusal of an overloaded endpoint took. It counts as a slow answer,
    /// however fast it came.
    pub fn observe_refusal(&self, elapsed: Duration, now: Instant) {
        self.counters.observe_useless(elapsed);
        self.observe_failure(elapsed, now);
    }

    /// Records a failed request, which counts as a slow answer.
    pub fn observe_failure(&self, elapsed: Duration, now: Instant) {
        self.time.observe_useless(elapsed.max(FAILURE_COST), self.since_birth(now));
    }

    /// Records that a request which had been waiting since `began` was abandoned; it counts with
    /// the time that it has waited.
    pub fn observe_abandoned(&self, began: Instant, now: Instant) {
        let (from, to) = (self.since_birth(began), self.since_birth(now));
        let usual = self.time.estimate(to, false).nanoseconds();
        self.time.raise(now.saturating_duration_since(began), to);
        let mut vain = self.vain.lock().unwrap_or_else(PoisonError::into_inner);
        vain.add(from, to, self.time.answered_at(), usual);
    }

    /// Whether the abandoned requests show that it hangs. If so, they are forgotten: they count
    /// once.
    pub(crate) fn hangs(&self, limits: &Limits) -> bool {
        let mut vain = self.vain.lock().unwrap_or_else(PoisonError::into_inner);
        let hangs = vain.is_enough(self.time.answered_at(), limits);
        if hangs {
            *vain = Vain::default();
        }
        hangs
    }

    /// Records how long connecting took. Two threads may race here and lose one sample.
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

    /// The service time as of `now`, in nanoseconds; 0 if it is unknown. It decays while there are
    /// no answers, so that an endpoint which was slow once is tried again.
    pub fn service_time(&self, now: Instant) -> f64 {
        self.estimate(now).nanoseconds()
    }

    /// Records that it has come back: earlier measurements are forgotten, and for `slow_start` it
    /// grows into its share again.
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
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::{EndpointId, State};

    fn endpoint(now: Instant) -> Arc<Endpoint> {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        Arc::new(Endpoint::new(EndpointId(1), "a", address, State::up(), now))
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
