//! Any bytes as a form with any header fields: read by the parser that balancer and worker share.
#![no_main]

use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use message::{Submission, coding};

/// Header fields, a query and a body.
type Input<'a> = (&'a [u8], &'a [u8], &'a str, &'a [u8]);

fuzz_target!(|input: Input<'_>| {
    let (content_type, content_coding, query, body) = input;
    let mut fields = HeaderMap::new();
    for (name, value) in
        [(header::CONTENT_TYPE, content_type), (header::CONTENT_ENCODING, content_coding)]
    {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            fields.insert(name, value);
        }
    }
    let plain = match Submission::packed(&fields) {
        Ok(Some(coding)) => coding::unpack(coding, body, 1 << 16).unwrap_or_default(),
        Ok(None) | Err(_) => body.to_vec(),
    };
    assert!(plain.len() <= body.len().max(1 << 16));
    if let Ok(read) = Submission::read(Some(query), &fields, &plain) {
        assert!(read.top_k.is_none_or(|k| k.get() <= 1000));
        let _key = read.model.key();
    }
});
