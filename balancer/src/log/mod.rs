//! The balancer's logs of itself and of requests, written without ever waiting for a reader.
//!
//! There are two logs. The [operator's log](operator) contains changes of state and faults, on
//! standard error; the [access log](crate::access_log) contains one line per request. Both end in a
//! [`writer`]: a thread of its own behind a bounded buffer, because any descriptor can block some
//! day. Lines that cannot be written are dropped, counted and reported once. Nothing that a client,
//! a worker or a name server sends can begin a line or move a terminal's cursor: see [`text`].

pub(crate) mod changes;
mod file;
pub mod operator;
pub(crate) mod text;
pub mod writer;

use std::sync::Arc;
use std::time::Duration;

pub use writer::{Appended, Destination, LogWriter};

/// The logs of this process.
#[derive(Debug, Clone, Default)]
pub struct Logs {
    /// The log of events.
    pub operator: Option<Arc<LogWriter>>,
    /// The log of requests.
    pub access: Option<Arc<LogWriter>>,
}

impl Logs {
    /// The logs that are enabled.
    pub fn iter(&self) -> impl Iterator<Item = &LogWriter> {
        [&self.access, &self.operator].into_iter().flatten().map(|log| &**log)
    }

    /// Reopens their files, as after a rotation.
    pub fn reopen(&self) {
        self.iter().for_each(LogWriter::reopen);
    }

    /// Waits until everything is written, at most `limit` for each log.
    pub fn flush(&self, limit: Duration) {
        for log in self.iter() {
            log.flush(limit);
        }
    }
}
