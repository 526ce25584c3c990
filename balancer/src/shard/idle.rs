//! Idle connections to endpoints, the most recently used first.
//!
//! Taking the warmest connection keeps the number of open ones near the number that is needed; the
//! rest age and are closed. They must be closed before the worker closes them, so the limit is
//! shorter than any worker's keep-alive.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use fleet::EndpointId;
use tokio::time::Instant;

use crate::upstream::Connection;

/// An idle connection is closed after this long.
const MAX_IDLE: Duration = Duration::from_secs(15);
/// Maximum number kept per endpoint and thread.
const MAX_KEPT: usize = 256;

type Stacks = HashMap<EndpointId, Vec<Box<Connection>>, BuildHasherDefault<ById>>;

/// Endpoint ids are small numbers that no client can choose, so they serve as their own hashes.
#[derive(Debug, Default)]
struct ById(u64);

impl Hasher for ById {
    fn finish(&self) -> u64 {
        // The table uses the highest bits too.
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = id.into();
    }
}

/// The idle connections of one thread.
#[derive(Debug, Default)]
pub struct Idle {
    connections: RefCell<Stacks>,
}

impl Idle {
    /// A set without connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// A connection that is still usable, if there is one.
    pub fn take(&self, id: EndpointId) -> Option<Box<Connection>> {
        let mut connections = self.connections.borrow_mut();
        let stack = connections.get_mut(&id)?;
        while let Some(connection) = stack.pop() {
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for later, if it is still usable.
    pub fn put(&self, id: EndpointId, mut connection: Box<Connection>, now: Instant) {
        if !connection.rest(now) {
            return;
        }
        let mut connections = self.connections.borrow_mut();
        let stack = connections.entry(id).or_default();
        if stack.len() < MAX_KEPT {
            stack.push(connection);
        }
    }

    /// Closes connections that were idle for too long or closed by the other side.
    pub fn sweep(&self, now: Instant) {
        let mut connections = self.connections.borrow_mut();
        for stack in connections.values_mut() {
            stack.retain(|connection| {
                let age = connection.idle_since().map(|since| now.duration_since(since));
                age.is_some_and(|age| age < MAX_IDLE) && connection.is_usable()
            });
        }
        connections.retain(|_, stack| !stack.is_empty());
    }

    /// Closes every idle connection.
    pub fn clear(&self) {
        self.connections.borrow_mut().clear();
    }
}
