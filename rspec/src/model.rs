//! A request as plain data: what a slice needs of RSpec v3, without any XML.
//!
//! Order is kept, so that reading and writing round-trips. Capacities are kilobits per second and
//! packet loss is a fraction, as RSpec v3 has them; latency becomes a [`Duration`], to the
//! microsecond.

use std::net::Ipv4Addr;
use std::time::Duration;

/// One request for a slice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rspec {
    /// The machines of the slice, in the order of the file.
    pub nodes: Vec<Node>,
    /// The links that join them.
    pub links: Vec<Link>,
}

/// One machine of the slice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Its name, unique among the nodes.
    pub client_id: String,
    /// The aggregate that must provide it.
    pub component_manager_id: Option<String>,
    /// Whether the machine must not be shared.
    pub exclusive: Option<bool>,
    /// Kind of machine, such as `emulab-xen` for a virtual one.
    pub sliver_type: Option<String>,
    /// URN of the disk image; written inside the sliver type.
    pub disk_image: Option<String>,
    /// Kind of hardware, such as `m510`.
    pub hardware_type: Option<String>,
    /// Whether the machine gets an address that can be reached from outside (an Emulab extension).
    pub routable_control_ip: bool,
    /// Its ends of links.
    pub interfaces: Vec<Interface>,
    /// What happens when it boots.
    pub services: Services,
}

/// One end of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name, unique among all interfaces of the request.
    pub client_id: String,
    /// Its address; if `None`, the aggregate chooses one.
    pub ip: Option<Ip>,
}

/// An IPv4 address and the length of its network prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// The address of the interface.
    pub address: Ipv4Addr,
    /// Bits of the network part, 0 to 32.
    pub prefix: u8,
}

impl Ip {
    /// The netmask in dotted form.
    pub fn netmask(self) -> Ipv4Addr {
        let bits = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
        Ipv4Addr::from(bits)
    }

    /// The network that the address belongs to.
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) & u32::from(self.netmask()))
    }

    /// Why no host can have this address on a link; `None` if one can.
    pub fn is_no_host(self) -> Option<&'static str> {
        /// Of two hosts on a link each may have either address (RFC 3021).
        const PAIR: u8 = 31;
        /// Addresses from here on are reserved for future use (RFC 1112).
        const RESERVED: u8 = 240;
        let (address, last) = (self.address, !u32::from(self.netmask()));
        let (host, first) = (u32::from(address) & last, address.octets()[0]);
        let reasons = [
            (self.prefix == 0, "in no network: its netmask is empty"),
            (address.is_loopback(), "a host's own and leaves it on no link"),
            (address.is_multicast(), "that of a group of hosts"),
            (first == 0 || first >= RESERVED, "reserved"),
            (self.prefix < PAIR && host == 0, "that of the network and of no host"),
            (self.prefix < PAIR && host == last, "that of all hosts of the network"),
        ];
        reasons.into_iter().find_map(|(is_so, why)| is_so.then_some(why))
    }

    /// The prefix length of a netmask, if all its ones precede its zeros.
    pub fn prefix_of(netmask: Ipv4Addr) -> Option<u8> {
        let bits = u32::from(netmask);
        let ones = bits.leading_ones();
        (bits.count_ones() == ones).then_some(u8::try_from(ones).unwrap_or(32))
    }
}

/// What a node fetches and runs when it boots: every install comes before every execute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// Archives to unpack.
    pub install: Vec<Install>,
    /// Commands to run.
    pub execute: Vec<Execute>,
}

/// An archive that is fetched and extracted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Where it comes from.
    pub url: String,
    /// The directory it is extracted to.
    pub install_path: String,
}

/// A command that is run at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execute {
    /// The shell that reads the command, such as `sh`.
    pub shell: String,
    /// The command line that is run.
    pub command: String,
}

/// A link between two or more interfaces.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Link {
    /// Its name, unique among the links.
    pub client_id: String,
    /// Ids of the interfaces that it joins.
    pub interfaces: Vec<String>,
    /// Capacity, latency and loss, one way each.
    pub properties: Vec<Property>,
    /// Kind of link, such as `lan`.
    pub link_type: Option<String>,
    /// Aggregates that the link runs through.
    pub component_managers: Vec<String>,
}

/// Capacity, delay and loss of the traffic from one interface of a link to another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Property {
    /// Id of the sending interface.
    pub source_id: String,
    /// Id of the receiving interface.
    pub dest_id: String,
    /// Kilobits per second.
    pub capacity: Option<u64>,
    /// One-way delay of every packet.
    pub latency: Option<Duration>,
    /// Share of packets that get lost, 0 to 1.
    pub packet_loss: Option<f64>,
}

impl Rspec {
    /// The node of that name.
    pub fn node(&self, client_id: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.client_id == client_id)
    }

    /// The node that has the interface of that name, and the interface.
    pub fn interface(&self, client_id: &str) -> Option<(&Node, &Interface)> {
        self.nodes.iter().find_map(|node| {
            let found = node.interfaces.iter().find(|interface| interface.client_id == client_id);
            found.map(|interface| (node, interface))
        })
    }
}

impl Link {
    /// The property of the traffic that leaves `source` on this link.
    pub fn property_from(&self, source: &str) -> Option<&Property> {
        self.properties.iter().find(|property| property.source_id == source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netmask_and_prefix_are_inverse() {
        for prefix in 0..=32 {
            let ip = Ip { address: Ipv4Addr::new(10, 10, 1, 2), prefix };
            assert_eq!(Ip::prefix_of(ip.netmask()), Some(prefix));
        }
        assert_eq!(Ip::prefix_of(Ipv4Addr::new(255, 0, 255, 0)), None);
    }
}
