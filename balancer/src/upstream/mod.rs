//! The connections to endpoints.
//!
//! A [`Connection`] carries one request at a time; the crate [`answer`] reads what comes back. Which
//! endpoint it goes to, and what an attempt says about it, is decided in the crate [`fleet`], which knows
//! no sockets.

pub(crate) mod connecting;
mod connection;

pub use connection::{Connection, Payload, Room};
