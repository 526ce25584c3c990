//! Builds, disturbs and removes a slice.
//!
//! `up` is all or nothing: if a step fails, everything made so far is removed again. `down` removes
//! whatever carries the name of the slice, whether or not it was finished or recorded.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use rspec::{REPOSITORY, Role, Rspec, image_class};

use super::cpu::{self, Hierarchy};
use super::layout::{self, Layout};
use super::record::{self, Record};
use super::{Exec, OneLink, OneNode, Up, Which, drawing, host, steps};
use crate::error::Error;
use crate::input;

/// What `down` found and removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Nodes that were removed.
    pub nodes: usize,
    /// Processes that were ended.
    pub processes: usize,
}

/// Builds a slice. In a dry run, only prints the commands and returns `None`.
pub async fn up(args: &Up, out: &mut dyn Write) -> Result<Option<Record>> {
    let rspec = match &args.rspec {
        None => image_class(REPOSITORY),
        Some(file) => read(file)?,
    };
    let layout = Layout::new(&args.which.name, &rspec)?;
    let layout = if args.emulate_latency { layout.with_latency_emulated() } else { layout };
    let client = this_program()?;
    if let Some(file) = &args.draw {
        fs::write(file, drawing::svg(&layout)).with_context(|| file.display().to_string())?;
    }
    if args.dry_run {
        for step in steps::build(&layout, &client) {
            writeln!(out, "{step}")?;
        }
        return Ok(None);
    }
    host::check("up")?;
    if Record::exists(&args.which) || !host::namespaces(&layout.slice)?.is_empty() {
        bail!(
            "slice `{0}` is already there; remove it with `client slice down --name {0}`",
            layout.slice
        );
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let worker_cpus = args.worker_cpus.unwrap_or_else(|| cpu::fair_share(cores, layout.workers()));
    let mut record = Record {
        name: layout.slice.clone(),
        rspec: rspec.to_xml(),
        worker_cpus: Some(worker_cpus),
        emulates_latency: args.emulate_latency,
        not_applied: Vec::new(),
        is_built: false,
    };
    record.save(&args.which)?;
    match build(&layout, &client, &mut record).and_then(|()| record.save(&args.which)) {
        Ok(()) => Ok(Some(record)),
        Err(error) => {
            let undone = down(&args.which).await;
            undone.context("removing what was built before the error")?;
            Err(error)
        }
    }
}

/// Reads the request in a file, and adds an address to every end of a link without one.
pub(crate) fn read(file: &Path) -> Result<Rspec> {
    let shown = || file.display().to_string();
    let text = input::read_text(file, input::SMALL)?;
    let rspec = Rspec::parse(&text).and_then(|rspec| rspec.with_addresses());
    let rspec = rspec.with_context(shown)?;
    if rspec.nodes.is_empty() {
        return Err(Error::Usage(format!("{}: a request without a node", shown())).into());
    }
    Ok(rspec)
}

fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("finding this program")
}

fn build(layout: &Layout, client: &Path, record: &mut Record) -> Result<()> {
    for step in steps::build(layout, client) {
        record.not_applied.extend(host::run(&step)?);
    }
    let Some(hierarchy) = Hierarchy::detect() else {
        record.not_applied.push("CPU shares: the kernel has no cpu controller".to_owned());
        record.worker_cpus = None;
        record.is_built = true;
        return Ok(());
    };
    for node in &layout.nodes {
        let cpus = match node.role {
            Some(Role::Worker(_)) => record.worker_cpus,
            Some(Role::Balancer | Role::Client) | None => None,
        };
        hierarchy.create(&layout.slice, &node.name, cpus)?;
    }
    record.is_built = true;
    Ok(())
}

/// Removes everything that carries the name of the slice.
pub async fn down(which: &Which) -> Result<Removed> {
    host::check("down")?;
    let mut removed = Removed::default();
    // If this is interrupted, what remains must not count as a slice.
    if let Ok(record) = Record::read(which)
        && let Err(error) = (Record { is_built: false, ..record }).save(which)
    {
        tracing::warn!("{error:#}");
    }
    let hierarchy = Hierarchy::detect().filter(|hierarchy| hierarchy.holds(&which.name));
    for namespace in host::namespaces(&which.name)? {
        let processes = host::processes(&namespace)?;
        host::kill(&processes);
        host::remove_namespace(&namespace)?;
        if !layout::is_of_link(&which.name, &namespace) {
            removed.nodes += 1;
            removed.processes += processes.len();
        }
    }
    if let Some(hierarchy) = hierarchy {
        let stray = hierarchy.processes(&which.name);
        host::kill(&stray);
        hierarchy.remove(&which.name).await?;
    }
    let folder = record::folder(which);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(removed),
    }
}

/// Runs a command in a node, on the terminal of this program, and passes its exit status through.
pub fn exec(args: &Exec) -> Result<ExitCode> {
    host::check("exec")?;
    run_in(&Record::load(&args.which)?, &args.node, &args.command)
}

/// Runs a command in a node of a slice to its end.
pub(crate) fn run_in(record: &Record, node: &str, command: &[String]) -> Result<ExitCode> {
    let status = inside(record, &record.layout()?, node, command)?
        .env("CLIENT_WITHIN_SLICE", record.to_string())
        .status()
        .with_context(|| format!("running {} in {node}", command.join(" ")))?;
    Ok(ExitCode::from(code_of(status)))
}

/// The exit code of a command; if a signal ended it, the code that a shell would report.
fn code_of(status: std::process::ExitStatus) -> u8 {
    const SIGNALLED: i32 = 128;
    #[cfg(unix)]
    let by_signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let by_signal = None;
    let code = status.code().or(by_signal.map(|number: i32| SIGNALLED + number));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// A command that will run in a node, within its share of CPU.
pub(crate) fn inside(
    record: &Record,
    layout: &Layout,
    node: &str,
    command: &[String],
) -> Result<std::process::Command> {
    let is_worker = matches!(layout.node(node)?.role, Some(Role::Worker(_)));
    let members = Hierarchy::detect().map(|hierarchy| hierarchy.members(&layout.slice, node));
    let members = members.filter(|file| file.exists());
    if is_worker && record.worker_cpus.is_some() && members.is_none() {
        bail!(
            "the control group that limits the CPU of node `{node}` is gone; remove the slice with `client \
             slice down --name {}`",
            record.name
        );
    }
    let namespace = layout::namespace(&layout.slice, node);
    Ok(host::inside(&namespace, members.as_deref(), command))
}

/// Cuts a link: the end with fewer links goes down, and the other side receives nothing more.
pub fn cut(args: &OneLink) -> Result<()> {
    host::check("cut")?;
    let layout = Record::load(&args.which)?.layout()?;
    let loose = loose_end(&layout, &args.link)?;
    host::run(&steps::cut(&loose.namespace, loose.device)).map(drop)
}

/// Brings a link back, along with its relay.
pub fn heal(args: &OneLink) -> Result<()> {
    host::check("heal")?;
    let layout = Record::load(&args.which)?.layout()?;
    let loose = loose_end(&layout, &args.link)?;
    for step in steps::heal(&layout.slice, &loose.namespace, loose.device, loose.node) {
        host::run(&step)?;
    }
    let number = layout.links.iter().position(|link| link.name == args.link);
    let relay = number.and_then(|number| layout.relay(number));
    if let Some(relay) = relay.filter(|relay| !is_running(relay)) {
        host::run(&steps::delay(&relay, &this_program()?))?;
    }
    Ok(())
}

/// Whether the relay of a link is running.
pub(crate) fn is_running(relay: &layout::Relay) -> bool {
    host::processes(&relay.namespace).is_ok_and(|processes| !processes.is_empty())
}

/// The device of a link that is taken down to cut it.
pub(crate) struct Loose<'a> {
    pub(crate) namespace: String,
    pub(crate) device: &'a str,
    /// The node whose routes are lost with it.
    pub(crate) node: Option<&'a layout::Node>,
}

/// What to take down to cut a link. At the leaf of a star, the far side loses its carrier but keeps
/// its route, so its packets vanish as they would in a cut cable. For a LAN, it is the bridge.
pub(crate) fn loose_end<'a>(layout: &'a Layout, link: &str) -> Result<Loose<'a>> {
    let Some(number) = layout.links.iter().position(|candidate| candidate.name == link) else {
        let names: Vec<&str> = layout.links.iter().map(|link| link.name.as_str()).collect();
        bail!("there is no link `{link}`; the slice has {}", names.join(", "));
    };
    if let Some(bridge) = layout.bridge(number) {
        return Ok(Loose { namespace: bridge.namespace, device: bridge.device, node: None });
    }
    let ports = |end: &&layout::End| layout.nodes[end.node].ports.len();
    let end = *layout.links[number].ends.iter().min_by_key(ports).context("a link has ends")?;
    let node = &layout.nodes[end.node];
    let namespace = layout::namespace(&layout.slice, &node.name);
    Ok(Loose { namespace, device: &layout.port(end).device, node: Some(node) })
}

/// Kills everything that runs in a node.
pub fn kill(args: &OneNode) -> Result<()> {
    host::check("kill")?;
    let layout = Record::load(&args.which)?.layout()?;
    layout.node(&args.node)?;
    host::kill(&host::processes(&layout::namespace(&layout.slice, &args.node))?);
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::{code_of, inside};
    use crate::slice::record::Record;

    #[test]
    fn a_worker_without_the_limit_that_its_slice_has_runs_nothing() {
        let mut record = Record {
            name: "never-built".to_owned(),
            rspec: rspec::image_class(rspec::REPOSITORY).to_xml(),
            worker_cpus: Some(0.25),
            emulates_latency: false,
            not_applied: Vec::new(),
            is_built: true,
        };
        let layout = record.layout().expect("fits");
        let command = ["true".to_owned()];
        let refused = inside(&record, &layout, "server1", &command).expect_err("no limit");
        assert!(refused.to_string().contains("node `server1` is gone"), "{refused}");
        assert!(inside(&record, &layout, "client", &command).is_ok(), "the client has none");
        record.worker_cpus = None;
        assert!(inside(&record, &layout, "server1", &command).is_ok(), "nor has any worker");
    }

    #[test]
    fn a_command_that_a_signal_ended_has_the_code_that_a_shell_gives_it() {
        let (exited, killed) = (ExitStatus::from_raw(7 << 8), ExitStatus::from_raw(9));
        assert_eq!([code_of(exited), code_of(killed)], [7, 137]);
    }
}
