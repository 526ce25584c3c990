//! Any bytes as a body of the Open Inference Protocol, for models of every kind.
#![no_main]

#[path = "../../worker/tests/judge/mod.rs"]
mod judge;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| judge::open_inference(bytes));
