//! Where there is no abstract namespace for Unix sockets, nothing is handed over: a new process
//! binds sockets of its own beside those of the old one. See `takeover.rs` for what Linux does.

use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Nothing can be taken over.
#[derive(Debug)]
pub enum Takeover {}

/// Listening sockets that were another process's, and what passes them on.
pub type Taken = (Vec<TcpListener>, Takeover);

impl Takeover {
    /// Says that this cannot be done here.
    pub fn offer(_: SocketAddr, _: &[TcpListener]) -> Result<Self> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    /// Finds nobody.
    pub fn take(_: SocketAddr) -> Result<Option<Taken>> {
        Ok(None)
    }

    /// Never asked.
    pub fn is_taken(&self) -> Arc<AtomicBool> {
        match *self {}
    }

    /// Never run.
    pub async fn run(self) {
        match self {}
    }
}
