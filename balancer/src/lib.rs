//! A threaded layer-7 load balancer for inference workers.
//!
//! A request passes through these modules in order, and its answer comes back as a return value:
//! [`server`] accepts it on one of several threads, [`route`] determines what it asks for,
//! [`forward`] collects it, has the [`fleet`] pick an endpoint and sends it there over a
//! connection of [`upstream`]. Alongside, on their own thread, run [`discovery`] (which endpoints
//! there are), [`health`] (whether they work), [`supervisor`] (local workers) and [`admin`] (the
//! operator's port).
//!
//! The crate [`fleet`], which a simulation runs as well, decides which endpoint to use, whether to
//! wait and whether to retry.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod admin;
pub mod budget;
pub mod config;
pub mod descriptors;
pub mod discovery;
pub mod error;
pub mod files;
pub mod forward;
pub mod headers;
pub mod health;
pub mod healthcheck;
pub mod history;
pub mod joins;
pub mod log;
pub mod metrics;
pub mod page;
pub mod permission;
pub mod process;
pub mod proxy_protocol;
pub mod route;
pub mod server;
pub mod shard;
pub mod shared;
pub mod supervisor;
pub mod tls;
pub mod top;
pub mod traffic;
pub mod upstream;
pub mod write_queue;

mod control;

pub use control::{Bound, Surroundings, run};
