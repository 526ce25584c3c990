//! The client connections of one thread, and the sweep that looks at all of them once a second.
//!
//! An idle connection is parked: hyper's buffers are given back until the next byte arrives, so
//! that ten thousand idle clients cost little.

use std::cell::RefCell;
use std::rc::Rc;

use slab::Slab;
use tokio::time::Instant;

use super::client::{Client, Order};
use crate::config::Timeouts;

/// A client that cancels more requests than this between two sweeps is up to no good.
const MAX_CANCELLED: u32 = 200;

/// The client connections of one thread.
#[derive(Debug, Default)]
pub struct Clients {
    open: RefCell<Slab<Rc<Client>>>,
}

impl Clients {
    /// Adds a connection; the key removes it.
    pub fn add(&self, client: &Rc<Client>) -> usize {
        self.open.borrow_mut().insert(Rc::clone(client))
    }

    /// Puts another client in the place of one: now it is known who it is.
    pub fn replace(&self, key: usize, client: &Rc<Client>) {
        self.open.borrow_mut()[key] = Rc::clone(client);
    }

    /// Forgets a connection that was closed.
    pub fn remove(&self, key: usize) {
        self.open.borrow_mut().remove(key);
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Tells every connection that is over a limit.
    pub fn sweep(&self, now: Instant, timeouts: &Timeouts, is_draining: bool) {
        for (_, client) in self.open.borrow().iter() {
            let order = if client.cancelled.take() > MAX_CANCELLED {
                Order::Abort
            } else {
                client.due(now, timeouts, is_draining)
            };
            if order != Order::None {
                client.order.set(order);
                client.wake();
            }
        }
    }

    /// Has every connection look around.
    pub fn wake_all(&self) {
        for (_, client) in self.open.borrow().iter() {
            client.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{TIMEOUTS, client};
    use super::*;

    #[test]
    fn a_client_that_cancels_as_fast_as_it_asks_is_closed() {
        let now = Instant::now();
        let (clients, client) = (Clients::default(), Rc::new(client(now)));
        clients.add(&client);
        (0..=MAX_CANCELLED).for_each(|_| client.cancel());
        clients.sweep(now, &TIMEOUTS, false);
        assert_eq!(client.take_order(), Order::Abort);
        clients.sweep(now, &TIMEOUTS, false);
        assert_eq!(client.take_order(), Order::None, "counted anew after each sweep");
    }
}
