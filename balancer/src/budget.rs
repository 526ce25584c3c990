//! Shared limits: on an amount of something, and on connections per address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// A limited amount that several parties share.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// A budget of `limit`, all of it unused.
    pub fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    /// Takes `amount` if that much is left.
    pub fn take(&self, amount: usize) -> bool {
        let before = self.used.fetch_add(amount, Relaxed);
        let fits = before + amount <= self.limit;
        if !fits {
            self.give_back(amount);
        }
        fits
    }

    /// Takes what another party is about to give back, even if that exceeds the limit.
    pub fn take_over(&self, amount: usize) {
        self.used.fetch_add(amount, Relaxed);
    }

    /// Returns what was taken.
    pub fn give_back(&self, amount: usize) {
        self.used.fetch_sub(amount, Relaxed);
    }

    /// The amount in use.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

/// Counts the connections of each client address; counts nothing if there is no limit.
#[derive(Debug)]
pub struct PerAddress {
    open: Mutex<HashMap<IpAddr, usize>>,
    limit: usize,
}

impl PerAddress {
    /// `limit` connections for each address; 0 for no limit.
    pub fn new(limit: usize) -> Self {
        Self { open: Mutex::default(), limit }
    }

    /// Counts a new connection, unless the address has reached its limit.
    pub fn enter(&self, address: IpAddr) -> bool {
        if self.limit == 0 {
            return true;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        let fits = *count < self.limit;
        *count += usize::from(fits);
        fits
    }

    /// Counts a closed connection.
    pub fn leave(&self, address: IpAddr) {
        if self.limit == 0 {
            return;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = open.entry(address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_no_more_connections_than_its_limit() {
        let clients = PerAddress::new(2);
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert!(clients.enter(a) && clients.enter(a) && !clients.enter(a));
        assert!(clients.enter(b));
        clients.leave(a);
        assert!(clients.enter(a));
    }

    #[test]
    fn a_budget_gives_no_more_than_it_has() {
        let budget = Budget::new(10);
        assert!(budget.take(7));
        assert!(!budget.take(4));
        assert!(budget.take(3));
        budget.give_back(10);
        assert_eq!(budget.used(), 0);
    }
}
