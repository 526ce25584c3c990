//! The decisions of a load balancer, without sockets, files or logs.
//!
//! The balancer runs them on real time and real connections, and `client simulate` on virtual time
//! and modelled workers; neither has rules of its own. From the bottom: a [`state`] determines
//! whether an [`Endpoint`] may be picked; a [`Pool`] holds all of them and hands out [`Snapshot`]s
//! by model; a [`policy`] chooses one of several; the [`admission`] queue holds requests that find
//! no room; a [`RetryBudget`] and [`Hedging`] bound second attempts; a [`Verdict`] classifies an
//! answer. A [`Fleet`] combines them, and a [`View`] is what one thread sees of it. On top is the
//! [`dispatch`] of a request, from its admission to its outcome. Independently of these,
//! [`elastic`] decides how many workers there should be.
//!
//! Nothing here generates random numbers, opens a connection or reads the system clock: all three
//! come from the caller.
#![forbid(unsafe_code)]

pub mod admission;
pub mod dispatch;
pub mod elastic;
pub mod latency;
pub mod policy;
pub mod state;

mod change;
mod endpoint;
mod fault;
mod hedging;
mod load;
mod pool;
mod retry;
mod snapshot;
mod verdict;
mod view;
mod wanted;

pub use admission::{AdmissionQueue, Waiter};
pub use change::{Change, Changes, What};
pub use dispatch::{Attempt, Dispatch, Failure, Lost, MAX_TRIES, Notice, Reply, Scope, Step, Why};
pub use endpoint::{
    Counters, Endpoint, EndpointId, Estimate, LATENCY_BOUNDS, LastProbe, Permit, Standing,
};
pub use fault::Fault;
pub use hedging::Hedging;
pub use load::LoadReport;
pub use pool::{ANY_NAME, Pool, Settings};
pub use retry::{Retry, RetryBudget};
pub use snapshot::{Candidates, Class, Snapshot};
pub use state::{Availability, Cause, Event, Limits, Outlier, State};
pub use verdict::Verdict;
pub use view::{Chosen, Clock, Fleet, View, patience};
pub use wanted::{Refusal, Wanted};
