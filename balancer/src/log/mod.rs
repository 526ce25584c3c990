//! What the balancer logs about itself and about requests, without ever waiting for a reader.
//!
//! There are two logs. The [operator's log](operator) has changes of state and faults, on standard
//! error; the [access log](crate::access_log) has one line for each request. Both end in a
//! [`writer`]: a thread of its own behind a bounded buffer, because every descriptor can block some
//! day. What cannot be written is dropped, counted and reported once. Nothing that a client, a
//! worker or a name server sends can begin a line or move a terminal's cursor: see [`text`].

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
    /// Those that are written.
    pub fn iter(&self) -> impl Iterator<Item = &LogWriter> {
        [&self.access, &self.operator].into_iter().flatten().map(|log| &**log)
    }

    /// Has their files opened again, as after a rotation.
    pub fn reopen(&self) {
        self.iter().for_each(LogWriter::reopen);
    }

    /// Waits until all is written, for each no longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        for log in self.iter() {
            log.flush(limit);
        }
    }
}
