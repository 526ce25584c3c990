//! Training and evaluating models: from data to a new version in the model repository.
//!
//! Training is seeded: the same seed gives the same bits, whatever the number of threads, and a run
//! that was killed continues where its last epoch ended. A version appears in the repository as a
//! whole, since a server may be watching.

mod directory;
pub mod evaluate;
pub mod mnist;
pub mod sql;

use std::{io::Write, path::Path};

use crate::Error;

/// What to train.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The digit network, from IDX files.
    Mnist(mnist::Args),
    /// A linear or logistic regression, from a CREATE MODEL statement.
    Sql(sql::Args),
}

/// What to evaluate.
#[derive(Debug, clap::Subcommand)]
pub enum Eval {
    /// The digit network on the test images of MNIST.
    Mnist(evaluate::Args),
}

/// Runs `worker train …`.
pub fn run(command: &Command, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        Command::Mnist(args) => mnist::run(args, out),
        Command::Sql(args) => sql::run(args, out),
    }
}

/// Runs `worker eval …`.
pub fn eval(command: &Eval, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        Eval::Mnist(args) => evaluate::run(args, out),
    }
}

/// An error about the contents of `path`.
fn invalid(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("{}: {reason}", path.display()))
}
