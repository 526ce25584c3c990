//! `worker bench`: measures inference on this machine.

use crate::Error;
use std::io::Write;

/// Arguments of `worker bench`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `worker bench`.
pub fn run(_args: &Args, _out: &mut dyn Write) -> Result<(), Error> {
    Err(Error::not_built("worker bench"))
}
