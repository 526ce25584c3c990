//! How a worker joins a fleet by itself: what it sends to the balancer, and what it gets back.
//!
//! A worker sends [`Member`] as JSON to [`JOIN`] with `Authorization: Bearer TOKEN`, and again
//! after each [`Lease::renew_ms`]. Its registration is valid for [`Lease::lease_ms`]: a worker that
//! dies without notice is forgotten then, and a restarted balancer knows its workers again as soon
//! as they have renewed. A worker that ends reports that to [`LEAVE`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Joins the fleet, and renews the lease (POST).
pub const JOIN: &str = "/fleet/join";
/// Leaves the fleet (POST).
pub const LEAVE: &str = "/fleet/leave";

/// Most bytes of a [`Member`] as JSON.
pub const MAX_MEMBER: usize = 4096;
/// Longest name of a worker.
const MAX_NAME: usize = 64;

/// A worker that joins, renews its lease or leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name in the fleet.
    pub name: String,
    /// Distinguishes this process from another of the same name.
    pub instance: String,
    /// Where it answers; if `None`, at the address that its request comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// The port that it answers on, if there is no address.
    pub port: u16,
}

/// The lease of a worker that has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Where the balancer sends requests.
    pub address: SocketAddr,
    /// How long it stays in the fleet without renewing.
    pub lease_ms: u64,
    /// How long it should wait before it renews.
    pub renew_ms: u64,
}

/// Whether a worker can have this name: 1 to 64 letters, digits, dots, dashes and underscores.
pub fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words() {
        assert!(["a", "worker-1.rack_2", &"n".repeat(64)].iter().all(|name| is_name(name)));
        let wrong = ["", "a b", "a/b", "a\"b", "ä", "a\n", &"n".repeat(65)];
        assert!(!wrong.iter().any(|name| is_name(name)));
    }

    #[test]
    fn a_member_is_written_as_it_is_read() {
        let text = r#"{"name":"a","instance":"1","port":8501}"#;
        let member: Member = serde_json::from_str(text).expect("read");
        assert_eq!((member.address, member.port), (None, 8501));
        assert_eq!(serde_json::to_string(&member).expect("written"), text);
    }
}
