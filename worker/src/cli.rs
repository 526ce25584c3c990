//! The command line: one subcommand per module, each with its own arguments beside its code.
//!
//! Every flag can also be set by an environment variable `WORKER_…`, so that containers need no
//! command line. A usage error exits with status 2 (clap), any other failure with 1.

use std::io::IsTerminal;

use clap::{Parser, Subcommand};
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
#[command(version = env!("IMAGEFLEET_VERSION"), after_help = EXAMPLES)]
#[command(disable_help_flag = true, arg = manual::help())]
pub struct Cli {
    /// What to log to stderr: a level, or `target=level` pairs.
    #[arg(long, global = true, env = "WORKER_LOG", default_value = "info", value_parser = log_filter, value_name = "FILTER")]
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
    /// Ask a running worker of this machine whether it is ready, for containers and scripts.
    Healthcheck(crate::healthcheck::Args),
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
    /// Completions and manual pages.
    #[command(flatten)]
    Manual(manual::Command),
}

/// Crates that a log filter may name.
const LOG_TARGETS: [&str; 4] = ["worker", "axum", "hyper", "hyper_util"];

/// Checks a log filter.
fn log_filter(text: &str) -> Result<String, wire::log_filter::FilterError> {
    wire::log_filter::check(text, &LOG_TARGETS)?;
    Ok(text.to_owned())
}

/// Sets up logging to stderr.
pub fn log_to_stderr(filter: &str) {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Cli, Command};

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_is_the_same_asked_for_in_short_or_at_length() {
        assert_eq!(manual::with_two_helps(&Cli::command()), Vec::<String>::new());
    }

    #[test]
    fn something_is_said_about_every_command_and_flag() {
        assert_eq!(manual::undocumented(&Cli::command()), Vec::<String>::new());
    }

    #[test]
    fn addresses_and_filters_are_understood_or_refused_with_an_example() {
        let parse = |arguments: &[&str]| {
            Cli::try_parse_from([&["worker", "serve"], arguments].concat())
                .map_err(|error| error.to_string())
        };
        for (text, expected) in [
            ("8502", "0.0.0.0:8502"),
            (":8502", "0.0.0.0:8502"),
            ("localhost:8502", "127.0.0.1:8502"),
            ("[::]:8502", "[::]:8502"),
        ] {
            let command = parse(&["--listen", text]).expect(text).command;
            let Command::Serve(args) = command else { panic!("{command:?}") };
            assert_eq!(args.address.listen().to_string(), expected);
        }
        let error = parse(&["--listen", "localhost"]).expect_err("no port");
        assert!(error.contains("for example 0.0.0.0:8501"), "{error}");
        for wrong in ["inof", "wroker=debug", "worker=verbose", ""] {
            assert!(parse(&["--log", wrong]).expect_err(wrong).contains("info"), "{wrong}");
        }
        assert!(parse(&["--log", "warn,worker::batcher=debug"]).is_ok());
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
