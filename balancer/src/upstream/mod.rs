//! The connections to endpoints.
//!
//! A [`Connection`] carries one request at a time; the crate [`answer`] reads the response. The
//! crate [`fleet`], which knows nothing of sockets, decides which endpoint a request goes to and
//! what an attempt says about it.

pub(crate) mod connecting;
mod connection;

pub use connection::{Connection, Payload, Room};
