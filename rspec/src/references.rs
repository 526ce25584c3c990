//! Checks that ids and addresses are unique and that every reference has a target.
//!
//! The schema of RSpec v3 has no keys, so a request can be valid and still name interfaces that do
//! not exist. Lines are remembered while reading; the links are checked at the end, since a link
//! may precede its nodes.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use crate::RspecError;
use crate::model::{Ip, Link, Rspec};
use crate::xml::Element;

/// Ids and addresses seen so far, with their lines.
#[derive(Debug, Default)]
pub(crate) struct References {
    nodes: HashMap<String, usize>,
    interfaces: HashMap<String, usize>,
    links: HashMap<String, usize>,
    addresses: HashMap<Ipv4Addr, usize>,
    ends: Vec<End>,
}

#[derive(Debug)]
struct End {
    line: usize,
    element: String,
    client_id: String,
}

impl References {
    pub(crate) fn node(&mut self, element: &Element, id: &str) -> Result<(), RspecError> {
        take(&mut self.nodes, id.to_owned(), element, id)
    }

    pub(crate) fn interface(&mut self, element: &Element, id: &str) -> Result<(), RspecError> {
        take(&mut self.interfaces, id.to_owned(), element, id)
    }

    pub(crate) fn link(&mut self, element: &Element, id: &str) -> Result<(), RspecError> {
        take(&mut self.links, id.to_owned(), element, id)
    }

    pub(crate) fn address(&mut self, element: &Element, ip: Ip) -> Result<(), RspecError> {
        take(&mut self.addresses, ip.address, element, &ip.address.to_string())
    }

    /// Remembers that `element` refers to the interface `client_id`.
    pub(crate) fn end(&mut self, element: &Element, client_id: &str) {
        self.ends.push(End {
            line: element.line,
            element: element.name.clone(),
            client_id: client_id.to_owned(),
        });
    }

    /// Checks the whole request, once everything has been read.
    pub(crate) fn check(self, rspec: &Rspec) -> Result<(), RspecError> {
        if let Some(end) =
            self.ends.iter().find(|end| !self.interfaces.contains_key(&end.client_id))
        {
            return Err(RspecError::Dangling {
                line: end.line,
                element: end.element.clone(),
                client_id: end.client_id.clone(),
            });
        }
        let addresses: HashMap<&str, Ip> = rspec
            .nodes
            .iter()
            .flat_map(|node| &node.interfaces)
            .filter_map(|interface| Some((interface.client_id.as_str(), interface.ip?)))
            .collect();
        let node_of: HashMap<&str, &str> = rspec
            .nodes
            .iter()
            .flat_map(|node| node.interfaces.iter().map(move |it| (node, it)))
            .map(|(node, interface)| (interface.client_id.as_str(), node.client_id.as_str()))
            .collect();
        let mut owners = HashMap::new();
        for link in &rspec.links {
            let refuse = |problem: String| RspecError::Link {
                line: self.links.get(&link.client_id).copied().unwrap_or_default(),
                client_id: link.client_id.clone(),
                problem,
            };
            check_link(link, &addresses).map_err(refuse)?;
            let mut nodes = HashSet::new();
            let joined = link.interfaces.iter().filter_map(|end| node_of.get(end.as_str()));
            if let Some(node) = joined.into_iter().find(|node| !nodes.insert(**node)) {
                return Err(refuse(format!("joins node `{node}` to itself")));
            }
            for end in &link.interfaces {
                if let Some(other) = owners.insert(end.as_str(), link.client_id.as_str()) {
                    return Err(refuse(format!("takes interface `{end}`, which `{other}` has")));
                }
            }
        }
        Ok(())
    }
}

fn take<K: std::hash::Hash + Eq>(
    taken: &mut HashMap<K, usize>,
    key: K,
    element: &Element,
    value: &str,
) -> Result<(), RspecError> {
    match taken.insert(key, element.line) {
        None => Ok(()),
        Some(first) => Err(RspecError::Duplicate {
            line: element.line,
            element: element.name.clone(),
            value: value.to_owned(),
            first,
        }),
    }
}

fn check_link(link: &Link, addresses: &HashMap<&str, Ip>) -> Result<(), String> {
    if link.interfaces.len() < 2 {
        return Err(format!("joins {} interface(s); it takes two", link.interfaces.len()));
    }
    for property in &link.properties {
        for end in [&property.source_id, &property.dest_id] {
            if !link.interfaces.contains(end) {
                return Err(format!("has a property for `{end}`, which it does not join"));
            }
        }
    }
    let ips: Vec<Ip> =
        link.interfaces.iter().filter_map(|end| addresses.get(end.as_str()).copied()).collect();
    let network = |ip: &Ip| (ip.network(), ip.prefix);
    match ips.windows(2).find(|pair| network(&pair[0]) != network(&pair[1])) {
        Some(pair) => Err(format!(
            "joins {}/{} and {}/{}, which are different networks",
            pair[0].address, pair[0].prefix, pair[1].address, pair[1].prefix
        )),
        None => Ok(()),
    }
}
