//! The output of `client slice`: tables and hints to `out`, warnings to the log.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::layout::{self, Layout, Node};
use super::lifecycle::{self, Removed};
use super::record::Record;
use super::{Status, Which, host};

/// Warns of every property that this kernel could not apply.
pub(crate) fn warn(record: &Record) {
    for property in &record.not_applied {
        tracing::warn!(slice = record.name, property, "not applied: this kernel lacks it");
    }
    if record.not_applied.iter().any(|property| property.starts_with("latency")) {
        tracing::info!("--emulate-latency delays packets in a program, without the kernel");
    }
}

/// Prints what `up` built.
pub(crate) fn built(record: &Record, out: &mut dyn Write) -> Result<()> {
    warn(record);
    let layout = record.layout()?;
    let (nodes, links) = (layout.nodes.len(), layout.links.len());
    writeln!(out, "slice `{}` is up: {nodes} nodes, {links} links", record.name)?;
    if let Some(cpus) = record.worker_cpus {
        writeln!(out, "each of {} workers has {cpus:.3} CPUs", layout.workers())?;
    }
    Ok(())
}

/// Printed after `run` without a command.
pub(crate) fn serving(name: &str, target: &str, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "slice `{name}` serves at {target}, inside the slice. For example:")?;
    writeln!(out, "  client slice run --name {name} -- rtt")?;
    writeln!(out, "  client slice exec --name {name} client -- curl {target}/v2/health/ready")?;
    writeln!(out, "  client slice down --name {name}")?;
    Ok(())
}

/// Prints what `down` removed.
pub(crate) fn removed(which: &Which, removed: &Removed, out: &mut dyn Write) -> Result<()> {
    let Removed { nodes, processes } = removed;
    writeln!(out, "slice `{}`: {nodes} nodes removed, {processes} processes stopped", which.name)?;
    Ok(())
}

#[derive(Serialize)]
struct View<'a> {
    slice: &'a str,
    worker_cpus: Option<f64>,
    not_applied: &'a [String],
    nodes: Vec<NodeView<'a>>,
    links: Vec<LinkView<'a>>,
}

#[derive(Serialize)]
struct NodeView<'a> {
    name: &'a str,
    addresses: Vec<String>,
    processes: Vec<u32>,
}

#[derive(Serialize)]
struct LinkView<'a> {
    name: &'a str,
    ends: Vec<&'a str>,
    up: bool,
    /// Whether its relay is running, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    delayed: Option<bool>,
    capacity_kbps: Option<u64>,
    latency_ms: Option<f64>,
}

/// Prints `slice status`.
pub(crate) fn status(args: &Status, out: &mut dyn Write) -> Result<()> {
    host::check("status")?;
    let record = Record::load(&args.which)?;
    let layout = record.layout()?;
    let view = View {
        slice: &record.name,
        worker_cpus: record.worker_cpus,
        not_applied: &record.not_applied,
        nodes: layout.nodes.iter().map(|node| node_view(&layout, node)).collect(),
        links: (0..layout.links.len())
            .map(|number| link_view(&layout, number))
            .collect::<Result<_>>()?,
    };
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &view)?;
        writeln!(out)?;
        return Ok(());
    }
    table(&view, out)
}

fn node_view<'a>(layout: &Layout, node: &'a Node) -> NodeView<'a> {
    let namespace = layout::namespace(&layout.slice, &node.name);
    NodeView {
        name: &node.name,
        addresses: node.ports.iter().map(|port| port.ip.address.to_string()).collect(),
        // A namespace that is gone has no processes; the link below it shows as down.
        processes: host::processes(&namespace).unwrap_or_default(),
    }
}

fn link_view(layout: &Layout, number: usize) -> Result<LinkView<'_>> {
    let link = &layout.links[number];
    let loose = lifecycle::loose_end(layout, &link.name)?;
    let shaping = layout.port(link.ends[0]).shaping.as_ref();
    Ok(LinkView {
        name: &link.name,
        ends: link.ends.iter().map(|end| layout.nodes[end.node].name.as_str()).collect(),
        up: host::is_up(&loose.namespace, loose.device),
        delayed: layout.relay(number).as_ref().map(lifecycle::is_running),
        capacity_kbps: shaping.and_then(|shaping| shaping.capacity),
        latency_ms: shaping.and_then(|shaping| shaping.latency).map(|it| it.as_secs_f64() * 1e3),
    })
}

fn table(view: &View<'_>, out: &mut dyn Write) -> Result<()> {
    for node in &view.nodes {
        let state = if node.processes.is_empty() { "-" } else { "running" };
        writeln!(out, "{:<12} {state:<8} {}", node.name, node.addresses.join(" "))?;
    }
    for link in &view.links {
        let state = match (link.up, link.delayed) {
            (false, _) => "cut",
            // `heal` restarts the relay.
            (true, Some(false)) => "stalled",
            (true, _) => "up",
        };
        writeln!(out, "{:<12} {state:<8} {}", link.name, link.ends.join(" - "))?;
    }
    for property in view.not_applied {
        writeln!(out, "not applied: {property}")?;
    }
    Ok(())
}
