//! Any bytes as an upload with any header fields: read by the parser that balancer and worker share.
#![no_main]

#[path = "../../worker/tests/judge/mod.rs"]
mod judge;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|upload: judge::Upload<'_>| judge::upload(upload));
