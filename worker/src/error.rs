//! Why a command failed: one variant for each thing that a user does about it.
//!
//! Failures of single requests never get here; they are answers (see [`crate::api`]).

use std::path::{Path, PathBuf};

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder in question.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Writing the result or using a socket failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The address to listen on is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address that was asked for.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A `model.toml` is not usable.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The manifest in question.
        path: PathBuf,
        /// The rule that it breaks.
        source: crate::repository::ManifestError,
    },
    /// Weights do not fit the architecture, or a computation failed.
    #[error("{}", crate::model::told(.0))]
    Model(#[from] candle_core::Error),
    /// No such model or version in the repository.
    #[error("no model {0} in the model repository")]
    NoModel(String),
    /// Arguments or data that parse but cannot be used; the text says what would.
    #[error("{0}")]
    Invalid(String),
    /// The worker that was asked after is not well, or there is none.
    #[error("{address}: {reason}")]
    Unwell {
        /// Where it was asked.
        address: std::net::SocketAddr,
        /// What is wrong.
        reason: String,
    },
    /// A download failed.
    #[error("{url}: {reason}")]
    Download {
        /// What was asked for.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The result cannot be written as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// What clients are told of it: files below `root` by their place there. Where on a machine that is
    /// concerns its operators only, and they have the log.
    pub fn told_below(&self, root: &Path) -> String {
        let place = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
        if let Self::File { path, source } = self {
            return format!("{}: {source}", place(path));
        }
        if let Self::Manifest { path, source } = self {
            return format!("{}: {source}", place(path));
        }
        self.to_string()
    }

    /// For `map_err`: names the file that `source` is about.
    pub fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}
