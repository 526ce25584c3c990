//! `reproduce --slice`: the same command again, inside a slice that is made for it and removed.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::BoolishValueParser;

use super::Args;
use crate::error::Error;
use crate::slice::{self, RunArgs, Up, Which};

/// Flags of the slice.
#[derive(Debug, Clone, clap::Args)]
pub struct InSlice {
    /// Build a slice on this machine, start balancer and workers in it, measure from its node
    /// `client`, and remove it. Needs root.
    #[arg(long, env = "CLIENT_SLICE", value_parser = BoolishValueParser::new(), help_heading = "Slice")]
    pub slice: bool,
    /// The RSpec of the slice; default: the original slice of six nodes.
    #[arg(long, env = "CLIENT_SLICE_RSPEC", value_name = "FILE", help_heading = "Slice")]
    pub rspec: Option<PathBuf>,
    /// CPUs of each worker, such as 0.25; default: they share a quarter of the machine.
    #[arg(long, env = "CLIENT_SLICE_WORKER_CPUS", value_parser = slice::share,
          value_name = "CPUS", help_heading = "Slice")]
    pub worker_cpus: Option<f64>,
    /// Where `worker` and `balancer` are; default: beside this program.
    #[arg(long, env = "CLIENT_SLICE_BIN_DIR", value_name = "DIR", help_heading = "Slice")]
    pub bin_dir: Option<PathBuf>,
}

impl Args {
    /// Whether a slice has to be built first. Inside it the same flags mean no further one.
    pub(super) fn wants_slice(&self) -> bool {
        self.in_slice.slice && self.options.within_slice.is_none()
    }

    /// Runs this program's own command line in a new slice.
    pub(super) fn run_in_slice(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        if self.options.target.is_elsewhere() {
            return Err(Error::Usage("--slice brings its own --target".to_owned()).into());
        }
        let run = RunArgs {
            up: Up {
                which: Which { name: "reproduce".to_owned(), state_dir: slice::STATE_DIR.into() },
                rspec: self.in_slice.rspec.clone(),
                worker_cpus: self.in_slice.worker_cpus,
                dry_run: false,
                draw: None,
            },
            models: self.models.clone(),
            threads: 1,
            bin_dir: self.in_slice.bin_dir.clone(),
            once: true,
            command: std::env::args().skip(1).collect(),
        };
        slice::run_once(&run, out)
    }
}
