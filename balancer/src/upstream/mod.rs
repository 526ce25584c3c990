//! The connections to endpoints.
//!
//! A [`Connection`] carries one request at a time. Which endpoint it goes to, and what an attempt says
//! about it, is decided in the crate [`fleet`], which knows no sockets.

pub(crate) mod connecting;
mod connection;
mod framing;
mod response;
#[doc(hidden)]
pub mod whole;

pub use connection::{Connection, Payload, Room};
pub use response::Head;
