//! `client slice`: the slice of an RSpec on one Linux machine.
//!
//! Every node becomes a network namespace, every link a veth pair with the addresses of the RSpec,
//! and every worker gets a share of CPU, so that four workers are four times as fast as one even on
//! two cores. Everything that is created carries the name of the slice, so `down` finds it without
//! any record; a crash leaves nothing that `down` cannot remove. What the kernel cannot do is
//! reported, never silently skipped.
//!
//! Flow: `layout` (RSpec to namespaces, pure) -> `steps` (commands, pure) -> `host` (runs them),
//! with `cpu` for shares, `programs` for what runs inside and `record` for what is kept.

mod cpu;
mod delay;
mod difference;
mod drawing;
mod generate;
mod guard;
mod host;
mod layout;
mod lifecycle;
mod programs;
mod record;
mod report;
mod site;
mod started;
mod steps;
mod wait;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
pub(crate) use cpu::share;
pub(crate) use generate::capacity as kilobits;
pub(crate) use layout::slice_name;
pub use lifecycle::{cut, down, exec, heal, kill, up};
pub use programs::run_once;
pub(crate) use site::{Impairment, Site, visit};

/// Where the state of slices is kept.
pub const STATE_DIR: &str = "/run/imagefleet";

const EXAMPLES: &str = "\
Examples:
  sudo client slice run                                 six nodes, services started
  sudo client slice exec client -- ping -c 3 10.10.5.1
  sudo client slice run -- reproduce --quick            an experiment from the node `client`
  sudo client slice cut link-0                          server1 loses its link
  sudo client slice heal link-0
  sudo client slice kill server2; sudo client slice run starts it again
  sudo client slice down                                nothing is left
  client slice up --dry-run --draw slice.svg            the commands and a picture, without root
  client slice rspec --workers 8 --capacity 100mbps --latency 1ms > my.rspec
  sudo client slice run --rspec my.rspec --emulate-latency

BALANCER_… and WORKER_… variables reach the programs: BALANCER_POLICY=p2c client slice run";

/// The commands of `client slice`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Build the nodes and links.
    Up(Up),
    /// Build what is missing, start the services, then run a client command in the node `client`.
    Run(RunArgs),
    /// Run a command in a node.
    Exec(Exec),
    /// Show nodes, addresses, processes and links.
    Status(Status),
    /// Take a link away, as if its cable were cut.
    Cut(OneLink),
    /// Bring a link back.
    Heal(OneLink),
    /// Kill everything that runs in a node, without warning.
    Kill(OneNode),
    /// Stop everything and remove every trace.
    Down(Which),
    /// Write the RSpec of a slice of any size.
    Rspec(generate::Args),
    /// Wait until a URL answers 200.
    #[command(hide = true)]
    Wait(wait::Args),
    /// Delay the frames that pass between two devices.
    #[command(hide = true)]
    Delay(delay::Args),
}

/// Which slice, where there are several.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Name of the slice: letters, digits and dashes.
    #[arg(
        long,
        env = "CLIENT_SLICE_NAME",
        default_value = "slice",
        value_parser = layout::slice_name
    )]
    pub name: String,
    /// Where the record of the slice and the logs of its programs are kept.
    #[arg(long, env = "CLIENT_SLICE_STATE", default_value = STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
}

/// Arguments of `slice up`.
#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The RSpec; default: the original slice of six nodes.
    #[arg(long, env = "CLIENT_SLICE_RSPEC", value_name = "FILE")]
    pub rspec: Option<PathBuf>,
    /// CPUs of each worker, such as 0.25; default: they share a quarter of the machine.
    #[arg(long, env = "CLIENT_SLICE_WORKER_CPUS", value_parser = cpu::share, value_name = "CPUS")]
    pub worker_cpus: Option<f64>,
    /// Delay packets in a program, as far as the RSpec asks for latency, instead of in the kernel
    /// (netem), which not every kernel supports.
    #[arg(long, env = "CLIENT_SLICE_EMULATE_LATENCY", value_parser = BoolishValueParser::new())]
    pub emulate_latency: bool,
    /// Print the commands and do nothing; needs no root.
    #[arg(long, env = "CLIENT_SLICE_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub dry_run: bool,
    /// Also write a picture of the slice here, as SVG: nodes, links, addresses, capacities.
    #[arg(long, env = "CLIENT_SLICE_DRAW", value_name = "FILE")]
    pub draw: Option<PathBuf>,
}

/// Arguments of `slice run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub(crate) up: Up,
    /// Model repository of the workers.
    #[arg(long, env = "WORKER_MODELS", default_value = "models", value_name = "DIR")]
    pub models: PathBuf,
    /// Model threads of each worker.
    #[arg(long, env = "WORKER_THREADS", default_value_t = 1)]
    pub threads: usize,
    /// Where `worker` and `balancer` are; default: beside this program.
    #[arg(long, env = "CLIENT_SLICE_BIN_DIR", value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Remove the slice when the command has ended, also if this program is killed.
    #[arg(long, env = "CLIENT_SLICE_ONCE", value_parser = BoolishValueParser::new())]
    pub once: bool,
    /// A command of this program to run in the node `client`, such as `rtt` or `reproduce --quick`.
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// Flags of a command that builds its own slice, runs in it and removes it.
#[derive(Debug, Clone, Args)]
pub struct OwnSlice {
    /// The RSpec of the slice; default: the original slice of six nodes.
    #[arg(long, env = "CLIENT_SLICE_RSPEC", value_name = "FILE", help_heading = "Slice")]
    pub rspec: Option<PathBuf>,
    /// CPUs of each worker, such as 0.25; default: they share a quarter of the machine.
    #[arg(long, env = "CLIENT_SLICE_WORKER_CPUS", value_parser = share,
          value_name = "CPUS", help_heading = "Slice")]
    pub worker_cpus: Option<f64>,
    /// Delay packets in a program, as far as the RSpec asks for latency, instead of in the kernel.
    #[arg(long, env = "CLIENT_SLICE_EMULATE_LATENCY", value_parser = BoolishValueParser::new(),
          help_heading = "Slice")]
    pub emulate_latency: bool,
    /// Where `worker` and `balancer` are; default: beside this program.
    #[arg(long, env = "CLIENT_SLICE_BIN_DIR", value_name = "DIR", help_heading = "Slice")]
    pub bin_dir: Option<PathBuf>,
}

impl OwnSlice {
    /// The arguments to build the slice and run `command` in it; its workers serve `models`.
    pub fn run(&self, name: &str, models: &Path, command: Vec<String>) -> RunArgs {
        RunArgs {
            up: Up {
                which: Which { name: name.to_owned(), state_dir: STATE_DIR.into() },
                rspec: self.rspec.clone(),
                worker_cpus: self.worker_cpus,
                emulate_latency: self.emulate_latency,
                dry_run: false,
                draw: None,
            },
            models: models.to_owned(),
            threads: 1,
            bin_dir: self.bin_dir.clone(),
            once: true,
            command,
        }
    }
}

/// Arguments of `slice exec`.
#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Name of the node.
    pub node: String,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Arguments of `slice status`.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub(crate) which: Which,
    /// JSON instead of a table.
    #[arg(long, env = "CLIENT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
}

/// Arguments of `slice cut` and `slice heal`.
#[derive(Debug, Args)]
pub struct OneLink {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Name of the link, such as `link-0`.
    pub link: String,
}

/// Arguments of `slice kill`.
#[derive(Debug, Args)]
pub struct OneNode {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Name of the node, such as `server1`.
    pub node: String,
}

/// Runs one command of `client slice`; results go to `out`, and the exit status of a command that
/// runs in a node is passed through.
pub fn run(command: &Command, out: &mut dyn Write) -> Result<ExitCode> {
    runtime()?.block_on(dispatch(command, out))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn dispatch(command: &Command, out: &mut dyn Write) -> Result<ExitCode> {
    match command {
        Command::Up(args) => {
            let record = up(args, out).await?;
            if let Some(record) = record {
                report::built(&record, out)?;
            }
        }
        Command::Run(args) => return programs::run(args, out).await,
        Command::Exec(args) => return exec(args),
        Command::Status(args) => report::status(args, out)?,
        Command::Cut(args) => cut(args)?,
        Command::Heal(args) => heal(args)?,
        Command::Kill(args) => kill(args)?,
        Command::Down(which) => report::removed(which, &down(which).await?, out)?,
        Command::Rspec(args) => generate::run(args, out)?,
        Command::Wait(args) => wait::run(args, out).await?,
        Command::Delay(args) => delay::run(args, out)?,
    }
    Ok(ExitCode::SUCCESS)
}
