//! `worker serve`: from arguments to a running server and back to an orderly end.

use crate::Error;
use std::io::Write;

/// Arguments of `worker serve`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `worker serve`.
pub fn run(_args: &Args, _out: &mut dyn Write) -> Result<(), Error> {
    Err(Error::not_built("worker serve"))
}
