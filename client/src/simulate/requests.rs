//! The requests in flight, in slots that are reused.

use std::ops::{Index, IndexMut};

use fleet::{Attempt, Dispatch, Waiter};
use http::StatusCode;

use super::clock::{Nanos, VirtualTime};

/// One request in flight.
#[derive(Debug)]
pub(crate) struct Request {
    /// Its number in the order of arrival.
    pub(crate) number: u64,
    /// Its key for the hash policy.
    pub(crate) key: u64,
    /// When it arrived at the balancer.
    pub(crate) arrived: Nanos,
    /// When it joined the worker's queue.
    pub(crate) queued: Nanos,
    /// Seconds that a worker computes on it.
    pub(crate) demand: f64,
    /// Decides what happens to it.
    pub(crate) dispatch: Dispatch<StatusReply>,
    /// The running attempt.
    pub(crate) attempt: Option<Attempt<VirtualTime>>,
    /// Its place in the balancer's queue.
    pub(crate) waiter: Option<Waiter>,
    /// Number of its latest wait.
    pub(crate) wait: u32,
    /// Length of the queue that the worker reports with its answer.
    pub(crate) reported: u32,
}

/// A worker's answer.
#[derive(Debug)]
pub(crate) struct StatusReply(pub(crate) StatusCode);

impl fleet::Reply for StatusReply {
    fn status(&self) -> StatusCode {
        self.0
    }

    fn has_retry_after(&self) -> bool {
        self.0 == StatusCode::SERVICE_UNAVAILABLE
    }

    fn is_complete(&self) -> bool {
        true
    }
}

/// A pool of requests that reuses the memory of those that have ended.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    slots: Vec<Request>,
    free: Vec<u32>,
}

impl Requests {
    pub(crate) fn insert(&mut self, request: Request) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = request;
            slot
        } else {
            self.slots.push(request);
            u32::try_from(self.slots.len() - 1).expect("queues are bounded")
        }
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        let it = &mut self.slots[slot as usize];
        (it.attempt, it.waiter) = (None, None);
        self.free.push(slot);
    }

    /// Number of requests that have not ended.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl Index<u32> for Requests {
    type Output = Request;

    fn index(&self, slot: u32) -> &Request {
        &self.slots[slot as usize]
    }
}

impl IndexMut<u32> for Requests {
    fn index_mut(&mut self, slot: u32) -> &mut Request {
        &mut self.slots[slot as usize]
    }
}
