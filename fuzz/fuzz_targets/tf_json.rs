//! Any bytes as a body of TF Serving's protocol, for models of every kind.
#![no_main]

#[path = "../../worker/tests/judge/mod.rs"]
mod judge;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| judge::tf_json(bytes));
