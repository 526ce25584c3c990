//! Any bytes as the answer of an endpoint: read by the balancer and by hyper's client. The first
//! byte decides whether the request was HEAD, and where the rest is cut in two.
#![no_main]

#[path = "../../balancer/tests/judge/answer.rs"]
mod answer;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [flags, bytes @ ..] = input else { return };
    let (first, second) = bytes.split_at(usize::from(flags >> 1).min(bytes.len()));
    answer::compare(&[first, second], flags & 1 == 1);
});
