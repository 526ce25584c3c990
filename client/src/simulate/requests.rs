//! The requests that are under way, in slots that are used again.

use std::ops::{Index, IndexMut};

use balancer::upstream::InFlight;

use super::clock::Nanos;

/// One request on its way.
#[derive(Debug)]
pub(crate) struct Request {
    /// Its number in the order of arrival.
    pub(crate) number: u64,
    /// When it arrived at the balancer.
    pub(crate) arrived: Nanos,
    /// When the current attempt began.
    pub(crate) began: Nanos,
    /// When it joined the worker's queue.
    pub(crate) queued: Nanos,
    /// Seconds that a worker computes on it.
    pub(crate) demand: f64,
    /// Attempts so far.
    pub(crate) attempts: u8,
    /// Counts it on the endpoint of the current attempt.
    pub(crate) guard: Option<InFlight>,
}

/// Slots for requests.
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
        self.slots[slot as usize].guard = None;
        self.free.push(slot);
    }

    /// Requests that have not ended.
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
