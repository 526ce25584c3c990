//! The requests in flight on an endpoint, their limit, and the [`Permit`] of each.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use tokio::time::Instant;

use super::Endpoint;

/// Requests that wait for room on endpoints, as in the admission queue, which depends on endpoints.
pub(crate) trait Waiters: Debug + Send + Sync {
    /// Number of waiting requests.
    fn waiting(&self) -> usize;
    /// Hands the room that a request has freed on `endpoint` to the first waiter for it.
    fn pass_on(&self, endpoint: &Arc<Endpoint>);
}

impl Endpoint {
    /// Requests that it has not answered completely.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        // In one total order with the queue's count of waiters, like everything that moves room: a
        // request that joins the queue and then finds no room here is seen by the thread that frees
        // some later.
        self.in_flight.load(SeqCst)
    }

    /// The most requests it takes concurrently.
    #[inline]
    pub fn limit(&self) -> u32 {
        self.limit.load(SeqCst)
    }

    /// Sets the most requests it takes concurrently.
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

    /// Like [`Endpoint::try_begin`], for a request that directly follows another.
    pub(crate) fn try_go_on(self: &Arc<Self>) -> Option<Permit> {
        self.take_room().map(|_| Permit { endpoint: Arc::clone(self) })
    }

    /// Takes room for one request; returns how many were in flight before.
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
        if let Some(queue) = &self.endpoint.queue
            && queue.waiting() > 0
        {
            queue.pass_on(&self.endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{EndpointId, State};

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
}
