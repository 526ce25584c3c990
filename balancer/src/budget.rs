//! What several parties use together: an amount of something, and connections by address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// An amount that several parties use together.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// Nothing of `limit` is used.
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

    /// Takes what another party is about to give back, whether it fits or not.
    pub fn take_over(&self, amount: usize) {
        self.used.fetch_add(amount, Relaxed);
    }

    /// Returns what was taken.
    pub fn give_back(&self, amount: usize) {
        self.used.fetch_sub(amount, Relaxed);
    }

    /// What is in use.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

/// Connections of each client address; keeps no book while there is no limit.
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

    /// Counts a connection in, unless the address has enough.
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

    /// Counts a connection out.
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
