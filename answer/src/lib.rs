//! Answers over HTTP/1, read in one way by the programs that ask: the balancer asks workers, and the
//! client asks a service.
//!
//! A [`Reader`] takes the head of an answer from what was received, and then the parts of its body. It is
//! pure: receiving, and how long to wait, is up to the caller. What is odd is refused and not guessed,
//! everything is bounded, and bytes are passed on as slices of what was received. The tests of the
//! balancer and a fuzz target compare it with the client of hyper.
#![forbid(unsafe_code)]

mod framing;
mod head;
mod reader;
pub mod whole;

pub use framing::{Decoded, Misframed};
pub use head::{Head, LOAD, Malformed};
pub use reader::{Reader, SHORT};
