//! The worker side of the balancer: endpoints, their state, and the connections to them.
//!
//! An [`Endpoint`] is one worker address with everything the balancer knows about it; a [`Pool`] is
//! the set of them and hands out immutable [`Snapshot`]s; a [`Connection`] carries one request at a
//! time. Endpoints and their state are plain values without sockets, so that a simulation can run
//! the same code as the balancer.

mod connection;
mod counters;
mod endpoint;
mod fault;
mod framing;
mod load;
mod pool;
mod response;
mod service_time;
mod snapshot;
pub mod state;
mod vain;

pub use connection::{Beginning, Connection, Payload, Room};
pub use counters::{Counters, LATENCY_BOUNDS};
pub use endpoint::{Endpoint, EndpointId, InFlight};
pub use fault::Fault;
pub use load::Load;
pub use pool::{Pool, Settings};
pub use response::Head;
pub use service_time::Estimate;
pub use snapshot::{Candidates, Class, Snapshot};
pub use state::{Availability, Cause, Event, Limits, State};
