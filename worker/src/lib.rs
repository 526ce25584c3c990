//! A model server: images in, labels out.
//!
//! A request flows one way through the modules, in this order, and its answer comes back as a
//! return value: [`api`] reads it, [`preprocess`] turns bytes into a tensor, [`batcher`] queues it
//! in front of the executor thread that owns the model, [`model`] (or the fast path in [`engine`])
//! computes logits. [`repository`] finds models on disk and [`serving`] keeps the ready ones in step
//! with it; [`train`] makes models and [`pull`] fetches them. [`classify`] and [`mod@bench`] use the same
//! models without a server.

#![forbid(unsafe_code)]

pub mod api;
pub mod batcher;
pub mod bench;
pub mod classify;
pub mod cli;
pub mod config;
pub mod connection;
pub mod error;
pub mod healthcheck;
pub mod join;
mod memory_limit;
pub mod metrics;
pub mod model;
pub mod patient;
pub mod preprocess;
pub mod pull;
pub mod repository;
pub mod serve;
pub mod serving;
pub mod signal;
pub mod train;

use clap::CommandFactory;
pub use error::Error;

/// Runs one command; results go to `out`, everything else to the log.
pub fn run(cli: &cli::Cli, out: &mut dyn std::io::Write) -> Result<(), Error> {
    match &cli.command {
        cli::Command::Serve(args) => serve::run(args, out),
        cli::Command::Healthcheck(args) => healthcheck::run(args, out),
        cli::Command::Classify(args) => classify::run(args, out),
        cli::Command::Train(command) => train::run(command, out),
        cli::Command::Eval(command) => train::eval(command, out),
        cli::Command::Pull(args) => pull::run(args, out),
        cli::Command::Bench(args) => bench::run(args, out),
        cli::Command::Manual(command) => Ok(command.write(cli::Cli::command(), out)?),
    }
}
