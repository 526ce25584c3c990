//! Answers over HTTP/1, read in one way by the programs that ask: the balancer asks workers, and the
//! client asks a service.
//!
//! [`parse`] takes the head of an answer from what was received, and [`Framing`] says which bytes after it
//! are its body. Both are pure: receiving, and how long to wait, is up to the caller. What is odd is
//! refused and not guessed, everything is bounded, and bytes are passed on as slices of what was
//! received. The tests of the balancer and a fuzz target compare this with the client of hyper.
#![forbid(unsafe_code)]

mod framing;
mod head;
pub mod whole;

pub use framing::{Chunk, Decoded, Framing, Misframed};
pub use head::{Head, LOAD, Looks, Malformed, parse};
