//! The command line: one subcommand per module, each with its own arguments beside its code.
//!
//! Every flag can also be set by an environment variable `CLIENT_…`, which means the same in every
//! command. A run that crossed a threshold ends with status 1, a usage error with 2, an invalid run
//! with 3, an unreachable service with 4, any other failure with 5. Results go to stdout and to
//! files, everything else to stderr.

use std::io::IsTerminal;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Examples:
  client rtt                               round-trip time against image size
  client scaling                           servers 1, 2, 4 against the original's waits
  client load --rate 200 --duration 30s    open-loop load, latency without omissions
  client reproduce --quick                 the three experiments and a report in one go
  client rtt --images photos --repeat 20   the same over your own pictures
  client scaling --original                the original's integer-second Poisson waits

Start a target first: ./scripts/run.sh (or --target http://HOST:PORT).";

/// Measures the service: round-trip times, scaling, load.
#[derive(Debug, Parser)]
#[command(version = env!("IMAGEFLEET_VERSION"), after_help = EXAMPLES)]
#[command(disable_help_flag = true, arg = manual::help())]
pub struct Cli {
    /// What to log to stderr: a level, or `target=level` pairs.
    #[arg(long, global = true, env = "CLIENT_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// The experiment to run, or what else to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `client`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measures round-trip times of single requests, image by image.
    Rtt(crate::rtt::Args),
    /// Measures accuracy against resolution, over labelled photos.
    Accuracy(crate::accuracy::Args),
    /// Runs the original project's experiments in one go, and writes a report.
    Reproduce(crate::reproduce::Args),
    /// Summarises one run, or compares two.
    Report(crate::compare::Args),
    /// Sends load at a rate that does not depend on the answers, and judges its own result.
    Load(crate::load::Args),
    /// Sends requests for `client load --agents` on another machine.
    Agent(crate::agents::Args),
    /// Measures latency and throughput over a grid of servers and arrival rates.
    Scaling(crate::scaling::Args),
    /// Measures goodput, answers and job time against the loss of the client's link, in a slice.
    Loss(crate::conditions::LossArgs),
    /// Measures goodput, answers and job time against the capacity of the client's link, in a slice.
    Bandwidth(crate::conditions::BandwidthArgs),
    /// Measures what users see while workers are dead, in a slice.
    Churn(crate::conditions::ChurnArgs),
    /// Simulates a fleet of any size with the balancer's own policies.
    Simulate(crate::simulate::Args),
    /// Computes how many workers a load needs, by simulation.
    Plan(crate::plan::Args),
    /// Builds the slice of an RSpec on this machine: nodes, links, shares of CPU.
    #[command(subcommand)]
    Slice(crate::slice::Command),
    /// Completions and manual pages.
    #[command(flatten)]
    Manual(manual::Command),
}

/// Whether to log in colour: stderr is a terminal, and `NO_COLOR` is not set.
fn has_colours() -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !is_unwanted
}

/// Starts the log. A filter that does not parse is reported, and `info` is used.
pub fn log_to_stderr(filter: &str) {
    let parsed = EnvFilter::try_new(filter);
    let invalid = parsed.is_err();
    let filter_or_default = parsed.unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(has_colours())
        // A log whose reader has gone is no reason to end a measurement.
        .log_internal_errors(false)
        .with_env_filter(filter_or_default)
        .with_target(false)
        .without_time()
        .init();
    if invalid {
        tracing::warn!(filter, "log filter not understood, logging at info");
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

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

    /// Every argument of every command.
    fn all(command: &clap::Command) -> Vec<(String, clap::Arg)> {
        let name = command.get_name();
        let mine = command.get_arguments().map(|argument| (name.to_owned(), argument.clone()));
        let theirs = command.get_subcommands().flat_map(all);
        mine.chain(theirs).collect()
    }

    #[test]
    fn a_variable_means_the_same_in_every_command() {
        let mut known = std::collections::BTreeMap::new();
        for (command, argument) in all(&Cli::command()) {
            let Some(name) = argument.get_env() else { continue };
            let kind = argument.get_value_parser().type_id();
            let meaning = (format!("{kind:?}"), argument.get_value_delimiter());
            let (first, expected) =
                known.entry(name.to_owned()).or_insert((command.clone(), meaning.clone()));
            assert_eq!(*expected, meaning, "{name:?} in {first} and in {command}");
        }
    }

    #[test]
    fn a_switch_is_turned_on_by_any_usual_word() {
        for (command, argument) in all(&Cli::command()) {
            if !matches!(argument.get_action(), clap::ArgAction::SetTrue) {
                continue;
            }
            let name = argument.get_id().clone();
            for (word, is_on) in [("1", true), ("yes", true), ("true", true), ("0", false)] {
                let parser = argument.get_value_parser().clone();
                let alone =
                    clap::Command::new("any").arg(clap::Arg::new("it").value_parser(parser));
                let found = alone.try_get_matches_from(["any", word]);
                let found = found.ok().and_then(|it| it.get_one::<bool>("it").copied());
                assert_eq!(found, Some(is_on), "{word} for --{name} of {command}");
            }
        }
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
