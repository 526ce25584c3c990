//! What a running worker answers, protocol by protocol, in one program: linking takes longer than most of its tests.
//! What counts the memory of its process (`memory`, `readers`, `hostile_pictures`, `allocations`) has one of its own.

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
