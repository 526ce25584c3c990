//! A slice for a single experiment, which changes it from outside while programs run in it.

use std::cell::Cell;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rspec::{BALANCER, CLIENT, Role};
use tokio::runtime::Runtime;

use super::guard::Guard;
use super::layout::{self, End, Layout};
use super::programs::{self, Programs};
use super::record::Record;
use super::{RunArgs, host, lifecycle, steps};

/// How a link is impaired, beyond what its request specifies.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Impairment {
    /// Share of packets lost in each direction.
    pub(crate) loss: f64,
    /// Capacity in place of the requested one.
    pub(crate) capacity_kbps: Option<u64>,
}

/// The slice, with its services running.
pub(crate) struct Site<'a> {
    args: &'a RunArgs,
    programs: Programs,
    runtime: Runtime,
    guard: Guard,
    /// Share of packets lost on the client's link, beyond what the request specifies.
    lost: Cell<f64>,
    layout: Layout,
    pub(crate) record: Record,
    /// The URL of the balancer, as seen from the node `client`.
    pub(crate) target: String,
}

/// Builds the slice and starts its services. It is removed when this is closed or the program ends.
pub(crate) fn visit(args: &RunArgs) -> Result<Site<'_>> {
    host::check("run")?;
    let programs = Programs::find(args)?;
    let runtime = super::runtime()?;
    // The lock distinguishes a leftover, which is removed, from a slice in use.
    Guard::take(&args.up.which)?.release()?;
    let guard = Guard::take(&args.up.which)?;
    let record = runtime.block_on(programs::present(args, &mut std::io::sink()))?;
    let layout = record.layout()?;
    let target = programs::target(&record)?;
    programs::start(args, &programs, (&record, &layout))?;
    Ok(Site { args, programs, runtime, guard, lost: Cell::new(0.0), layout, record, target })
}

impl Site<'_> {
    /// Runs a client command in the node `client` to its end.
    pub(crate) fn client(&self, words: &[String]) -> Result<Output> {
        self.start(words)?.wait_with_output().context("waiting for a command")
    }

    /// Starts a client command in the node `client`.
    pub(crate) fn start(&self, words: &[String]) -> Result<Child> {
        let mut command = vec!["env".to_owned(), format!("CLIENT_TARGET={}", self.target)];
        command.push(format!("CLIENT_WITHIN_SLICE={}", self.record));
        command.push(self.programs.client.display().to_string());
        command.extend(words.iter().cloned());
        let mut inside = lifecycle::inside(&self.record, &self.layout, CLIENT, &command)?;
        // Only its own flags apply, not the variables of this program.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CLIENT_") {
                inside.env_remove(name);
            }
        }
        let inside = inside.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        inside.spawn().with_context(|| format!("starting {}", words.join(" ")))
    }

    /// How long it takes to open a connection to the balancer, at best.
    pub(crate) fn round_trip(&self) -> Result<Duration> {
        let words = ["slice", "wait", "--best-of", "50"].map(str::to_owned).to_vec();
        let url = format!("{}/v2/health/live", self.target);
        let output = self.client(&[words, vec![url]].concat())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let micros = text.trim().parse().ok();
        let stderr = || String::from_utf8_lossy(&output.stderr).into_owned();
        micros.map(Duration::from_micros).with_context(stderr)
    }

    /// The workers, in the order of their numbers.
    pub(crate) fn workers(&self) -> Vec<&str> {
        let number = |node: &layout::Node| match node.role {
            Some(Role::Worker(number)) => Some(number),
            Some(Role::Balancer | Role::Client) | None => None,
        };
        let nodes = self.layout.nodes.iter();
        let mut workers: Vec<_> =
            nodes.filter_map(|node| Some((number(node)?, node.name.as_str()))).collect();
        workers.sort_unstable();
        workers.into_iter().map(|(_, name)| name).collect()
    }

    /// The link between the node `client` and the balancer.
    pub(crate) fn client_link(&self) -> Result<String> {
        let has = |ends: &[End], name: &str| {
            ends.iter().any(|end| self.layout.nodes[end.node].name == name)
        };
        let mut links = self.layout.links.iter();
        let found = links.find(|link| has(&link.ends, CLIENT) && has(&link.ends, BALANCER));
        let found = found.or_else(|| self.layout.links.iter().find(|link| has(&link.ends, CLIENT)));
        Ok(found.context("the node `client` has no link")?.name.clone())
    }

    /// Makes a link lose packets, or carry less, in both directions, from now on.
    pub(crate) fn impair(&self, link: &str, impairment: &Impairment) -> Result<()> {
        let Some(link) = self.layout.links.iter().find(|candidate| candidate.name == link) else {
            bail!("there is no link `{link}`");
        };
        if impairment.loss > 0.0 {
            host::check_tool("iptables", "iptables")?;
        }
        for &end in &link.ends {
            let node = &self.layout.nodes[end.node];
            let port = self.layout.port(end);
            let space = layout::namespace(&self.layout.slice, &node.name);
            let lost = Some(self.lost.get()).filter(|lost| *lost > 0.0);
            let kept = lost.map(|lost| steps::keep(&space, &port.device, lost));
            for step in kept.into_iter().chain(steps::impair(&space, node, port, impairment)) {
                if let Some(missing) = host::run(&step)? {
                    bail!("this kernel lacks what is needed: {missing}");
                }
            }
        }
        self.lost.set(impairment.loss);
        Ok(())
    }

    /// Kills everything that runs in a node.
    pub(crate) fn kill(&self, node: &str) -> Result<()> {
        let namespace = layout::namespace(&self.layout.slice, node);
        host::kill(&host::processes(&namespace)?);
        Ok(())
    }

    /// Restarts what was killed, and waits until it is ready.
    pub(crate) fn revive(&self) -> Result<()> {
        programs::start(self.args, &self.programs, (&self.record, &self.layout))
    }

    /// Leaves the slice alone for a while.
    pub(crate) fn sleep(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Removes the slice, and reports if that fails.
    pub(crate) fn close(self) -> Result<()> {
        self.guard.release()
    }
}
