//! Requests for slices of any size, in the shape of the original one.
//!
//! A star: the balancer in the middle, with a separate link to each worker and to the client. Link
//! `i` is the network `10.10.i.0/24`, with the worker at `.1` and the balancer at `.2`; the
//! client's link comes last, with the balancer at `.1` and the client at `.2`. Beyond 250 links the
//! numbering continues in `10.11.0.0`, `10.12.0.0` and so on.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::RspecError;
use crate::model::{Execute, Install, Interface, Ip, Link, Node, Property, Rspec, Services};
use crate::roles::{BALANCER, CLIENT};

/// PLACEHOLDER for the public address of this repository: a node fetches the code from here.
///
/// This is the only place that names it; `client slice rspec --repository URL` writes another one.
pub const REPOSITORY: &str = "https://example.org/imagefleet";

const SLIVER_TYPE: &str = "emulab-xen";
const DISK_IMAGE: &str = "urn:publicid:IDN+emulab.net+image+emulab-ops//UBUNTU22-64-STD";
/// Where the install service unpacks the code, whatever the archive calls its top folder.
const SOURCE: &str = "/local/source";
/// Where a repository-based profile clones the code before any service runs.
const CLONE: &str = "/local/repository";

/// The most workers that fit in the numbering of the networks.
const MAX_WORKERS: u32 = 10_000;
const LINKS_PER_BLOCK: u32 = 250;

/// The size and the links of a slice to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Star {
    /// How many workers, 1 to 10,000.
    pub workers: u32,
    /// Kilobits per second of every link, each way; unlimited if `None`.
    pub capacity: Option<u64>,
    /// One-way delay of every link.
    pub latency: Option<Duration>,
    /// Share of packets that every link loses.
    pub packet_loss: Option<f64>,
    /// Where the nodes fetch the code from, such as [`REPOSITORY`].
    pub repository: String,
}

/// The slice of the original experiment: four workers, and links without any limits.
#[expect(clippy::missing_panics_doc, reason = "four workers always fit")]
pub fn image_class(repository: &str) -> Rspec {
    let star = Star {
        workers: 4,
        capacity: None,
        latency: None,
        packet_loss: None,
        repository: repository.to_owned(),
    };
    star.request().expect("four workers fit")
}

impl Star {
    /// The request for this slice.
    pub fn request(&self) -> Result<Rspec, RspecError> {
        if !(1..=MAX_WORKERS).contains(&self.workers) {
            let workers = self.workers;
            return Err(RspecError::Role(format!(
                "{workers} workers were asked for; 1 to {MAX_WORKERS} can be numbered"
            )));
        }
        let mut balancer = self.node(BALANCER, "balancer");
        // The others stay off the internet: workers obey every caller.
        balancer.routable_control_ip = true;
        let mut rspec = Rspec::default();
        for index in 0..self.workers {
            let mut worker = self.node(&format!("server{}", index + 1), "worker");
            let ends = [interface(2 * index, index, 1), interface(2 * index + 1, index, 2)];
            rspec.links.push(self.link(index, &ends));
            let [own, far] = ends;
            worker.interfaces.push(own);
            balancer.interfaces.push(far);
            rspec.nodes.push(worker);
        }
        let last = self.workers;
        let mut client = self.node(CLIENT, "client");
        let ends = [interface(2 * last + 1, last, 2), interface(2 * last, last, 1)];
        rspec.links.push(self.link(last, &ends));
        let [own, far] = ends;
        client.interfaces.push(own);
        balancer.interfaces.push(far);
        rspec.nodes.insert(0, balancer);
        rspec.nodes.push(client);
        rspec.check()?;
        Ok(rspec)
    }

    fn node(&self, name: &str, role: &str) -> Node {
        Node {
            client_id: name.to_owned(),
            sliver_type: Some(SLIVER_TYPE.to_owned()),
            disk_image: Some(DISK_IMAGE.to_owned()),
            services: self.services(role),
            ..Node::default()
        }
    }

    /// The code reaches a node as an archive, or by the clone of a repository-based profile; the
    /// command takes whichever is there.
    fn services(&self, role: &str) -> Services {
        let repository = self.repository.trim_end_matches('/');
        let command = format!(
            "for it in {CLONE}/scripts/install.sh {SOURCE}/*/scripts/install.sh; \
             do test -x $it && exec sudo $it {role}; done; exit 1"
        );
        Services {
            install: vec![Install {
                url: format!("{repository}/archive/refs/heads/main.tar.gz"),
                install_path: SOURCE.to_owned(),
            }],
            execute: vec![Execute { shell: "sh".to_owned(), command }],
        }
    }

    fn link(&self, index: u32, ends: &[Interface; 2]) -> Link {
        let ids = ends.each_ref().map(|end| end.client_id.clone());
        let mut link = Link {
            client_id: format!("link-{index}"),
            interfaces: ids.to_vec(),
            ..Link::default()
        };
        if self.capacity.is_some() || self.latency.is_some() || self.packet_loss.is_some() {
            let [first, second] = ids;
            link.properties =
                vec![self.property(first.clone(), second.clone()), self.property(second, first)];
        }
        link
    }

    fn property(&self, source_id: String, dest_id: String) -> Property {
        Property {
            source_id,
            dest_id,
            capacity: self.capacity,
            latency: self.latency,
            packet_loss: self.packet_loss,
        }
    }
}

/// Interface `id` at host number `host` of the network of link `index`.
fn interface(id: u32, index: u32, host: u8) -> Interface {
    let octet = |value: u32| u8::try_from(value).expect("MAX_WORKERS keeps octets below 256");
    let (block, within) = (index / LINKS_PER_BLOCK, index % LINKS_PER_BLOCK);
    let address = Ipv4Addr::new(10, octet(10 + block), octet(within + 1), host);
    Interface { client_id: format!("interface-{id}"), ip: Some(Ip { address, prefix: 24 }) }
}
