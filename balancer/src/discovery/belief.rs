//! Decides when to accept a change of a source; pure.
//!
//! A file that is being written is short, or empty, or ends in the middle of an address. So its
//! contents must be the same in two successive reads, and an empty list is accepted only after an
//! operator has requested a reload (SIGHUP). A name server that restarts, or that responds with
//! only some of many addresses, is incomplete for a moment: a missing address stays in the list
//! for [`HOLD`].

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Named;

/// An address that a name no longer has is kept for this long.
pub(super) const HOLD: Duration = Duration::from_secs(5);

/// The accepted contents of a file.
#[derive(Debug)]
pub(super) struct Belief {
    list: Vec<Named>,
    /// What the file contained at the last look, if that differs.
    candidate: Option<Vec<Named>>,
    /// Whether an operator has requested that the file be taken as it is.
    is_ordered: bool,
}

/// The result of a look at a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing has changed.
    Same,
    /// The contents are new and must be seen again.
    Wait,
    /// The new list.
    New(Vec<Named>),
    /// The file names no worker; the list stays.
    Empty,
}

impl Belief {
    pub(super) fn new(list: Vec<Named>) -> Self {
        Self { list, candidate: None, is_ordered: false }
    }

    /// Notes that an operator wants the file to be taken as it is.
    pub(super) fn order(&mut self) {
        self.is_ordered = true;
    }

    /// Notes that the file could not be read.
    pub(super) fn unreadable(&mut self) {
        self.candidate = None;
    }

    /// Notes the contents of the file.
    pub(super) fn look(&mut self, said: Vec<Named>) -> Verdict {
        if said == self.list {
            self.candidate = None;
            self.is_ordered = false;
            return Verdict::Same;
        }
        let is_settled = self.candidate.as_ref() == Some(&said);
        if said.is_empty() && is_settled && !self.is_ordered {
            return Verdict::Empty;
        }
        if is_settled || self.is_ordered && !said.is_empty() {
            self.candidate = None;
            self.is_ordered = false;
            self.list.clone_from(&said);
            return Verdict::New(said);
        }
        self.candidate = Some(said);
        Verdict::Wait
    }
}

/// The addresses of a name, including those missing from its latest answers, and since when.
#[derive(Debug, Default)]
pub(super) struct HeldAddresses {
    missing: BTreeMap<SocketAddr, Option<Instant>>,
}

impl HeldAddresses {
    /// Notes an answer. Returns the list, sorted: the position of an endpoint must not depend on
    /// the order in which a name server happens to list the addresses.
    pub(super) fn hear(&mut self, answer: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        let said: HashSet<&SocketAddr> = answer.iter().collect();
        for (address, missing) in &mut self.missing {
            if !said.contains(address) {
                missing.get_or_insert(now);
            }
        }
        for address in answer {
            self.missing.insert(*address, None);
        }
        let is_kept = |since: Option<Instant>| since.is_none_or(|since| now - since < HOLD);
        self.missing.retain(|_, since| is_kept(*since));
        self.missing.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Location;
    use super::*;

    fn list(ports: &[u16]) -> Vec<Named> {
        let named = |port: &u16| {
            let address = SocketAddr::from(([10, 0, 0, 1], *port));
            Named { name: address.to_string(), place: Location::Address(address) }
        };
        ports.iter().map(named).collect()
    }

    #[test]
    fn a_file_is_believed_when_it_says_the_same_twice() {
        let mut belief = Belief::new(list(&[1, 2, 3]));
        assert_eq!(belief.look(list(&[1])), Verdict::Wait, "it is being written");
        assert_eq!(belief.look(list(&[1, 2])), Verdict::Wait);
        assert_eq!(belief.look(list(&[1, 2])), Verdict::New(list(&[1, 2])));
        assert_eq!(belief.look(list(&[1, 2])), Verdict::Same);
        assert_eq!(belief.look(list(&[4])), Verdict::Wait);
        belief.unreadable();
        assert_eq!(belief.look(list(&[4])), Verdict::Wait, "it changed in between");
    }

    #[test]
    fn an_order_is_followed_at_once() {
        let mut belief = Belief::new(list(&[1]));
        belief.order();
        assert_eq!(belief.look(list(&[2])), Verdict::New(list(&[2])));
        assert_eq!(belief.look(list(&[3])), Verdict::Wait, "it holds once");
    }

    #[test]
    fn an_empty_file_empties_the_list_only_by_order_and_after_a_second_look() {
        let mut belief = Belief::new(list(&[1]));
        assert_eq!(belief.look(list(&[])), Verdict::Wait);
        for _ in 0..100 {
            assert_eq!(belief.look(list(&[])), Verdict::Empty);
        }
        belief.order();
        assert_eq!(belief.look(list(&[])), Verdict::New(list(&[])));
        let mut belief = Belief::new(list(&[1]));
        belief.order();
        assert_eq!(belief.look(list(&[])), Verdict::Wait, "it may be about to be written");
        assert_eq!(belief.look(list(&[])), Verdict::New(list(&[])));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_missing_is_kept_for_a_while() {
        let at = |ports: &[u16]| -> Vec<SocketAddr> {
            ports.iter().map(|port| ([10, 0, 0, 1], *port).into()).collect()
        };
        let (mut held, start) = (HeldAddresses::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(held.hear(&at(&[2, 1]), start), at(&[1, 2]), "sorted");
        assert_eq!(held.hear(&at(&[2]), start + second), at(&[1, 2]));
        assert_eq!(held.hear(&at(&[1]), start + 2 * second), at(&[1, 2]), "it flaps");
        assert_eq!(held.hear(&[], start + 3 * second), at(&[1, 2]));
        assert_eq!(held.hear(&[], start + 2 * second + HOLD), at(&[1]));
        assert_eq!(held.hear(&[], start + 3 * second + HOLD), at(&[]), "it means it");
    }
}
