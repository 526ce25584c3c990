//! The balancer between clients and stubs, in one program: linking takes longer than most of its
//! tests. Tests that need a process of their own are in `operations`, `restart` and `allocations`.

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod bounds;
mod clients;
mod discovery;
mod endpoints;
mod forward;
mod gone;
mod hanging;
mod hedging;
mod joins;
mod misbehaving;
mod naming;
mod operators;
mod page;
mod queue;
mod rounds;
mod tls;
mod told;
