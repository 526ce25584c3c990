//! `worker pull`: fetches a published model into the model repository.

use crate::Error;
use std::io::Write;

/// Arguments of `worker pull`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `worker pull`.
pub fn run(_args: &Args, _out: &mut dyn Write) -> Result<(), Error> {
    Err(Error::not_built("worker pull"))
}
