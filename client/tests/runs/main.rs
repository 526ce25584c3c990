//! Runs of the client against stubs, and the arithmetic of their reports, in one program: linking
//! takes longer than most of its tests.

#[path = "../common/mod.rs"]
mod common;

mod accounting;
mod end_to_end;
mod endings;
mod load;
mod requests;
mod schedule;
mod stats;
