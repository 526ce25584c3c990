//! Why a command failed: one variant per way for the user to react.
//!
//! Failures of single requests never get here; they become answers (see [`crate::api`]).

use std::io;
use std::path::{Path, PathBuf};

/// The failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder in question.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Writing the result or using a socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The address to listen on is taken or does not belong to this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The requested address.
        address: String,
        /// The error of the system.
        source: io::Error,
    },
    /// A `model.toml` cannot be used.
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
    /// The repository has no such model or version.
    #[error("no model {0} in the model repository")]
    NoModel(String),
    /// Arguments or data that parse but cannot be used; the text says what can.
    #[error("{0}")]
    Invalid(String),
    /// The health check found an unhealthy worker, or none.
    #[error("{address}: {reason}")]
    Unwell {
        /// The address that was checked.
        address: std::net::SocketAddr,
        /// What is wrong.
        reason: String,
    },
    /// A download failed.
    #[error("{url}: {reason}")]
    Download {
        /// The requested URL.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The result cannot be written as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// The message for clients, which gives paths below `root` relative to it. Where the files are
    /// on the machine concerns only its operators, who have the log.
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

    /// Whether a retry may succeed although no file changes: a disk or file server that does not
    /// respond, no file descriptors or threads left.
    pub(crate) fn is_passing(&self) -> bool {
        use io::ErrorKind::{
            FileTooLarge, InvalidData, InvalidInput, IsADirectory, NotADirectory, NotFound,
            PermissionDenied,
        };
        let (Self::File { source, .. } | Self::Io(source)) = self else { return false };
        // These only go away when the files change.
        !matches!(
            source.kind(),
            FileTooLarge
                | InvalidData
                | InvalidInput
                | IsADirectory
                | NotADirectory
                | NotFound
                | PermissionDenied
        )
    }

    /// For `map_err`: adds the path of the file to an I/O error.
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_the_system_lacks_for_a_moment_is_told_from_what_is_wrong_with_files() {
        let file = |source| Error::file(Path::new("weights"))(source);
        for code in [libc::EIO, libc::ESTALE, libc::EMFILE, libc::ENFILE, libc::EAGAIN] {
            assert!(file(io::Error::from_raw_os_error(code)).is_passing(), "{code}");
            assert!(Error::Io(io::Error::from_raw_os_error(code)).is_passing(), "{code}");
        }
        for code in [libc::ENOENT, libc::EACCES, libc::ENOTDIR] {
            assert!(!file(io::Error::from_raw_os_error(code)).is_passing(), "{code}");
        }
        for kind in [io::ErrorKind::InvalidData, io::ErrorKind::FileTooLarge] {
            assert!(!file(io::Error::new(kind, "it is what it is")).is_passing(), "{kind}");
        }
        assert!(!Error::Invalid("no labels".to_owned()).is_passing());
    }
}
