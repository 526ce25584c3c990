//! Any text as a configuration file: a valid configuration or an error, never a panic.
#![no_main]

use balancer::config::{Settings, parse_worker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _settings = toml::from_str::<Settings>(text);
    // Host names would be looked up in DNS.
    if text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b':' | b'=' | b'[' | b']')) {
        let _worker = parse_worker(text);
    }
});
