//! Heads that are almost right: read by hyper, judged and rewritten as every request is, as the fuzz
//! target `request_head` does with any bytes.

mod judge;

use judge::serve;
use proptest::prelude::*;

const PIECES: &[&str] = &[
    "GET ",
    "POST ",
    "/",
    "/predict",
    "/v1/models/a:predict",
    "/v2/models/é",
    "http://other/",
    "*",
    "?model=",
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    "Host: a\r\n",
    "Host: b\r\n",
    "Host:\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: 5, 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Connection: close, host, x-one\r\n",
    "Connection: content-length\r\n",
    "Upgrade: h2c\r\n",
    "TE: trailers\r\n",
    "Expect: 100-continue\r\n",
    "X-One: a\r\n b\r\n",
    "X-One: a\n",
    "X-One: a\rb\r\n",
    "X-Forwarded-For: 10.0.0.1\r\n",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    "\r\n",
    "\r\n\r\n",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "\0",
    "\x0b",
];

proptest! {
    #[test]
    fn what_is_accepted_reads_the_same_everywhere(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..12),
        cut in any::<proptest::sample::Index>(),
        noise in any::<u8>(),
        is_noisy: bool,
    ) {
        let mut bytes = ["POST /predict HTTP/1.1\r\nHost: a\r\n", &pieces.concat(), "\r\n\r\n"]
            .concat()
            .into_bytes();
        if is_noisy {
            let at = cut.index(bytes.len());
            bytes[at] = noise;
        }
        serve(&bytes);
        serve(pieces.concat().as_bytes());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in any::<Vec<u8>>()) {
        serve(&bytes);
    }
}
