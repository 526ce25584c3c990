//! Several generators acting as one: `client agent` runs on other machines, and
//! `client load --agents` splits one schedule among them.
//!
//! Each agent's threads take their shares of the schedule, as the threads of one program would,
//! and all start at the same instant: clocks are compared beforehand, and the remaining
//! uncertainty is reported. Measurements are added bucket by bucket, so quantiles are those of a
//! single program that had sent everything. Each agent has one connection, which also decides
//! whether its run continues: an agent whose controller falls silent ends its run, and a run that
//! loses an agent ends and is invalid.
//!
//! `frame` is the wire framing, `message` the protocol, `secret` the authentication; `agent` is the
//! side that listens and sends the requests, `controller` the side that starts and collects a run.

mod agent;
mod controller;
mod frame;
mod message;
mod secret;

use std::time::Duration;

pub use agent::{Args, run};
pub(crate) use controller::{Agents, Wanted};
pub use secret::Secret;

/// How often each side sends a message, even if it is only a heartbeat.
const EVERY: Duration = Duration::from_millis(200);
/// A peer that has been silent for this long is considered gone.
const SILENCE: Duration = Duration::from_secs(10);
