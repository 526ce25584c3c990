//! `worker train mnist`: trains the digit network from IDX files.

use crate::Error;
use std::io::Write;

/// Arguments of `worker train mnist`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `worker train mnist`.
pub fn run(_args: &Args, _out: &mut dyn Write) -> Result<(), Error> {
    Err(Error::not_built("worker train mnist"))
}
