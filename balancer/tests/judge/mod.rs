//! What must hold for any bytes at the beginning of a connection: the balancer reads them without a
//! panic, and what it accepts becomes a head that every parser reads in the same way. Both the test
//! `heads` and the fuzz target `request_head` use this.

use std::convert::Infallible;

use balancer::forward::Outgoing;
use balancer::headers::{self, Origin};
use balancer::route;
use bytes::Bytes;
use fleet::{Endpoint, EndpointId, State};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

/// Reads the bytes like the balancer at the beginning of a connection, and judges each request.
pub(crate) fn serve(bytes: &[u8]) {
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

fn judge(request: Request<Incoming>) {
    let (head, _body) = request.into_parts();
    if headers::check(&head, &headers::HeaderScan::of(&head.headers)).is_err() {
        return;
    }
    let is_framed_twice =
        head.headers.contains_key(CONTENT_LENGTH) && head.headers.contains_key(TRANSFER_ENCODING);
    assert!(!is_framed_twice, "{head:?}");
    let _route = route::route(&head.method, head.uri.path());
    let _page = headers::wants_page(&head.headers);
    let _id = headers::request_id(&head.headers);
    let _time = headers::timeout_ms(&head.headers);
    if let Some(parent) = head.headers.get(headers::TRACEPARENT) {
        let _child = headers::child_trace(parent, 7);
    }
    let address = HeaderValue::from_static("192.0.2.1");
    let origin = Origin::new(address, "http", head.uri.path().len().is_multiple_of(2));
    let outgoing = Outgoing {
        head: &head,
        target: "/predict".into(),
        origin: &origin,
        id: b"an-id",
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

/// Checks that unique fields occur once, and that fields which must not be forwarded are absent.
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
