//! Reads HTTP/1 answers, for the programs that send requests: the balancer (to workers) and the
//! client (to a service).
//!
//! A [`AnswerReader`] takes the head of an answer from the received bytes, and then the parts of its
//! body. It is pure: the caller receives the bytes and decides how long to wait. Anything odd is
//! refused rather than guessed at, everything is bounded, and bytes are passed on as slices of what
//! was received. The balancer's tests and a fuzz target compare it with hyper's client.
#![forbid(unsafe_code)]

mod framing;
mod head;
mod reader;
pub mod whole;

pub use framing::{Decoded, Misframed};
pub use head::{Head, LOAD, Malformed};
pub use reader::{AnswerReader, SHORT};
