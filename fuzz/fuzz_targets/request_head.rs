//! Any bytes as the start of a connection: read by hyper, judged and rewritten by the balancer.
#![no_main]

#[path = "../../balancer/tests/judge/mod.rs"]
mod judge;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| judge::serve(bytes));
