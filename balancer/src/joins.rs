//! Workers that join by themselves, each for as long as it renews its lease.
//!
//! Joining requires the token. A name belongs to its process until the lease expires; another
//! process gets it immediately only at the same address, where the first can no longer be running.
//! Workers are listed by name, so the order does not depend on which starts fastest.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use wire::join::{Lease, Member};

use crate::error::ConfigError;
use crate::permission::TokenFile;

/// A worker that does not renew its lease within this time has left.
pub const LEASE: Duration = Duration::from_secs(5);
/// Renewal interval: short enough that a restarted balancer soon has its workers back.
const RENEW: Duration = Duration::from_secs(1);
/// How often leases are checked.
const PERIOD: Duration = Duration::from_millis(500);
/// Maximum number of joined workers.
const MAX_MEMBERS: usize = 1024;

/// Why a worker cannot join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Its name is not valid.
    #[error("the name of a worker has 1 to 64 letters, digits, dots, dashes and underscores")]
    Name,
    /// No request could be sent to this address.
    #[error(
        "{0} is no address that a worker can be reached at from here; name one with --advertise"
    )]
    Address(SocketAddr),
    /// It came through a proxy and does not state its address.
    #[error("the worker's address is unknown behind a proxy; name it with --advertise")]
    Unseen,
    /// Another worker has the name or the address.
    #[error(
        "{name} at {address} has joined already, and its lease is not over; another worker needs \
         another name (--name)"
    )]
    Taken {
        /// Name of that worker.
        name: String,
        /// Address of that worker.
        address: SocketAddr,
    },
    /// The maximum number of workers has joined.
    #[error("{MAX_MEMBERS} workers have joined already")]
    Full,
}

/// A worker that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Joined {
    instance: String,
    address: SocketAddr,
    since: Instant,
    until: Instant,
}

/// The workers that have joined; pure.
#[derive(Debug, Default)]
struct Members {
    joined: BTreeMap<String, Joined>,
}

impl Members {
    /// Adds a worker or renews its lease; returns whether that changes the list.
    fn join(
        &mut self,
        member: &Member,
        address: SocketAddr,
        now: Instant,
    ) -> Result<bool, JoinError> {
        if !wire::join::is_name(&member.name) || !wire::join::is_name(&member.instance) {
            return Err(JoinError::Name);
        }
        let other = self.joined.iter().find(|(name, joined)| {
            let is_same = (**name == member.name, joined.address == address);
            joined.instance != member.instance && matches!(is_same, (true, false) | (false, true))
        });
        if let Some((name, joined)) = other {
            return Err(JoinError::Taken { name: name.clone(), address: joined.address });
        }
        let until = now + LEASE;
        if let Some(known) = self.joined.get_mut(&member.name) {
            let is_moved = known.address != address;
            if known.instance != member.instance || is_moved {
                member.instance.clone_into(&mut known.instance);
                (known.address, known.since) = (address, now);
            }
            known.until = until;
            return Ok(is_moved);
        }
        if self.joined.len() >= MAX_MEMBERS {
            return Err(JoinError::Full);
        }
        let instance = member.instance.clone();
        let joined = Joined { instance, address, since: now, until };
        self.joined.insert(member.name.clone(), joined);
        Ok(true)
    }

    /// Removes a worker, if it is the one that has joined under its name.
    fn leave(&mut self, member: &Member) -> bool {
        let is_it = |joined: &Joined| joined.instance == member.instance;
        self.joined.get(&member.name).is_some_and(is_it)
            && self.joined.remove(&member.name).is_some()
    }

    /// Removes workers whose lease has expired, and returns their names.
    fn expire(&mut self, now: Instant) -> Vec<String> {
        let mut gone = Vec::new();
        self.joined.retain(|name, joined| {
            let stays = joined.until > now;
            if !stays {
                gone.push(name.clone());
            }
            stays
        });
        gone
    }

    /// Extends all leases by the time in which this process was suspended and received no renewals.
    fn extend(&mut self, stopped_for: Duration) {
        self.joined.values_mut().for_each(|joined| joined.until += stopped_for);
    }
}

/// The workers that have joined, and the tokens that admit them.
#[derive(Debug)]
pub struct Joins {
    token: TokenFile,
    members: Mutex<Members>,
    changed: Notify,
    /// Workers that were removed because they did not renew their lease.
    expired: AtomicU64,
    /// Whether another process is taking over and receives the renewals instead.
    successor: OnceLock<watch::Receiver<bool>>,
}

impl Joins {
    /// No members yet; the file contains the accepted tokens, one per line.
    pub fn load(token: &Path) -> Result<Self, ConfigError> {
        let token = TokenFile::load(token)?;
        let (members, changed) = (Mutex::default(), Notify::new());
        let (expired, successor) = (AtomicU64::new(0), OnceLock::new());
        Ok(Self { token, members, changed, expired, successor })
    }

    /// The token that a worker needs to join.
    pub fn token(&self) -> &TokenFile {
        &self.token
    }

    /// Adds a worker or renews its lease. Its request comes from the address `peer`, which is
    /// unknown behind a proxy.
    pub fn join(&self, member: &Member, peer: Option<IpAddr>) -> Result<Lease, JoinError> {
        let address = address(member, peer)?;
        if self.members().join(member, address, Instant::now())? {
            tracing::info!(worker = member.name, %address, "worker joined");
            self.changed.notify_one();
        }
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Ok(Lease { address, lease_ms: milliseconds(LEASE), renew_ms: milliseconds(RENEW) })
    }

    /// Removes a worker at its own request.
    pub fn leave(&self, member: &Member) {
        if self.members().leave(member) {
            tracing::info!(worker = member.name, "worker left");
            self.changed.notify_one();
        }
    }

    /// Names and addresses of the joined workers, ordered by name.
    pub(crate) fn endpoints(&self) -> Vec<(String, SocketAddr)> {
        let members = self.members();
        let known = members.joined.iter();
        known.map(|(name, joined)| (name.clone(), joined.address)).collect()
    }

    /// When the worker of this name joined; `None` if it did not join by itself.
    pub fn since(&self, name: &str) -> Option<Instant> {
        self.members().joined.get(name).map(|joined| joined.since)
    }

    /// Keeps the current members while `successor` is true: they renew at another process then.
    pub fn yield_to(&self, successor: watch::Receiver<bool>) {
        self.successor.get_or_init(|| successor);
    }

    /// Whether another process is taking over.
    pub fn successor(&self) -> Option<watch::Receiver<bool>> {
        self.successor.get().cloned()
    }

    /// Number of joined workers.
    pub fn count(&self) -> usize {
        self.members().joined.len()
    }

    /// Number of workers removed so far because they did not renew their lease.
    pub fn expired(&self) -> u64 {
        self.expired.load(Relaxed)
    }

    /// Waits for a change of [`Self::endpoints`].
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Removes workers whose lease has expired, forever.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = ticks.tick().await;
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let is_superseded = self.successor.get().is_some_and(|successor| *successor.borrow());
            let unheard = if is_superseded { Duration::ZERO } else { 2 * PERIOD };
            let stopped_for = (now - last).saturating_sub(unheard);
            last = now;
            let gone = {
                let mut members = self.members();
                members.extend(stopped_for);
                members.expire(now)
            };
            for worker in &gone {
                tracing::warn!(worker, "worker does not renew its lease, it is out of the fleet");
            }
            self.expired.fetch_add(gone.len() as u64, Relaxed);
            if !gone.is_empty() {
                self.changed.notify_one();
            }
        }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address of a worker. Only workers on this machine can be at a loopback address.
fn address(member: &Member, peer: Option<IpAddr>) -> Result<SocketAddr, JoinError> {
    let peer = peer.map(|peer| peer.to_canonical());
    let seen = peer.map(|peer| SocketAddr::new(peer, member.port));
    let address = member.address.or(seen).ok_or(JoinError::Unseen)?;
    let ip = address.ip().to_canonical();
    let is_local = peer.is_some_and(|peer| peer.is_loopback());
    let is_nowhere = ip.is_unspecified() || ip.is_multicast() || address.port() == 0;
    if is_nowhere || (ip.is_loopback() && !is_local) {
        return Err(JoinError::Address(address));
    }
    Ok(SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, instance: &str) -> Member {
        let (name, instance) = (name.to_owned(), instance.to_owned());
        Member { name, instance, address: None, port: 8501 }
    }

    fn at(host: u8) -> SocketAddr {
        ([10, 0, 0, host], 8501).into()
    }

    struct Clock(Instant);

    impl Clock {
        fn join(
            &self,
            members: &mut Members,
            name: &str,
            instance: &str,
            host: u8,
        ) -> Result<bool, JoinError> {
            members.join(&member(name, instance), at(host), self.0)
        }

        fn pass(&mut self, time: Duration) {
            self.0 += time;
        }
    }

    fn taken(name: &str, host: u8) -> Result<bool, JoinError> {
        Err(JoinError::Taken { name: name.to_owned(), address: at(host) })
    }

    #[test]
    fn a_worker_is_in_for_as_long_as_it_renews() {
        let (mut members, mut clock) = (Members::default(), Clock(Instant::now()));
        assert_eq!(clock.join(&mut members, "a", "1", 1), Ok(true));
        clock.pass(LEASE / 2);
        assert_eq!(clock.join(&mut members, "a", "1", 1), Ok(false), "a renewal changes nothing");
        clock.pass(LEASE.saturating_sub(Duration::from_millis(1)));
        assert_eq!(members.expire(clock.0), Vec::<String>::new());
        clock.pass(Duration::from_millis(1));
        assert_eq!(members.expire(clock.0), ["a"]);
        assert_eq!(clock.join(&mut members, "a", "1", 1), Ok(true), "it is back");
    }

    #[test]
    fn a_name_and_an_address_belong_to_one_process_until_its_lease_is_over() {
        let (mut members, mut clock) = (Members::default(), Clock(Instant::now()));
        assert_eq!(clock.join(&mut members, "a", "1", 1), Ok(true));
        assert_eq!(clock.join(&mut members, "a", "2", 2), taken("a", 1), "the name");
        assert_eq!(clock.join(&mut members, "b", "2", 1), taken("a", 1), "the address");
        assert!(!members.leave(&member("a", "2")), "another process cannot send it away");
        assert_eq!(clock.join(&mut members, "a", "3", 1), Ok(false), "it was restarted there");
        assert_eq!(clock.join(&mut members, "a", "3", 4), Ok(true), "it has moved");
        assert!(!members.leave(&member("a", "1")), "the process before it is late");
        clock.pass(LEASE);
        assert_eq!(members.expire(clock.0), ["a"]);
        assert_eq!(clock.join(&mut members, "a", "2", 2), Ok(true));
        assert!(members.leave(&member("a", "2")));
        assert!(members.joined.is_empty());
    }

    #[test]
    fn a_flood_of_workers_ends_at_the_limit_and_those_that_are_in_still_renew() {
        let (mut members, clock) = (Members::default(), Clock(Instant::now()));
        for number in 0..MAX_MEMBERS {
            let name = format!("w{number}");
            let port = 1 + u16::try_from(number).expect("small");
            let address = SocketAddr::from(([10, 0, 0, 1], port));
            let joined = members.join(&member(&name, "1"), address, clock.0);
            assert_eq!(joined, Ok(true));
        }
        assert_eq!(clock.join(&mut members, "late", "1", 2), Err(JoinError::Full));
        let first = SocketAddr::from(([10, 0, 0, 1], 1));
        let again = members.join(&member("w0", "1"), first, clock.0);
        assert_eq!(again, Ok(false));
        assert_eq!(members.joined.len(), MAX_MEMBERS);
    }

    #[test]
    fn no_lease_expires_because_the_balancer_was_stopped() {
        let (mut members, mut clock) = (Members::default(), Clock(Instant::now()));
        assert_eq!(clock.join(&mut members, "a", "1", 1), Ok(true));
        clock.pass(10 * LEASE);
        members.extend(10 * LEASE);
        assert_eq!(members.expire(clock.0), Vec::<String>::new());
    }

    #[test]
    fn names_that_are_no_words_and_addresses_that_lead_nowhere_are_refused() {
        let (mut members, clock) = (Members::default(), Clock(Instant::now()));
        for (name, instance) in [("", "1"), ("a b", "1"), ("a", ""), ("a", "<script>")] {
            assert_eq!(clock.join(&mut members, name, instance, 1), Err(JoinError::Name));
        }
        let far = IpAddr::from([192, 0, 2, 1]);
        let with = |text: &str| {
            let address = Some(text.parse().expect("an address"));
            Member { address, ..member("a", "1") }
        };
        assert_eq!(address(&member("a", "1"), Some(far)), Ok(SocketAddr::new(far, 8501)));
        assert_eq!(address(&with("10.0.0.9:1"), Some(far)), Ok(([10, 0, 0, 9], 1).into()));
        let mapped = "::ffff:192.0.2.1".parse().expect("an address");
        assert_eq!(address(&member("a", "1"), Some(mapped)), Ok(SocketAddr::new(far, 8501)));
        for text in ["127.0.0.1:8501", "[::1]:1", "0.0.0.0:1", "10.0.0.1:0", "224.0.0.1:1"] {
            let text = with(text);
            assert!(matches!(address(&text, Some(far)), Err(JoinError::Address(_))), "{text:?}");
        }
        assert_eq!(address(&member("a", "1"), None), Err(JoinError::Unseen));
        assert!(address(&with("10.0.0.9:1"), None).is_ok());
        assert!(address(&with("127.0.0.1:8501"), None).is_err());
        assert!(address(&with("127.0.0.1:8501"), Some(IpAddr::from([127, 0, 0, 1]))).is_ok());
    }
}
