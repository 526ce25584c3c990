//! Any bytes as the beginning of a connection: read by hyper, judged and rewritten by the balancer.
//! What is accepted must come out as a head that every parser reads in the same way.
#![no_main]

use std::convert::Infallible;

use balancer::headers::{self, Origin};
use balancer::route::{self, Route};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWriteExt;

fn judge(request: Request<Incoming>) {
    let (mut head, _body) = request.into_parts();
    if headers::check(&head).is_err() {
        return;
    }
    let framings = head.headers.contains_key(CONTENT_LENGTH) as u8
        + head.headers.contains_key(TRANSFER_ENCODING) as u8;
    assert!(framings < 2, "two framings: {head:?}");
    let path = head.uri.path().to_owned();
    if let Ok(Route::Forward(forward)) = route::route(&head.method, &path) {
        let _forward = forward;
    }
    let _page = headers::wants_page(&head.headers);
    let _id = headers::request_id(&head.headers);
    let _time = headers::timeout_ms(&head.headers);
    if let Some(parent) = head.headers.get(headers::TRACEPARENT) {
        let _child = headers::child_trace(parent, 7);
    }
    headers::strip(&mut head.headers);
    let origin = Origin {
        forwarded_for: HeaderValue::from_static("192.0.2.1"),
        is_encrypted: false,
        is_trusted: path.len() % 2 == 0,
    };
    headers::set_origin(&mut head.headers, &origin, head.version);
    assert!(head.headers.get_all(HOST).iter().count() <= 1);
    for name in ["connection", "transfer-encoding", "content-length", "upgrade", "te", "trailer"] {
        assert!(!head.headers.contains_key(name), "{name} crosses: {head:?}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(bytes).await.expect("room");
        client.shutdown().await.expect("open");
        let service = service_fn(|request| {
            judge(request);
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        });
        let _end = http1::Builder::new()
            .max_headers(100)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(server), service)
            .await;
    });
});
