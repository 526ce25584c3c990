//! Reads, checks and writes GENI RSpec v3 requests.
//!
//! A request describes a slice: nodes, their interfaces with addresses, and the links that join
//! them. [`Rspec::parse`] reads one and refuses errors that the schema alone lets pass: references
//! to interfaces that do not exist, duplicate ids, links whose ends share no subnet. The error
//! names the line and the element. [`Rspec::to_xml`] writes the same bytes for the same value.
//! Elements of other namespaces are skipped; so are the few of RSpec itself that say nothing about
//! the topology (`location`, `relation`, `component_hop`, `login`).
#![forbid(unsafe_code)]

mod addresses;
mod error;
mod generate;
mod model;
mod parse;
mod references;
mod roles;
mod write;
mod xml;

pub use error::RspecError;
pub use generate::{REPOSITORY, Star, image_class};
pub use model::{Execute, Install, Interface, Ip, Link, Node, Property, Rspec, Services};
pub use roles::{BALANCER, CLIENT, Role, WORKER_PORT, Worker};
