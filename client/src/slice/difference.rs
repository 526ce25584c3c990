//! How an existing slice differs from the requested one.
//!
//! An existing slice is used as it is. A request for a different one under its name must not
//! silently get this one.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use rspec::{Link, Node, Rspec};

use super::record::Record;
use super::{Up, lifecycle};

/// Fails if the flags differ from the existing slice; flags that are not given do not count.
pub(crate) fn refuse(args: &Up, record: &Record) -> Result<()> {
    let mut differences = Vec::new();
    if let Some(file) = &args.rspec {
        differences = between(&Rspec::parse(&record.rspec)?, &lifecycle::read(file)?);
    }
    if let (Some(asked), Some(has)) = (args.worker_cpus, record.worker_cpus)
        && (asked - has).abs() > 1e-9
    {
        differences.push(format!("workers have {has} CPUs, not {asked}"));
    }
    if args.emulate_latency && !record.emulates_latency {
        differences.push("its latency is not emulated".to_owned());
    }
    if differences.is_empty() {
        return Ok(());
    }
    bail!(
        "slice `{0}` is there and differs from what is asked for: {1}; remove it with `client slice \
         down --name {0}`, or choose another --name",
        record.name,
        differences.join("; ")
    )
}

/// Fails if there are any `nodes`: their services run with other settings than requested.
pub(crate) fn refuse_services(slice: &str, nodes: &[&str]) -> Result<()> {
    if nodes.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = nodes.iter().map(|node| format!("`{node}`")).collect();
    bail!(
        "services of slice `{slice}` run with other settings than are asked for: {}; end each with `client \
         slice kill --name {slice} NODE` and run this again, or remove the slice with `client slice down \
         --name {slice}`",
        names.join(", ")
    )
}

/// The differences in words, per node and per link. Settings meant only for testbeds are ignored.
fn between(has: &Rspec, asked: &Rspec) -> Vec<String> {
    let nodes = |rspec: &Rspec| -> BTreeMap<String, String> {
        rspec.nodes.iter().map(|node| (node.client_id.clone(), addresses(node))).collect()
    };
    let links = |rspec: &Rspec| -> BTreeMap<String, String> {
        rspec.links.iter().map(|link| (link.client_id.clone(), traits(link))).collect()
    };
    let mut found = compared("node", &nodes(has), &nodes(asked));
    found.extend(compared("link", &links(has), &links(asked)));
    found
}

fn compared(
    what: &str,
    has: &BTreeMap<String, String>,
    asked: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (name, mine) in has {
        match asked.get(name) {
            None => found.push(format!("{what} `{name}` is not asked for")),
            Some(theirs) if theirs != mine => {
                found.push(format!("{what} `{name}` has {mine}, not {theirs}"));
            }
            Some(_) => {}
        }
    }
    let missing = asked.keys().filter(|name| !has.contains_key(*name));
    found.extend(missing.map(|name| format!("{what} `{name}` is missing")));
    found
}

fn addresses(node: &Node) -> String {
    let ips = node.interfaces.iter().filter_map(|interface| interface.ip);
    let texts: Vec<String> = ips.map(|ip| format!("{}/{}", ip.address, ip.prefix)).collect();
    if texts.is_empty() { "no address".to_owned() } else { texts.join(" and ") }
}

fn traits(link: &Link) -> String {
    let mut text = link.interfaces.join(" - ");
    for property in &link.properties {
        let capacity = property.capacity.map(|kbps| format!("{kbps} kbit/s"));
        let latency = property.latency.map(|time| humantime::format_duration(time).to_string());
        let loss = property.packet_loss.map(|share| format!("{} % loss", share * 100.0));
        let all: Vec<String> = capacity.into_iter().chain(latency).chain(loss).collect();
        if !all.is_empty() {
            text = format!("{text} ({} {})", property.source_id, all.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rspec::{REPOSITORY, Star, image_class};

    use super::between;

    fn star(workers: u32, capacity: Option<u64>) -> rspec::Rspec {
        let repository = REPOSITORY.to_owned();
        let star = Star { workers, capacity, latency: None, packet_loss: None, repository };
        star.request().expect("valid")
    }

    #[test]
    fn what_is_missing_and_what_is_too_much_is_named() {
        let found = between(&star(1, None), &star(2, None));
        assert!(found.contains(&"node `server2` is missing".to_owned()), "{found:?}");
        let found = between(&star(2, None), &star(1, None));
        assert!(found.contains(&"node `server2` is not asked for".to_owned()), "{found:?}");
    }

    #[test]
    fn another_capacity_is_a_difference_and_the_same_request_is_none() {
        let found = between(&star(1, Some(1000)), &star(1, Some(2000)));
        assert!(found.iter().any(|it| it.contains("1000 kbit/s") && it.contains("2000 kbit/s")));
        assert!(between(&image_class(REPOSITORY), &image_class(REPOSITORY)).is_empty());
    }
}
