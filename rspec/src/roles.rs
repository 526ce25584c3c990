//! Which node has which role, read from the names and links of the request.
//!
//! The names are those of the original slice: `balancer`, `client`, and `server1` to `serverN` for
//! the workers. A worker is reached at its own end of the link that it shares with the balancer,
//! which is the only address that the balancer has a route to.

use std::net::{Ipv4Addr, SocketAddr};

use crate::RspecError;
use crate::model::{Node, Rspec};

/// Name of the node that runs the balancer.
pub const BALANCER: &str = "balancer";
/// Name of the node that runs the client.
pub const CLIENT: &str = "client";
/// The default port of a worker.
pub const WORKER_PORT: u16 = 8501;

/// The role of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes requests and forwards them.
    Balancer,
    /// Answers requests; counted from 1.
    Worker(u32),
    /// Sends requests and measures the answers.
    Client,
}

/// One worker of the slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Name of its node, such as `server1`.
    pub name: String,
    /// Where the balancer reaches it.
    pub address: SocketAddr,
}

impl Node {
    /// The role that this node has by its name, if any.
    pub fn role(&self) -> Option<Role> {
        match self.client_id.as_str() {
            BALANCER => Some(Role::Balancer),
            CLIENT => Some(Role::Client),
            // `server01` is not a second way to write `server1`.
            name => name
                .strip_prefix("server")
                .filter(|digits| digits.starts_with(|c: char| ('1'..='9').contains(&c)))
                .and_then(|digits| digits.parse().ok())
                .map(Role::Worker),
        }
    }
}

impl Rspec {
    /// The workers `server1` to `serverN` in the order of their numbers, each at `port` on its link
    /// to the balancer.
    pub fn workers(&self, port: u16) -> Result<Vec<Worker>, RspecError> {
        if self.node(BALANCER).is_none() {
            return Err(RspecError::Role(format!("it has no node `{BALANCER}`")));
        }
        let mut numbered: Vec<(u32, &Node)> = self
            .nodes
            .iter()
            .filter_map(|node| match node.role() {
                Some(Role::Worker(number)) => Some((number, node)),
                Some(Role::Balancer | Role::Client) | None => None,
            })
            .collect();
        numbered.sort_unstable_by_key(|&(number, _)| number);
        if numbered.is_empty() {
            return Err(RspecError::Role("it has no node `server1`".to_owned()));
        }
        let whole = self.with_addresses()?;
        numbered
            .into_iter()
            .map(|(_, node)| {
                let node = whole.node(&node.client_id).unwrap_or(node);
                let address = SocketAddr::from((whole.address_towards(node, BALANCER)?, port));
                Ok(Worker { name: node.client_id.clone(), address })
            })
            .collect()
    }

    /// The address that `node` has on its first link to the node `neighbour`.
    pub fn address_towards(&self, node: &Node, neighbour: &str) -> Result<Ipv4Addr, RspecError> {
        let reaches = |end: &String| {
            self.interface(end).is_some_and(|(other, _)| other.client_id == neighbour)
        };
        let own = node.interfaces.iter().filter(|interface| {
            self.links.iter().any(|link| {
                link.interfaces.contains(&interface.client_id)
                    && link.interfaces.iter().any(reaches)
            })
        });
        let mut own = own.peekable();
        if own.peek().is_none() {
            let name = &node.client_id;
            return Err(RspecError::Role(format!("node `{name}` has no link to `{neighbour}`")));
        }
        own.find_map(|interface| interface.ip).map(|ip| ip.address).ok_or_else(|| {
            let name = &node.client_id;
            RspecError::Role(format!("node `{name}` has no address on its link to `{neighbour}`"))
        })
    }
}
