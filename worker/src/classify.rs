//! `worker classify`: labels image files without a server.

use crate::Error;
use std::io::Write;

/// Arguments of `worker classify`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `worker classify`.
pub fn run(_args: &Args, _out: &mut dyn Write) -> Result<(), Error> {
    Err(Error::not_built("worker classify"))
}
