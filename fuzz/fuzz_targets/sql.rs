//! Any bytes as a statement for `worker train sql`.
#![no_main]

#[path = "../../worker/tests/judge/mod.rs"]
mod judge;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| judge::sql(text));
