//! Heads that are almost right: read by hyper, judged and rewritten as every request is.
//!
//! The same checks as in the fuzz target `request_head`, on a bounded number of made-up heads. What
//! is accepted must come out as a head that every parser reads in the same way.

use std::convert::Infallible;

use balancer::forward::Outgoing;
use balancer::headers::{self, Origin};
use balancer::route;
use balancer::upstream::{Endpoint, EndpointId, State};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

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
    let (head, _body) = request.into_parts();
    if headers::check(&head).is_err() {
        return;
    }
    let is_framed_twice =
        head.headers.contains_key(CONTENT_LENGTH) && head.headers.contains_key(TRANSFER_ENCODING);
    assert!(!is_framed_twice, "{head:?}");
    let _route = route::route(&head.method, head.uri.path());
    let origin = Origin {
        forwarded_for: HeaderValue::from_static("192.0.2.1"),
        is_encrypted: false,
        is_trusted: head.uri.path().len().is_multiple_of(2),
    };
    let id = HeaderValue::from_static("an-id");
    let outgoing = Outgoing {
        head: &head,
        target: "/predict".into(),
        origin: &origin,
        id: &id,
        trace: None,
        wants_json: false,
        wants_load: false,
    };
    let address = std::net::SocketAddr::from(([192, 0, 2, 9], 8501));
    let endpoint = Endpoint::new(EndpointId(0), "worker1", address, State::up(), Instant::now());
    let mut wire = Vec::new();
    outgoing.write(&endpoint, 1000, 5, &mut wire);
    check_wire(&wire);
}

/// Every line has a name that crosses, and those that must be unique are.
fn check_wire(wire: &[u8]) {
    let shown = wire.escape_ascii();
    let lines = wire.strip_suffix(b"\r\n\r\n").expect("an empty line at the end");
    let lines = String::from_utf8_lossy(lines).into_owned();
    assert!(lines.split("\r\n").all(|line| !line.contains(['\r', '\n'])), "{shown}");
    let names: Vec<&str> =
        lines.split("\r\n").skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
    let count = |wanted: &str| names.iter().filter(|name| **name == wanted).count();
    for name in ["host", "content-length", "x-request-id", "x-imagefleet-endpoint"] {
        assert_eq!(count(name), 1, "{name}: {shown}");
    }
    for name in ["connection", "transfer-encoding", "upgrade", "te", "trailer", "expect", ""] {
        assert_eq!(count(name), 0, "{name} crosses: {shown}");
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
