//! The command line: one subcommand a module, each with its own arguments beside its code.
//!
//! Every flag reads an environment variable `WORKER_…` as well, so that containers need no
//! command line. A usage error ends with status 2 (clap), any other failure with 1.

use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Examples:
  worker serve                             answer on port 8501 with the models under ./models
  worker serve --listen 127.0.0.1:0        choose a free port and print it
  worker classify photo.jpg --top 3        no server: label files and leave
  worker pull mobilenet_v2                 fetch the photo model (14 MB)
  worker train mnist --data DIR            train the digit model from IDX files

  curl -F image=@photo.jpg http://localhost:8501/predict";

/// Classifies images over HTTP, or from the command line.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub struct Cli {
    /// What to log to stderr: a level, or `target=level` pairs.
    #[arg(long, global = true, env = "WORKER_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `worker`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer requests over HTTP until SIGTERM.
    Serve(crate::serve::Args),
    /// Label image files without a server.
    Classify(crate::classify::Args),
    /// Train a model and write it into the model repository.
    #[command(subcommand)]
    Train(crate::train::Command),
    /// Measure the accuracy of a model in the repository.
    #[command(subcommand)]
    Eval(crate::train::Eval),
    /// Fetch a published model into the model repository.
    Pull(crate::pull::Args),
    /// Measure inference on this machine.
    Bench(crate::bench::Args),
}

/// Starts the log. A filter that does not parse falls back to `info` and says so.
pub fn log_to_stderr(filter: &str) {
    let parsed = EnvFilter::try_new(filter);
    let invalid = parsed.is_err();
    let filter_or_default = parsed.unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter_or_default)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    if invalid {
        tracing::warn!(filter, "log filter not understood, logging at info");
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_reads_an_environment_variable() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments().filter(|a| a.get_long().is_some()) {
                let name = argument.get_id().as_str();
                if name != "help" && name != "version" {
                    assert!(argument.get_env().is_some(), "--{name} of {}", command.get_name());
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
