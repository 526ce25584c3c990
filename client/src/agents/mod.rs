//! Several generators as one: `client agent` on other machines, and `client load --agents` that has
//! them send one schedule between them.
//!
//! Thread by thread they take their shares of one schedule, as the threads of one program do, and
//! begin it at one instant: clocks are compared before, and how far they may be off is told. What
//! they measured is added bucket by bucket, so quantiles are those of one program that had sent it
//! all. One connection carries everything. It is also what a run lives by: an agent whose controller
//! is silent ends its run, and a run that loses an agent ends and is not valid.
//!
//! `frame` is what travels, `message` what it says, `secret` who may say it; `agent` listens and
//! sends requests, `controller` asks for them.

mod agent;
mod controller;
mod frame;
mod message;
mod secret;

use std::time::Duration;

pub use agent::{Args, run};
pub(crate) use controller::{Agents, Wanted};
pub use secret::Secret;

/// How often each side sends a message, if only a heartbeat.
const EVERY: Duration = Duration::from_millis(200);
/// A side that has been silent for this long is gone.
const SILENCE: Duration = Duration::from_secs(10);
