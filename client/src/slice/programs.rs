//! What runs inside a slice: a worker in each `serverN`, the balancer, and one client command.
//!
//! Services are detached from this program, so that they outlive it, and write their logs to the
//! folder of the slice. A node whose service is still running is left alone, so running again
//! revives exactly what was killed; one that runs with other settings than requested is an error.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rspec::{BALANCER, CLIENT, Role, Rspec, WORKER_PORT};

use super::difference;
use super::guard::Guard;
use super::layout::{self, Layout, Node};
use super::record::{self, Record};
use super::started::Started;
use super::{RunArgs, Which, host, lifecycle, report};

/// A node and the command that runs in it.
type Service<'a> = (&'a Node, Vec<String>);

/// Port of the balancer.
const BALANCER_PORT: u16 = 5000;
/// Variable for the time that the balancer allows a worker to answer a probe.
const PROBE_TIMEOUT: &str = "BALANCER_PROBE_TIMEOUT";
/// Loading a model with a quarter of one core takes a while.
const READY_WITHIN: &str = "90s";

/// Builds the slice if it is missing, starts its services, and runs the client command, if any.
pub(crate) async fn run(args: &RunArgs, out: &mut dyn Write) -> Result<ExitCode> {
    let which = &args.up.which;
    if args.up.dry_run {
        lifecycle::up(&args.up, out).await?;
        return Ok(ExitCode::SUCCESS);
    }
    host::check("run")?;
    let programs = Programs::find(args)?;
    if !args.once {
        let record = present(args, out).await?;
        return serve_and_run(args, &programs, &record, out);
    }
    let guard = Guard::take(which)?;
    // Ctrl-C ends the command in the slice; this program lives on to remove the slice.
    let interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let record = present(args, out).await;
    let result = record.and_then(|record| serve_and_run(args, &programs, &record, out));
    drop(interrupts);
    let removed = guard.release();
    let code = result?;
    removed.map(|()| code)
}

/// The slice, built if it is missing.
pub(crate) async fn present(args: &RunArgs, out: &mut dyn Write) -> Result<Record> {
    let which = &args.up.which;
    let found = if Record::exists(which) { Some(Record::read(which)?) } else { None };
    if found.as_ref().is_some_and(|record| !record.is_built) {
        tracing::warn!(slice = which.name, "not finished, so it is built anew");
        lifecycle::down(which).await?;
    }
    let record = match found.filter(|record| record.is_built) {
        Some(record) => {
            difference::refuse(&args.up, &record)?;
            record
        }
        None => lifecycle::up(&args.up, out).await?.expect("this is not a dry run"),
    };
    report::warn(&record);
    Ok(record)
}

/// Runs a client command in a slice of its own: remains of an earlier slice of that name are
/// removed first, and the slice itself afterwards, whatever happens.
pub fn run_once(args: &RunArgs, out: &mut dyn Write) -> Result<ExitCode> {
    let runtime = super::runtime()?;
    host::check("run")?;
    // The lock distinguishes a leftover from a slice in use.
    Guard::take(&args.up.which)?.release()?;
    runtime.block_on(run(args, out))
}

fn serve_and_run(
    args: &RunArgs,
    programs: &Programs,
    record: &Record,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let layout = record.layout()?;
    let target = target(record)?;
    start(args, programs, (record, &layout))?;
    if args.command.is_empty() {
        if !args.once {
            report::serving(&record.name, &target, out)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut command = vec!["env".to_owned(), format!("CLIENT_TARGET={target}")];
    command.push(programs.client.display().to_string());
    command.extend(args.command.iter().cloned());
    lifecycle::run_in(record, CLIENT, &command)
}

/// The URL of the balancer, as seen from the node `client`.
pub(crate) fn target(record: &Record) -> Result<String> {
    Ok(format!("http://{}:{BALANCER_PORT}", balancer_address(&record.rspec)?))
}

/// Words that extend the probe timeout, unless the user has set it: under full load, a worker with
/// a fraction of one core answers a probe that much later without being broken.
fn patience(is_set: bool) -> Vec<String> {
    if is_set { Vec::new() } else { vec!["env".to_owned(), format!("{PROBE_TIMEOUT}=5s")] }
}

/// The address at which the client reaches the balancer.
fn balancer_address(rspec: &str) -> Result<std::net::Ipv4Addr> {
    let rspec = Rspec::parse(rspec)?;
    let balancer = rspec.node(BALANCER).context("the slice has no node `balancer`")?;
    match rspec.node(CLIENT) {
        Some(_) => Ok(rspec.address_towards(balancer, CLIENT)?),
        None => bail!("the slice has no node `client`"),
    }
}

/// Starts the services that are not running, and waits until all are ready.
pub(crate) fn start(
    args: &RunArgs,
    programs: &Programs,
    (record, layout): (&Record, &Layout),
) -> Result<()> {
    let services: Vec<Service<'_>> = layout
        .nodes
        .iter()
        .filter_map(|node| Some((node, programs.service(args, node)?)))
        .map(|(node, command)| (node, on_one_cpu(record, node, command)))
        .collect();
    for (node, command) in stopped(&args.up.which, &services)? {
        let log = record::folder(&args.up.which).join(format!("{}.log", node.name));
        Started::now(node, command, &patience(false)).save(&Started::file(&args.up.which, node))?;
        spawn(record, layout, &node.name, command, &log)?;
    }
    // Workers first: the balancer is ready when one of them is.
    let is_balancer = |node: &Node| node.role == Some(Role::Balancer);
    let (last, first): (Vec<_>, Vec<_>) = services.iter().partition(|(node, _)| is_balancer(node));
    for (node, _) in first.iter().chain(&last) {
        let port = if is_balancer(node) { BALANCER_PORT } else { WORKER_PORT };
        let url = format!("http://127.0.0.1:{port}/v2/health/ready");
        let me = programs.client.display().to_string();
        let wait = [&me, "slice", "wait", &url, "--within", READY_WITHIN].map(str::to_owned);
        let namespace = layout::namespace(&layout.slice, &node.name);
        let status = host::inside(&namespace, None, &wait).status()?;
        ensure!(
            status.success(),
            "node `{}` did not become ready; its log is {}",
            node.name,
            record::folder(&args.up.which).join(format!("{}.log", node.name)).display()
        );
    }
    Ok(())
}

/// The services that are not running; fails if a running one has other settings.
fn stopped<'a, 'b>(which: &Which, services: &'b [Service<'a>]) -> Result<Vec<&'b Service<'a>>> {
    let mut stopped = Vec::new();
    let mut others = Vec::new();
    for service @ (node, command) in services {
        let namespace = layout::namespace(&which.name, &node.name);
        if host::processes(&namespace)?.is_empty() {
            stopped.push(service);
        } else if Started::now(node, command, &patience(false))
            .differs(&Started::file(which, node))?
        {
            others.push(node.name.as_str());
        }
    }
    difference::refuse_services(&which.name, &others)?;
    Ok(stopped)
}

/// Pins each worker whose share is at most one CPU to a single CPU, round-robin. The kernel hands
/// out a quota to each CPU separately: threads on two of them would each miss the other's part.
fn on_one_cpu(record: &Record, node: &Node, command: Vec<String>) -> Vec<String> {
    let (Some(Role::Worker(number)), Some(0.0..=1.0)) = (&node.role, record.worker_cpus) else {
        return command;
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpu = (*number as usize % cores).to_string();
    let mut kept = ["taskset", "-c", &cpu].map(str::to_owned).to_vec();
    kept.extend(command);
    kept
}

/// Starts a command in a node and leaves it running.
fn spawn(
    record: &Record,
    layout: &Layout,
    node: &str,
    command: &[String],
    log: &Path,
) -> Result<()> {
    let file = File::create(log).with_context(|| log.display().to_string())?;
    let mut apart = vec!["setsid".to_owned(), "--fork".to_owned()];
    apart.extend(command.iter().cloned());
    let status = lifecycle::inside(record, layout, node, &apart)?
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("starting {} in {node}", command.join(" ")))?;
    ensure!(
        status.success(),
        "`{}` did not start in {node}: see {}",
        command.join(" "),
        log.display()
    );
    Ok(())
}

/// The programs to run, as absolute paths.
pub(crate) struct Programs {
    pub(crate) client: PathBuf,
    worker: PathBuf,
    balancer: PathBuf,
    models: PathBuf,
    rspec: PathBuf,
}

impl Programs {
    pub(crate) fn find(args: &RunArgs) -> Result<Self> {
        let client = std::env::current_exe().context("finding this program")?;
        let folder = match &args.bin_dir {
            Some(folder) => folder.canonicalize().with_context(|| folder.display().to_string())?,
            None => client.parent().context("this program lies in no folder")?.to_owned(),
        };
        let program = |name: &str| {
            let file = folder.join(name);
            ensure!(
                file.is_file(),
                "there is no `{name}` in {}: build it, or name its folder with --bin-dir",
                folder.display()
            );
            Ok(file)
        };
        let (worker, balancer) = (program("worker")?, program("balancer")?);
        let models = args.models.canonicalize();
        let models = models.with_context(|| format!("models: {}", args.models.display()))?;
        let rspec = std::path::absolute(record::rspec_file(&args.up.which))?;
        Ok(Self { client, worker, balancer, models, rspec })
    }

    /// The command of a node's service; `None` if the node has none.
    fn service(&self, args: &RunArgs, node: &Node) -> Option<Vec<String>> {
        let words: Vec<String> = match node.role? {
            Role::Client => return None,
            Role::Worker(_) => vec![
                self.worker.display().to_string(),
                "serve".to_owned(),
                "--listen".to_owned(),
                format!("0.0.0.0:{WORKER_PORT}"),
                "--models".to_owned(),
                self.models.display().to_string(),
                "--threads".to_owned(),
                args.threads.to_string(),
            ],
            Role::Balancer => {
                let mut words = patience(std::env::var_os(PROBE_TIMEOUT).is_some());
                words.extend([
                    self.balancer.display().to_string(),
                    "--listen".to_owned(),
                    format!("0.0.0.0:{BALANCER_PORT}"),
                    "--rspec".to_owned(),
                    self.rspec.display().to_string(),
                ]);
                words
            }
        };
        Some(words)
    }
}
