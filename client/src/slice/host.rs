//! Runs commands on this machine and reports what went wrong in their own words.
//!
//! Uses only the tools that every distribution has. Checks first that `ip` and `tc` are installed
//! and that we are root, so that nothing is half built for a foreseeable reason.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::layout;
use super::steps::Step;

/// Fails with advice where `client slice` cannot work.
pub(crate) fn check(action: &str) -> Result<()> {
    ensure!(
        cfg!(target_os = "linux"),
        "client slice {action} needs Linux: it is made of network namespaces"
    );
    ensure!(
        is_root(),
        "client slice {action} needs root, because it makes network namespaces, links and \
         cgroups: run it with sudo. `client slice up --dry-run` shows the commands without."
    );
    ["ip", "tc"].into_iter().try_for_each(|tool| check_tool(tool, "iproute2"))
}

/// Fails with advice where a tool is missing.
pub(crate) fn check_tool(tool: &str, package: &str) -> Result<()> {
    let found = Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ensure!(found.is_ok(), "`{tool}` is not installed (Debian and Ubuntu: apt install {package})");
    Ok(())
}

/// Whether the effective user is root.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// Runs a step. `Ok(Some(…))` is a property that this kernel cannot apply.
pub(crate) fn run(step: &Step) -> Result<Option<String>> {
    if step.goes_on {
        return start(step).with_context(|| format!("`{step}`")).map(|()| None);
    }
    match output(Command::new(step.program).args(&step.args)) {
        Ok(_) => Ok(None),
        Err(error) => match &step.property {
            Some(property) if lacks_qdisc(&error.to_string()) => Ok(instead(step, property)),
            _ => Err(error.context(format!("`{step}`"))),
        },
    }
}

/// Starts a step that continues in the background, and waits until it reports that it is ready.
fn start(step: &Step) -> Result<()> {
    let mut command = Command::new(step.program);
    let command = command.args(&step.args).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut said)?;
    }
    let status = child.wait()?;
    if status.success() && !said.is_empty() {
        return Ok(());
    }
    // It has ended, or it would have printed something.
    let mut problem = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut problem)?;
    }
    bail!("{}", problem.trim())
}

/// Runs the fallback of a step that this kernel cannot do, and returns what is lost.
fn instead(step: &Step, property: &str) -> Option<String> {
    let Some(otherwise) = &step.otherwise else { return Some(property.to_owned()) };
    for step in &otherwise.steps {
        if let Err(error) = output(Command::new(step.program).args(&step.args)) {
            tracing::warn!("{property}: {error:#}");
            return Some(property.to_owned());
        }
    }
    otherwise.property.clone()
}

fn lacks_qdisc(message: &str) -> bool {
    message.contains("qdisc kind is unknown") || message.contains("qdisc not found")
}

/// Runs a command to its end and returns its output.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("{program} cannot run"))?;
    if !status.success() {
        bail!("{}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// The namespaces of a slice.
pub(crate) fn namespaces(slice: &str) -> Result<Vec<String>> {
    let prefix = layout::namespace_prefix(slice);
    let list = output(Command::new("ip").args(["netns", "list"]))?;
    Ok(list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with(&prefix))
        .map(str::to_owned)
        .collect())
}

/// Removes a namespace and all devices in it.
pub(crate) fn remove_namespace(name: &str) -> Result<()> {
    output(Command::new("ip").args(["netns", "delete", name])).map(drop)
}

/// The processes that run in a namespace.
pub(crate) fn processes(namespace: &str) -> Result<Vec<u32>> {
    let list = output(Command::new("ip").args(["netns", "pids", namespace]))?;
    Ok(list.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// Whether a device is up.
pub(crate) fn is_up(namespace: &str, device: &str) -> bool {
    let shown = output(Command::new("ip").args(["-n", namespace, "link", "show", "dev", device]));
    let flags = shown.ok().and_then(|text| {
        Some(text.split_once('<')?.1.split_once('>')?.0.split(',').any(|flag| flag == "UP"))
    });
    flags.unwrap_or(false)
}

/// Kills processes immediately. One that has already ended is no error.
pub(crate) fn kill(processes: &[u32]) {
    if !processes.is_empty() {
        let mut command = Command::new("sh");
        command.args(["-c", "kill -KILL \"$@\"", "kill"]);
        command.args(processes.iter().map(u32::to_string));
        // The only possible failure is that a process is already gone, which is the goal.
        let _gone = output(&mut command);
    }
}

/// A command that will run in `namespace` and, if given, as a member of the cgroup whose
/// `cgroup.procs` is `members`.
pub(crate) fn inside(namespace: &str, members: Option<&Path>, command: &[String]) -> Command {
    let mut inside = Command::new("sh");
    // The shell joins the cgroup itself and is then replaced by the command.
    inside.arg("-c").arg("[ -z \"$0\" ] || echo $$ > \"$0\" && exec ip netns exec \"$@\"");
    inside.arg(members.unwrap_or_else(|| Path::new(""))).arg(namespace).args(command);
    inside
}
