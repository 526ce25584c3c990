//! `worker eval mnist`: accuracy of the digit model on the test images.

use crate::Error;
use std::io::Write;

/// Arguments of `worker eval mnist`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `worker eval mnist`.
pub fn run(_args: &Args, _out: &mut dyn Write) -> Result<(), Error> {
    Err(Error::not_built("worker eval mnist"))
}
