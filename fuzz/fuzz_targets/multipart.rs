//! Any bytes as a form, with a boundary that may occur in them.
#![no_main]

use balancer::form;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8])| {
    let (content_type, body) = input;
    let boundary = form::boundary(content_type).unwrap_or("XX");
    let fields = form::read(body, boundary);
    if let Some(servers) = &fields.servers
        && let Ok(count) = form::parse_servers(servers, 4)
    {
        assert!((1..=4).contains(&count));
    }
});
