//! The activity of endpoints in the last minutes: figures and curves for operators.
//!
//! Every few seconds one task takes the difference of each endpoint's counters since the last time.
//! So the request path counts nothing twice, and memory is bounded by the number of endpoints.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet::{Counters, Endpoint, EndpointId, Pool, latency};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Time between two points.
pub const PERIOD: Duration = Duration::from_secs(3);
/// Number of points kept: five minutes.
const MAX_POINTS: usize = 100;

/// The activity in one period.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Point {
    /// Attempts per second.
    pub rate: f64,
    /// Attempts that failed, per second.
    pub failures: f64,
    /// Median time of the answered attempts in milliseconds, if there were any.
    pub p50_ms: Option<f64>,
    /// Their 99th percentile.
    pub p99_ms: Option<f64>,
}

/// The counters at one moment.
#[derive(Debug)]
struct Reading {
    at: Instant,
    succeeded: u64,
    failed: u64,
    counts: latency::Counts,
}

impl Reading {
    fn of(counters: &Counters, at: Instant) -> Self {
        Self {
            at,
            succeeded: counters.succeeded.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            counts: counters.latency.counts(),
        }
    }

    /// The activity since an earlier reading.
    fn since(&self, earlier: &Self) -> Point {
        let seconds = self.at.saturating_duration_since(earlier.at).as_secs_f64().max(1e-3);
        let failed = self.failed.saturating_sub(earlier.failed) as f64;
        let succeeded = self.succeeded.saturating_sub(earlier.succeeded) as f64;
        let counts = std::array::from_fn(|bucket| {
            self.counts[bucket].saturating_sub(earlier.counts[bucket])
        });
        let quantile = |share| latency::quantile(&counts, share).map(|it| it.as_secs_f64() * 1e3);
        Point {
            rate: (succeeded + failed) / seconds,
            failures: failed / seconds,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }
}

/// The points of one endpoint, latest last.
#[derive(Debug)]
struct Series {
    last: Reading,
    points: VecDeque<Point>,
}

/// The points of all endpoints.
#[derive(Debug, Default)]
pub struct History(Mutex<HashMap<EndpointId, Series>>);

/// Adds a point every period, forever.
pub async fn run(history: Arc<History>, pool: Arc<Pool>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        history.add(pool.snapshot().all(), now);
    }
}

impl History {
    /// Adds a point for each of these endpoints, and drops all others.
    fn add(&self, endpoints: &[Arc<Endpoint>], now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = HashMap::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let last = Reading::of(endpoint.counters(), now);
            let points = match known.remove(&endpoint.id()) {
                None => VecDeque::new(),
                Some(mut series) => {
                    if series.points.len() == MAX_POINTS {
                        series.points.pop_front();
                    }
                    series.points.push_back(last.since(&series.last));
                    series.points
                }
            };
            all.insert(endpoint.id(), Series { last, points });
        }
        *known = all;
    }

    /// The latest point of an endpoint.
    pub fn latest(&self, endpoint: &Endpoint) -> Option<Point> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&endpoint.id())?.points.back().copied()
    }

    /// Attempts on an endpoint in the whole recorded period.
    pub fn attempts(&self, endpoint: &Endpoint) -> f64 {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let points = known.get(&endpoint.id()).map(|series| &series.points);
        points.into_iter().flatten().map(|point| point.rate * PERIOD.as_secs_f64()).sum()
    }

    /// The curves of an endpoint, latest point last.
    pub fn curves(&self, endpoint: &Endpoint) -> Value {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let points = known.get(&endpoint.id()).map(|series| &series.points);
        let curve = |value: fn(&Point) -> f64| -> Vec<f64> {
            points.into_iter().flatten().map(|point| rounded(value(point))).collect()
        };
        json!({
            "rate": curve(|point| point.rate),
            "p99_ms": curve(|point| point.p99_ms.unwrap_or_default()),
        })
    }
}

/// Rounds to three decimals, so that figures stay short.
pub fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use fleet::State;

    use super::*;

    fn endpoint(id: u32, now: Instant) -> Arc<Endpoint> {
        let address = ([127, 0, 0, 1], 80).into();
        Arc::new(Endpoint::new(EndpointId(id), "a", address, State::up(), now))
    }

    #[test]
    fn a_point_tells_what_happened_since_the_one_before() {
        let start = Instant::now();
        let (history, endpoint) = (History::default(), endpoint(1, start));
        history.add(&[Arc::clone(&endpoint)], start);
        assert_eq!(history.latest(&endpoint), None);
        for _ in 0..30 {
            endpoint.observe(Duration::from_millis(20), start);
            endpoint.counters().succeeded.fetch_add(1, Relaxed);
        }
        endpoint.counters().failed.fetch_add(6, Relaxed);
        history.add(&[Arc::clone(&endpoint)], start + PERIOD);
        let point = history.latest(&endpoint).expect("a point");
        assert!(
            (point.rate - 12.0).abs() < 1e-9 && (point.failures - 2.0).abs() < 1e-9,
            "{point:?}"
        );
        assert!((15.0..=20.0).contains(&point.p50_ms.expect("answered")), "{point:?}");
        history.add(&[Arc::clone(&endpoint)], start + 2 * PERIOD);
        assert_eq!(history.latest(&endpoint), Some(Point::default()), "nothing since");
        assert!((history.attempts(&endpoint) - 36.0).abs() < 1e-9);
        assert_eq!(history.curves(&endpoint)["rate"], json!([12.0, 0.0]));
    }

    #[test]
    fn five_minutes_are_kept_and_endpoints_that_are_gone_are_not() {
        let start = Instant::now();
        let (history, one, other) = (History::default(), endpoint(1, start), endpoint(2, start));
        for period in 0..150 {
            history.add(&[Arc::clone(&one), Arc::clone(&other)], start + PERIOD * period);
        }
        let length = history.curves(&one)["rate"].as_array().expect("a curve").len();
        assert_eq!(PERIOD * u32::try_from(length).expect("few"), Duration::from_mins(5));
        history.add(&[Arc::clone(&one)], start + PERIOD * 150);
        assert_eq!(history.latest(&other), None);
    }
}
