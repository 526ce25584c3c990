//! What is served now: every ready version of every model, behind one pointer.
//!
//! Requests take a [`Snapshot`] and keep the version they found until they are answered, so a swap
//! never disturbs them. The [`loader`] thread is the only writer.

pub mod loader;
mod served;
mod snapshot;

pub use served::{Refusal, Served};
pub use snapshot::{Entry, Missing, Selector, Snapshot, State, Status};
