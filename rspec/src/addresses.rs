//! Addresses for interfaces that have none, as testbeds assign them.
//!
//! A link whose ends have addresses keeps their network, and each other end gets the first free
//! address of it. A link without any gets the first free network `10.10.N.0/24`. Links are
//! processed in the order of the request, so the same request always gets the same addresses.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use crate::RspecError;
use crate::model::{Ip, Link, Rspec};

/// Prefix length of the networks that are assigned.
const PREFIX: u8 = 24;

impl Rspec {
    /// The request with an address for every interface that a link joins.
    pub fn with_addresses(&self) -> Result<Self, RspecError> {
        let mut taken = Taken::of(self);
        let interfaces = self.nodes.iter().flat_map(|node| &node.interfaces);
        let known: HashMap<&str, Ip> =
            interfaces.filter_map(|it| Some((it.client_id.as_str(), it.ip?))).collect();
        let mut found: HashMap<&str, Ip> = HashMap::new();
        for link in &self.links {
            let ends = || link.interfaces.iter().map(String::as_str);
            let without: Vec<&str> = ends().filter(|end| !known.contains_key(end)).collect();
            if without.is_empty() {
                continue;
            }
            let network = ends().find_map(|end| known.get(end).copied());
            let network = network.or_else(|| taken.free_network()).ok_or_else(|| full(link))?;
            let free = taken.free_addresses(network, without.len());
            if free.len() < without.len() {
                return Err(full(link));
            }
            found.extend(without.into_iter().zip(free));
        }
        let mut whole = self.clone();
        for interface in whole.nodes.iter_mut().flat_map(|node| &mut node.interfaces) {
            interface.ip = interface.ip.or(found.get(interface.client_id.as_str()).copied());
        }
        Ok(whole)
    }
}

fn full(link: &Link) -> RspecError {
    let ends = link.interfaces.len();
    RspecError::Role(format!(
        "there are no addresses left for the {ends} interfaces of link `{}`",
        link.client_id
    ))
}

/// The addresses and networks in use, and where the search for free ones continues.
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    networks: Vec<Ip>,
    next: u32,
}

impl Taken {
    fn of(rspec: &Rspec) -> Self {
        let interfaces = rspec.nodes.iter().flat_map(|node| &node.interfaces);
        let networks: Vec<Ip> = interfaces.filter_map(|interface| interface.ip).collect();
        let addresses = networks.iter().map(|ip| ip.address).collect();
        Self { addresses, networks, next: 1 }
    }

    /// The first of `10.10.1.0/24`, `10.10.2.0/24`, … `10.255.255.0/24` that overlaps no other one.
    fn free_network(&mut self) -> Option<Ip> {
        const FIRST: u32 = u32::from_be_bytes([10, 10, 0, 0]);
        const LAST: u32 = u32::from_be_bytes([10, 255, 255, 0]);
        loop {
            let start = FIRST + (self.next << (32 - u32::from(PREFIX)));
            if start > LAST {
                return None;
            }
            self.next += 1;
            let network = Ip { address: Ipv4Addr::from(start), prefix: PREFIX };
            if !self.networks.iter().any(|other| overlap(*other, network)) {
                return Some(network);
            }
        }
    }

    /// The first `count` addresses of the network of `ip` that no interface has, or all there are.
    fn free_addresses(&mut self, ip: Ip, count: usize) -> Vec<Ip> {
        let network = u32::from(ip.network());
        let last = network | !u32::from(ip.netmask());
        // The first and the last one are the network's own, unless it has no others.
        let hosts = if ip.prefix >= 31 { network..=last } else { network + 1..=last - 1 };
        let free = hosts.map(Ipv4Addr::from).filter(|address| !self.addresses.contains(address));
        let free: Vec<Ipv4Addr> = free.take(count).collect();
        self.addresses.extend(&free);
        free.into_iter().map(|address| Ip { address, prefix: ip.prefix }).collect()
    }
}

fn overlap(one: Ip, other: Ip) -> bool {
    let prefix = one.prefix.min(other.prefix);
    let network = |ip: Ip| Ip { prefix, ..ip }.network();
    network(one) == network(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Interface, Node};

    /// A request whose nodes have one interface each, with these addresses, and these links.
    fn request(addresses: &[Option<&str>], links: &[&[usize]]) -> Rspec {
        let ip = |text: &str| Ip { address: text.parse().expect("an address"), prefix: 24 };
        let node = |(number, address): (usize, Option<&str>)| Node {
            client_id: format!("n{number}"),
            interfaces: vec![Interface { client_id: format!("i{number}"), ip: address.map(ip) }],
            ..Node::default()
        };
        let link = |(number, ends): (usize, &&[usize])| Link {
            client_id: format!("l{number}"),
            interfaces: ends.iter().map(|end| format!("i{end}")).collect(),
            ..Link::default()
        };
        Rspec {
            nodes: addresses.iter().copied().enumerate().map(node).collect(),
            links: links.iter().enumerate().map(link).collect(),
        }
    }

    fn assigned(rspec: &Rspec) -> Vec<String> {
        let whole = rspec.with_addresses().expect("there is room");
        let interfaces = whole.nodes.iter().flat_map(|node| &node.interfaces);
        let text = |ip: Ip| format!("{}/{}", ip.address, ip.prefix);
        interfaces.map(|it| it.ip.map_or_else(|| "-".to_owned(), text)).collect()
    }

    #[test]
    fn a_link_without_addresses_gets_a_network_that_nobody_has() {
        let rspec =
            request(&[None, None, Some("10.10.1.7"), Some("10.10.1.9")], &[&[0, 1], &[2, 3]]);
        let expected = ["10.10.2.1/24", "10.10.2.2/24", "10.10.1.7/24", "10.10.1.9/24"];
        assert_eq!(assigned(&rspec), expected);
    }

    #[test]
    fn an_end_without_address_joins_the_network_of_the_others() {
        let rspec = request(&[Some("192.168.5.1"), None, None, None], &[&[0, 1, 2]]);
        assert_eq!(assigned(&rspec), ["192.168.5.1/24", "192.168.5.2/24", "192.168.5.3/24", "-"]);
    }

    #[test]
    fn a_network_that_is_full_is_refused_and_one_of_two_has_two() {
        let mut rspec = request(&[Some("10.0.0.0"), None, None], &[&[0, 1, 2]]);
        rspec.nodes[0].interfaces[0].ip.as_mut().expect("there").prefix = 31;
        let error = rspec.with_addresses().expect_err("refused").to_string();
        assert!(error.contains("no addresses left for the 3 interfaces of link `l0`"), "{error}");
        rspec.links[0].interfaces.pop();
        assert_eq!(assigned(&rspec)[1], "10.0.0.1/31");
    }

    #[test]
    fn what_has_all_its_addresses_stays_as_it_is() {
        let rspec = crate::image_class(crate::REPOSITORY);
        assert_eq!(rspec.with_addresses().expect("nothing to do"), rspec);
    }
}
