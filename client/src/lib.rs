//! The measuring side: experiments against the service, from one request to open-loop load.
//!
//! Data flows in one direction: a [`schedule`] decides when to send and a [`workload`] what to
//! send, the [`driver`] sends it and emits [`sample`]s, [`record`] stores them, [`stats`] condenses
//! them, and [`report`] and [`plot`] present them without ever touching the network.
#![forbid(unsafe_code)]

pub mod accuracy;
pub mod agents;
pub mod cli;
pub mod compare;
pub mod conditions;
mod descriptors;
pub mod driver;
pub mod error;
pub mod experiment;
mod input;
pub mod live;
pub mod load;
mod machine;
pub mod output;
mod page;
pub mod plan;
pub mod progress;
pub mod record;
pub mod report;
pub mod reproduce;
pub mod rtt;
pub mod sample;
pub mod scaling;
pub mod schedule;
pub mod signals;
pub mod simulate;
pub mod slice;
pub mod stats;
pub mod target;
pub mod tls;
pub mod workload;

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;

/// Runs one command; results go to `out`, everything else to the log.
pub fn run(cli: &cli::Cli, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match &cli.command {
        cli::Command::Rtt(args) => rtt::run(args, out).map(|()| ExitCode::SUCCESS),
        cli::Command::Accuracy(args) => accuracy::run(args, out).map(|()| ExitCode::SUCCESS),
        cli::Command::Reproduce(args) => reproduce::run(args, out),
        cli::Command::Report(args) => compare::run(args, out).map(|()| ExitCode::SUCCESS),
        cli::Command::Load(args) => load::run(args, out),
        cli::Command::Agent(args) => agents::run(args, out),
        cli::Command::Scaling(args) => scaling::run(args, out).map(|()| ExitCode::SUCCESS),
        cli::Command::Loss(args) => conditions::loss(args, out),
        cli::Command::Bandwidth(args) => conditions::bandwidth(args, out),
        cli::Command::Churn(args) => conditions::churn(args, out),
        cli::Command::Simulate(args) => simulate::run(args, out),
        cli::Command::Plan(args) => plan::run(args, out),
        cli::Command::Slice(command) => slice::run(command, out),
        cli::Command::Manual(command) => {
            command.write(cli::Cli::command(), out)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
