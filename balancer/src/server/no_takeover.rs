//! Where there is no abstract namespace for Unix sockets, nothing is handed over: a new process
//! binds sockets of its own beside those of the old one. See `takeover.rs` for what Linux does.

use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, TcpListener};

use tokio::sync::watch;

/// Nothing can be taken over.
#[derive(Debug)]
pub enum Takeover {}

/// Listening sockets that were another process's, and the [`Takeover`] that passes them on.
pub type Taken = (Vec<TcpListener>, Takeover);

impl Takeover {
    /// Fails: this is not supported here.
    pub fn offer(_: SocketAddr, _: &[TcpListener]) -> Result<Self> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    /// There is no other process.
    pub fn take(_: SocketAddr) -> Result<Option<Taken>> {
        Ok(None)
    }

    /// Stays false here: no other process can ask.
    pub fn is_taken(&self) -> watch::Receiver<bool> {
        match *self {}
    }

    /// Does nothing here.
    pub async fn run(self) {
        match self {}
    }
}

/// The operator's socket, borrowed from another process.
#[derive(Debug)]
pub struct AdminSocket {
    /// The socket that was taken over.
    pub listener: TcpListener,
    /// Lends it to the next process.
    pub lender: Lender,
    /// The loan, while it is borrowed.
    pub loan: Option<Loan>,
}

/// Lends sockets to a later process; here there is nothing to lend.
#[derive(Debug)]
pub enum Loan {}

/// Nothing can be lent.
#[derive(Debug)]
pub enum Lender {}

impl AdminSocket {
    /// There is no other process.
    pub fn borrow(_: SocketAddr, _: SocketAddr) -> Result<Option<Self>> {
        Ok(None)
    }
}

impl Lender {
    /// Fails: this is not supported here.
    pub fn offer(_: SocketAddr, _: SocketAddr, _: &TcpListener) -> Result<Self> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    /// Does nothing here.
    pub async fn run(self, _: watch::Sender<bool>, _: watch::Receiver<bool>) {
        match self {}
    }
}
