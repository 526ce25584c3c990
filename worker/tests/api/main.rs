//! The answers of a running worker, protocol by protocol, in one program: linking takes longer than
//! most of its tests. Tests that measure the memory of their process (`memory`, `readers`,
//! `hostile_pictures`, `allocations`) are separate programs.

#[path = "../common/mod.rs"]
mod common;

mod agreement;
mod bad_input;
mod batching;
mod bounds;
mod damaged_bodies;
mod fetch;
mod open_inference;
mod predict;
mod repository;
mod tf_serving;
