//! The balancer between clients and stubs, in one program: linking takes longer than most of its tests. What needs
//! a process of its own (`operations`, `restart`, `allocations`) has one.

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod bounds;
mod clients;
mod discovery;
mod faults;
mod forward;
mod hedging;
mod joins;
mod naming;
mod operators;
mod page;
mod queue;
mod rounds;
mod tls;
mod told;
