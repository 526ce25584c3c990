//! Heads that are almost right: read by hyper, judged and rewritten as every request is.
//!
//! The same checks as in the fuzz target `request_head`, on a bounded number of made-up heads. What
//! is accepted must come out as a head that every parser reads in the same way.

use std::convert::Infallible;

use balancer::headers::{self, Origin};
use balancer::route;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

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

fn judge(request: Request<Incoming>) {
    let (mut head, _body) = request.into_parts();
    if headers::check(&head).is_err() {
        return;
    }
    let is_framed_twice =
        head.headers.contains_key(CONTENT_LENGTH) && head.headers.contains_key(TRANSFER_ENCODING);
    assert!(!is_framed_twice, "{head:?}");
    let path = head.uri.path().to_owned();
    let _route = route::route(&head.method, &path);
    headers::strip(&mut head.headers);
    let forwarded_for = HeaderValue::from_static("192.0.2.1");
    let origin =
        Origin { forwarded_for, is_encrypted: false, is_trusted: path.len().is_multiple_of(2) };
    headers::set_origin(&mut head.headers, &origin, head.version);
    assert!(head.headers.get_all(HOST).iter().count() <= 1, "{head:?}");
    for name in ["connection", "transfer-encoding", "content-length", "upgrade", "te", "trailer"] {
        assert!(!head.headers.contains_key(name), "{name} crosses: {head:?}");
    }
}

fn serve(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(bytes).await.expect("room");
        client.shutdown().await.expect("open");
        let service = service_fn(|request| {
            judge(request);
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        });
        drop(http1::Builder::new().serve_connection(TokioIo::new(server), service).await);
    });
}

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
