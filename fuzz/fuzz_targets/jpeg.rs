//! Any bytes as a JPEG: whole and reduced, in bounded memory and time, by one rule.
#![no_main]

#[path = "../../worker/tests/judge/mod.rs"]
mod judge;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| judge::jpeg(bytes));
