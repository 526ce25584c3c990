//! Any bytes as a PROXY protocol header, as they come and behind the signature of version 2.
#![no_main]

use balancer::proxy_protocol::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _line = parse(bytes);
    let _binary = parse(&[b"\r\n\r\n\0\r\nQUIT\n", bytes].concat());
});
