//! Heads that are almost valid: read by hyper, judged and rewritten like every request, as the fuzz
//! target `request_head` does with arbitrary bytes. And answers of endpoints that are almost valid,
//! read by the balancer and by hyper, as the fuzz target `answer` does.

#[path = "judge/answer.rs"]
mod answer;
mod judge;

use answer::{Answer, compare};
use judge::serve;
use proptest::prelude::*;
use proptest::sample::{Index, select};

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

const INTERIM: &[&str] = &[
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n",
    "\r\n",
    "hello",
];

const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 404\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 999 \r\n",
    "HTTP/1.1 200 OK\n",
];

const ANSWER_FIELDS: &[&str] = &[
    "content-length: 5\r\n",
    "Content-Length: 5\r\n",
    "content-length: 0\r\n",
    "content-length: 6\r\n",
    "content-length: 5, 5\r\n",
    "content-length: +5\r\n",
    "content-length:\r\n",
    "transfer-encoding: chunked\r\n",
    "Transfer-Encoding: Chunked\r\n",
    "transfer-encoding: gzip, chunked\r\n",
    "transfer-encoding: chunked, identity\r\n",
    "connection: close\r\n",
    "connection: keep-alive, x-one\r\n",
    "Connection: Close, x-one\r\n",
    "x-one: a\r\n",
    "x-one: a\r\n b\r\n",
    "x-one: a\n",
    "x-one : a\r\n",
    "x-one: \u{e9}\r\n",
    "trailer: x-sum\r\n",
    "endpoint-load-metrics: JSON {}\r\n",
];

const BODIES: &[&str] = &[
    "hello",
    "5\r\nhello\r\n",
    "005;a=b\r\nhello\r\n",
    "5 \r\nhello\r\n",
    "5\nhello\n",
    "5\r\nhello\n",
    "5\r\nhello",
    "0\r\n\r\n",
    "0\n\n",
    "0\r\nx-sum: 1\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
];

/// Some of `pieces`, fewer than `end`, in sequence.
fn some(pieces: &'static [&'static str], end: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(select(pieces), 0..end).prop_map(|some| some.concat())
}

/// An answer that is almost valid.
fn improper() -> impl Strategy<Value = Vec<u8>> {
    let status = prop_oneof![2 => select(&STATUS_LINES[..1]), 1 => select(STATUS_LINES)];
    let interim = prop_oneof![4 => some(INTERIM, 1), 1 => some(INTERIM, 3)];
    let framing = prop_oneof![
        Just("transfer-encoding: chunked\r\n".to_owned()),
        Just("content-length: 5\r\n".to_owned()),
        some(ANSWER_FIELDS, 3),
    ];
    let parts = (interim, status, framing, some(ANSWER_FIELDS, 2), some(BODIES, 4));
    let noise = prop::option::weighted(0.2, (any::<Index>(), any::<u8>()));
    (parts, noise).prop_map(|((interim, status, framing, fields, body), noise)| {
        let text = [&interim, status, &framing, &fields, "\r\n", &body].concat();
        let mut wire = text.into_bytes();
        if let Some((at, noise)) = noise {
            let at = at.index(wire.len());
            wire[at] = noise;
        }
        wire
    })
}

/// The same bytes, split at `cuts`.
fn cut<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.sort_unstable();
    let ends = at.iter().copied().chain([bytes.len()]);
    let starts = [0].into_iter().chain(at.iter().copied());
    starts.zip(ends).map(|(start, end)| &bytes[start..end]).collect()
}

/// A valid answer, and its bytes.
fn proper() -> impl Strategy<Value = (Answer, Vec<u8>)> {
    let fields = prop::collection::vec(("x-[a-z]{1,6}", "[!-~]{0,8}"), 0..4);
    let chunks = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..4);
    let status = select(vec![200_u16, 201, 404, 429, 500, 503]);
    (status, fields, chunks, any::<bool>()).prop_map(|(status, fields, chunks, is_chunked)| {
        let mut wire = format!("HTTP/1.1 {status} Some Reason\r\n").into_bytes();
        for (name, value) in &fields {
            wire.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let body = chunks.concat();
        if is_chunked {
            wire.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(&[chunk, &b"\r\n"[..]].concat());
            }
            wire.extend_from_slice(b"0\r\n\r\n");
        } else {
            wire.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            wire.extend_from_slice(&body);
        }
        let mut fields: Vec<_> =
            fields.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        let status = http::StatusCode::from_u16(status).expect("a status");
        (Answer { status, fields, body }, wire)
    })
}

proptest! {
    #[test]
    fn a_proper_answer_is_read_wherever_it_is_cut(
        (answer, wire) in proper(),
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        prop_assert_eq!(compare(&cut(&wire, &cuts), false), Some(answer));
    }

    #[test]
    fn what_is_accepted_reads_the_same_everywhere(
        pieces in proptest::collection::vec(select(PIECES), 0..12),
        cut in any::<Index>(),
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn an_answer_that_is_taken_is_one_for_hyper_too(
        wire in improper(),
        cuts in prop::collection::vec(any::<Index>(), 0..3),
        is_head_request in prop::bool::weighted(0.1),
    ) {
        compare(&cut(&wire, &cuts), is_head_request);
    }
}
