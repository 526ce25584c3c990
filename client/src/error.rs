//! What can go wrong before or around an experiment, grouped by what the user can do about it.
//!
//! A failed request is never one of these: it is a [`crate::sample::Sample`] with an outcome, and
//! it is counted. Everything else travels as `anyhow::Error`, with the step that failed as context.

use std::path::PathBuf;
use std::process::ExitCode;

/// A failure that the user can act upon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flags are valid one by one, but not in combination: exit status 2.
    #[error("{0}")]
    Usage(String),
    /// The folder for results is not empty, and results are never overwritten.
    #[error("{} already holds results; choose another folder with --out, or replace them with --force", .0.display())]
    ResultsExist(PathBuf),
    /// The folder contains files that are not results, which are never replaced.
    #[error("{} holds files that are no results of this program; choose another folder with --out", .0.display())]
    NotOurs(PathBuf),
    /// Nothing answers at the target.
    #[error("no answer from {target}: {reason}; is the balancer running? (--target)")]
    Unreachable {
        /// The service that was tried.
        target: String,
        /// The reason given by the system.
        reason: String,
    },
    /// Not a single request of an experiment succeeded.
    #[error("no request succeeded: {0}")]
    NothingSucceeded(String),
}

/// Exit status of a run that crossed a threshold.
pub(crate) const CROSSED: u8 = 1;
/// Exit status of a usage error.
const USAGE: u8 = 2;
/// Exit status of an invalid run, whose numbers cannot be trusted.
pub(crate) const INVALID: u8 = 3;
/// Exit status if there was no service to measure.
pub(crate) const NO_SERVICE: u8 = 4;
/// Exit status of a failure of files or of this machine.
const FAILED: u8 = 5;

/// 2 for wrong usage, 4 if no service answers, 5 for everything else.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<Error>() {
        Some(Error::Usage(_)) => ExitCode::from(USAGE),
        Some(Error::Unreachable { .. } | Error::NothingSucceeded(_)) => ExitCode::from(NO_SERVICE),
        Some(Error::ResultsExist(_) | Error::NotOurs(_)) | None => ExitCode::from(FAILED),
    }
}
