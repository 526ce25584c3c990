//! From an RSpec to what this machine needs: namespaces, devices, addresses and routes. Pure.
//!
//! A link of two interfaces is a pair of devices; a LAN of more is a bridge in its own namespace.
//! Where latency is emulated, a program in its own namespace sits between the ends of a link. A
//! node with several links forwards packets; every node gets a route to each network that it is not
//! attached to, through the neighbour nearest to it. In this project's star, that is one default
//! route through the balancer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rspec::{Ip, Property, Role, Rspec};

use super::delay::Hold;

/// The name of every namespace and cgroup that this program creates starts with this.
const PREFIX: &str = "fleet";

/// Everything that has to be built for a slice.
#[derive(Debug, PartialEq)]
pub(crate) struct Layout {
    pub(crate) slice: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: Vec<Link>,
}

/// One node: a network namespace.
#[derive(Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) role: Option<Role>,
    pub(crate) ports: Vec<Port>,
    pub(crate) routes: Vec<Route>,
}

/// One end of a link.
#[derive(Debug, PartialEq)]
pub(crate) struct Port {
    /// Name of the interface in the RSpec.
    pub(crate) interface: String,
    /// Name of the device in the namespace.
    pub(crate) device: String,
    pub(crate) ip: Ip,
    /// The shaping of its outgoing packets.
    pub(crate) shaping: Option<Property>,
    /// Whether our own relay delays them instead of the kernel.
    emulates_latency: bool,
}

impl Port {
    /// How long our own relay holds its outgoing packets.
    fn held(&self) -> Duration {
        let latency = self.shaping.as_ref().and_then(|shaping| shaping.latency);
        latency.filter(|_| self.emulates_latency).unwrap_or_default()
    }

    /// The shaping of its outgoing packets that is left to the kernel.
    pub(crate) fn kernel_shaping(&self) -> Option<Property> {
        let shaping = self.shaping.clone()?;
        let latency = shaping.latency.filter(|_| !self.emulates_latency);
        Some(Property { latency, ..shaping })
    }
}

/// A route to a network that the node is not attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// `default`, or a network such as `10.10.1.0/24`.
    pub(crate) to: String,
    pub(crate) via: Ipv4Addr,
}

/// One link: a veth pair, or a bridge if it has more than two ends.
#[derive(Debug, PartialEq)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) ends: Vec<End>,
}

/// The program that delays the frames on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relay {
    pub(crate) namespace: String,
    pub(crate) holds: Vec<Hold>,
}

/// The device that is paired with that of end `place` of a link, in the namespace of the link.
pub(crate) fn near(place: usize) -> String {
    format!("port{place}")
}

/// The device to which a relay passes frames from end `place` of a LAN.
pub(crate) fn behind(place: usize) -> String {
    format!("late{place}")
}

/// Where the bridge of a LAN is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) namespace: String,
    pub(crate) device: &'static str,
}

/// Where an end of a link is: positions in [`Layout::nodes`] and [`Node::ports`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) node: usize,
    pub(crate) port: usize,
}

/// Address and prefix length.
type Network = (Ipv4Addr, u8);
/// The networks that a node is attached to.
type Networks = BTreeSet<Network>;
/// Positions of the nodes that a node has links to, with their addresses on those links.
type Neighbours = Vec<(usize, Ipv4Addr)>;

/// Parses a slice name for clap. It becomes part of namespace names, so few characters are allowed.
pub(crate) fn slice_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if (1..=40).contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("1 to 40 letters, digits and dashes".to_owned())
    }
}

/// The prefix of the names of all namespaces of a slice.
pub(crate) fn namespace_prefix(slice: &str) -> String {
    format!("{PREFIX}.{slice}.")
}

/// Name of the cgroup that contains one group per node.
pub(crate) fn group(slice: &str) -> String {
    format!("{PREFIX}.{slice}")
}

/// Name of the namespace of the bridge of link number `link`. No node's name begins with a dot.
fn bridge_namespace(slice: &str, link: usize) -> String {
    format!("{}.lan{link}", namespace_prefix(slice))
}

/// Name of the namespace of the relay of link number `link`.
fn relay_namespace(slice: &str, link: usize) -> String {
    format!("{}.delay{link}", namespace_prefix(slice))
}

/// Whether a namespace of a slice contains the inside of a link rather than a node.
pub(crate) fn is_of_link(slice: &str, namespace: &str) -> bool {
    namespace.strip_prefix(&namespace_prefix(slice)).is_some_and(|rest| rest.starts_with('.'))
}

/// Name of the namespace of a node.
pub(crate) fn namespace(slice: &str, node: &str) -> String {
    format!("{}{node}", namespace_prefix(slice))
}

impl Layout {
    /// Lays the slice out; refuses what cannot be built on one machine.
    pub(crate) fn new(slice: &str, rspec: &Rspec) -> Result<Self> {
        let rspec = &rspec.with_addresses()?;
        let mut layout = Self { slice: slice.to_owned(), nodes: Vec::new(), links: Vec::new() };
        for node in &rspec.nodes {
            node_name(&node.client_id)?;
            layout.nodes.push(Node {
                name: node.client_id.clone(),
                role: node.role(),
                ports: Vec::new(),
                routes: Vec::new(),
            });
        }
        for link in &rspec.links {
            layout.link(rspec, link)?;
        }
        layout.route();
        Ok(layout)
    }

    /// The same layout, with latency from our own relay instead of the kernel.
    pub(crate) fn with_latency_emulated(mut self) -> Self {
        for port in self.nodes.iter_mut().flat_map(|node| &mut node.ports) {
            port.emulates_latency = true;
        }
        self
    }

    pub(crate) fn node(&self, name: &str) -> Result<&Node> {
        match self.nodes.iter().find(|node| node.name == name) {
            Some(node) => Ok(node),
            None => bail!("there is no node `{name}`; the slice has {}", self.node_names()),
        }
    }

    /// How many nodes are workers.
    pub(crate) fn workers(&self) -> usize {
        self.nodes.iter().filter(|node| matches!(node.role, Some(Role::Worker(_)))).count()
    }

    fn node_names(&self) -> String {
        self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn port(&self, end: End) -> &Port {
        &self.nodes[end.node].ports[end.port]
    }

    fn link(&mut self, rspec: &Rspec, link: &rspec::Link) -> Result<()> {
        let ends = link
            .interfaces
            .iter()
            .map(|interface| self.end(rspec, link, interface))
            .collect::<Result<Vec<End>>>()?;
        let mut nodes: Vec<usize> = ends.iter().map(|end| end.node).collect();
        nodes.sort_unstable();
        if let Some(pair) = nodes.windows(2).find(|pair| pair[0] == pair[1]) {
            let node = &self.nodes[pair[0]].name;
            bail!("link `{}` joins node `{node}` to itself", link.client_id);
        }
        self.links.push(Link { name: link.client_id.clone(), ends });
        Ok(())
    }

    fn end(&mut self, rspec: &Rspec, link: &rspec::Link, interface: &str) -> Result<End> {
        let Some((owner, found)) = rspec.interface(interface) else {
            bail!("link `{}` names `{interface}`, which no node has", link.client_id)
        };
        let Some(ip) = found.ip else {
            bail!("interface `{interface}` of `{}` has no address", owner.client_id)
        };
        let position = self.nodes.iter().position(|node| node.name == owner.client_id);
        let node = position.expect("every node of the request is laid out");
        let port = self.nodes[node].ports.len();
        self.nodes[node].ports.push(Port {
            interface: interface.to_owned(),
            device: format!("eth{port}"),
            ip,
            shaping: link.property_from(interface).cloned(),
            emulates_latency: false,
        });
        Ok(End { node, port })
    }

    /// The bridge of a link, if it has one.
    pub(crate) fn bridge(&self, link: usize) -> Option<Bridge> {
        let is_lan = self.links[link].ends.len() > 2;
        let namespace = bridge_namespace(&self.slice, link);
        is_lan.then_some(Bridge { namespace, device: "br0" })
    }

    /// The relay that delays a link, if it needs one.
    pub(crate) fn relay(&self, link: usize) -> Option<Relay> {
        let ends = &self.links[link].ends;
        let held: Vec<Duration> = ends.iter().map(|end| self.port(*end).held()).collect();
        if held.iter().all(Duration::is_zero) {
            return None;
        }
        if let Some(bridge) = self.bridge(link) {
            let delayed = held.iter().enumerate().filter(|(_, held)| !held.is_zero());
            let of_end = |(place, held): (usize, &Duration)| Hold {
                near: near(place),
                far: behind(place),
                forth: *held,
                back: Duration::ZERO,
            };
            return Some(Relay {
                namespace: bridge.namespace,
                holds: delayed.map(of_end).collect(),
            });
        }
        let namespace = relay_namespace(&self.slice, link);
        let both = Hold { near: near(0), far: near(1), forth: held[0], back: held[1] };
        Some(Relay { namespace, holds: vec![both] })
    }

    fn route(&mut self) {
        let neighbours = self.neighbours();
        let networks: Vec<Networks> = self
            .nodes
            .iter()
            .map(|node| node.ports.iter().map(|port| network(port.ip)).collect())
            .collect();
        for start in 0..self.nodes.len() {
            let routes = match neighbours[start].as_slice() {
                [] => Vec::new(),
                // A leaf needs no table: everything is behind its only neighbour.
                [(_, via)] => vec![Route { to: "default".to_owned(), via: *via }],
                _ => nearest(start, &neighbours, &networks),
            };
            self.nodes[start].routes = routes;
        }
    }

    /// For each node, the nodes that its links reach, and at which addresses.
    fn neighbours(&self) -> Vec<Neighbours> {
        let mut neighbours = vec![Vec::new(); self.nodes.len()];
        for link in &self.links {
            for (place, &here) in link.ends.iter().enumerate() {
                let others = link.ends.iter().enumerate().filter(|(other, _)| *other != place);
                let others = others.map(|(_, &there)| (there.node, self.port(there).ip.address));
                neighbours[here.node].extend(others);
            }
        }
        neighbours
    }
}

fn network(ip: Ip) -> Network {
    (ip.network(), ip.prefix)
}

/// Breadth-first search from `start`: each network found is reached through the first hop taken.
fn nearest(start: usize, neighbours: &[Neighbours], networks: &[Networks]) -> Vec<Route> {
    let mut routes: BTreeMap<Network, Ipv4Addr> = BTreeMap::new();
    let mut seen = BTreeSet::from([start]);
    let mut queue: VecDeque<_> = neighbours[start].iter().copied().collect();
    while let Some((node, via)) = queue.pop_front() {
        if !seen.insert(node) {
            continue;
        }
        for &known in networks[node].difference(&networks[start]) {
            routes.entry(known).or_insert(via);
        }
        queue.extend(neighbours[node].iter().map(|&(next, _)| (next, via)));
    }
    let route = |((network, prefix), via)| Route { to: format!("{network}/{prefix}"), via };
    routes.into_iter().map(route).collect()
}

fn node_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:+".contains(c);
    ensure!(
        (1..=60).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('.'),
        "node `{name}` cannot be a namespace: 1 to 60 letters, digits, and `-_.:+` behind the first"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use rspec::{REPOSITORY, image_class};

    use super::*;

    #[test]
    fn the_original_slice_routes_everything_through_the_balancer() {
        let layout = Layout::new("s", &image_class(REPOSITORY)).expect("fits");
        let balancer = layout.node("balancer").expect("there");
        assert_eq!(balancer.ports.len(), 5);
        assert_eq!(balancer.routes, []);
        let via = Ipv4Addr::new(10, 10, 3, 2);
        let server3 = layout.node("server3").expect("there");
        assert_eq!(server3.routes, [Route { to: "default".to_owned(), via }]);
        assert_eq!(layout.workers(), 4);
    }

    #[test]
    fn a_node_in_the_middle_of_a_chain_finds_both_sides() {
        let text = chain(5);
        let layout = Layout::new("s", &Rspec::parse(&text).expect("valid")).expect("fits");
        let routes: Vec<String> = layout.nodes[1]
            .routes
            .iter()
            .map(|route| format!("{} via {}", route.to, route.via))
            .collect();
        assert_eq!(routes, ["10.0.2.0/24 via 10.0.1.2", "10.0.3.0/24 via 10.0.1.2"]);
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        let mut rspec = image_class(REPOSITORY);
        rspec.nodes[0].client_id = "../etc".to_owned();
        let error = Layout::new("s", &rspec).expect_err("refused").to_string();
        assert!(error.contains("`../etc` cannot be a namespace"), "{error}");
        let mut rspec = image_class(REPOSITORY);
        let own = rspec.nodes[0].interfaces[0].client_id.clone();
        rspec.links[1].interfaces = vec![own, rspec.nodes[0].interfaces[1].client_id.clone()];
        rspec.links.truncate(2);
        let error = Layout::new("s", &rspec).expect_err("refused").to_string();
        assert!(error.contains("joins node `balancer` to itself"), "{error}");
        assert!(slice_name("a b").is_err() && slice_name("").is_err());
    }

    #[test]
    fn a_lan_is_a_bridge_and_its_nodes_are_neighbours() {
        let node =
            |i: usize| format!("<node client_id='n{i}'><interface client_id='i{i}'/></node>");
        let end = |i: usize| format!("<interface_ref client_id='i{i}'/>");
        let ends = [0, 1, 2].map(end).concat();
        let nodes = [0, 1, 2].map(node).concat();
        let text = format!(
            "<rspec xmlns='http://www.geni.net/resources/rspec/3' type='request'>{nodes}<link client_id='lan'>{ends}</link></rspec>"
        );
        let layout = Layout::new("s", &Rspec::parse(&text).expect("valid")).expect("fits");
        let addresses: Vec<String> =
            layout.nodes.iter().map(|node| node.ports[0].ip.address.to_string()).collect();
        assert_eq!(addresses, ["10.10.1.1", "10.10.1.2", "10.10.1.3"]);
        assert!(layout.nodes.iter().all(|node| node.routes.is_empty()), "nothing lies beyond");
        let bridge = layout.bridge(0).expect("three ends");
        assert_eq!(bridge.namespace, "fleet.s..lan0");
    }

    /// `n0 - n1 - … `, link `i` being `10.0.i.0/24`.
    fn chain(length: usize) -> String {
        use std::fmt::Write as _;
        let mut text =
            String::from("<rspec xmlns='http://www.geni.net/resources/rspec/3' type='request'>");
        for i in 0..length {
            write!(text, "<node client_id='n{i}'>").expect("string");
            if i > 0 {
                let link = i - 1;
                write!(text, "<interface client_id='l{i}'><ip address='10.0.{link}.2' netmask='255.255.255.0'/></interface>").expect("string");
            }
            if i + 1 < length {
                write!(text, "<interface client_id='r{i}'><ip address='10.0.{i}.1' netmask='255.255.255.0'/></interface>").expect("string");
            }
            text.push_str("</node>");
        }
        for i in 0..length - 1 {
            let next = i + 1;
            write!(text, "<link client_id='k{i}'><interface_ref client_id='r{i}'/><interface_ref client_id='l{next}'/></link>").expect("string");
        }
        text.push_str("</rspec>");
        text
    }
}
