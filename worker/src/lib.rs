//! A model server: images in, labels out.
//!
//! A request flows one way through the modules, in this order, and its answer comes back as a
//! return value: `api` reads it, [`preprocess`] turns bytes into a tensor, `batcher` queues it in
//! front of the executor thread that owns the model, [`model`] (or the fast path in `engine`)
//! computes logits. [`repository`] finds models on disk; `train` makes them.

pub mod model;
pub mod preprocess;
pub mod repository;
