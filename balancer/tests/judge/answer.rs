//! What must hold for any bytes from an endpoint: whatever the balancer accepts as a complete
//! answer is one for hyper's client too, with the same status, fields and body, and hyper would
//! reuse every connection that the balancer reuses. The balancer may reject what hyper accepts.
//! Both the test `heads` and the fuzz target `answer` use this.

use std::time::Duration;

use answer::LOAD;
use answer::whole::{Reading, Sent, Whole, read_whole};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Fields sorted by name; those with the same name in their original order.
type Fields = Vec<(String, Vec<u8>)>;

/// A complete answer, as either parser read it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
}

/// How another parser interprets the bytes.
#[derive(Debug)]
enum Theirs {
    Complete { answer: Answer, keeps: bool },
    Pending,
    Refused,
}

/// Compares the results, with the connection open and closed; returns the balancer's at the end.
pub(crate) fn compare(pieces: &[&[u8]], is_head_request: bool) -> Option<Answer> {
    let mut last = None;
    for is_closed in [false, true] {
        let shown = pieces.concat();
        let shown = shown.escape_ascii();
        let sent = Sent { pieces, is_closed };
        let theirs = by_hyper(sent, is_head_request);
        last = match read_whole(sent, is_head_request) {
            Reading::Complete(ours) => {
                let is_taken = matches!(theirs, Theirs::Complete { .. });
                assert!(is_taken, "taken here, hyper: {theirs:?} (closed: {is_closed}): {shown}");
                let Theirs::Complete { answer, keeps } = theirs else { return None };
                assert!(keeps || !ours.keeps, "used again here, not by hyper: {shown}");
                let ours = of(*ours);
                assert_eq!(ours, answer, "{shown}");
                Some(ours)
            }
            Reading::Pending => {
                let is_complete = matches!(theirs, Theirs::Complete { .. });
                assert!(!is_complete, "waited for here, hyper: {theirs:?}: {shown}");
                None
            }
            Reading::Refused => None,
        };
    }
    last
}

fn of(Whole { head, body, .. }: Whole) -> Answer {
    Answer { status: head.parts.status, fields: sorted(&head.parts.headers), body }
}

fn by_hyper(sent: Sent<'_>, is_head_request: bool) -> Theirs {
    // Its clock advances when there is nothing left to do, so that waiting takes no time.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(1 << 20);
        let exchange = exchange(near, far, sent, is_head_request);
        tokio::time::timeout(Duration::from_secs(1), exchange).await.unwrap_or(Theirs::Pending)
    })
}

async fn exchange(
    near: DuplexStream,
    mut far: DuplexStream,
    sent: Sent<'_>,
    is_head_request: bool,
) -> Theirs {
    let (mut sender, connection) =
        http1::handshake::<_, Empty<Bytes>>(TokioIo::new(near)).await.expect("a new connection");
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(if is_head_request { "HEAD" } else { "GET" })
        .uri("/")
        .body(Empty::new())
        .expect("a request");
    let answering = async {
        // Bytes that come before a request are another matter.
        far.read_buf(&mut Vec::with_capacity(1024)).await.expect("a request");
        for piece in sent.pieces {
            if far.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if sent.is_closed {
            let _is_gone = far.shutdown().await;
        }
    };
    let (response, ()) = tokio::join!(sender.send_request(request), answering);
    let Ok(response) = response else { return Theirs::Refused };
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await else { return Theirs::Refused };
    // It checks for bytes after the answer before it reports that it is ready.
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    let keeps = sender.is_ready() && !driver.is_finished();
    let bodiless = is_head_request
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status);
    let mut fields = head.headers;
    let is_chunked = fields.contains_key("transfer-encoding");
    remove_those_of_the_connection(&mut fields);
    // The length of a body that would be there is given once, that of an actual body not at all.
    let length = fields.remove(CONTENT_LENGTH);
    if bodiless && !is_chunked {
        let number = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        fields.extend(number.map(|number| (CONTENT_LENGTH, number.into())));
    }
    let answer =
        Answer { status: head.status, fields: sorted(&fields), body: body.to_bytes().to_vec() };
    Theirs::Complete { answer, keeps }
}

fn remove_those_of_the_connection(fields: &mut HeaderMap) {
    let values: Vec<_> = fields.get_all(CONNECTION).iter().cloned().collect();
    let tokens = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let named: Vec<HeaderName> =
        tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok()).collect();
    for name in named {
        if ![CONTENT_TYPE, CONTENT_LENGTH].contains(&name) {
            fields.remove(name);
        }
    }
    let own = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"];
    for name in own.into_iter().chain(["transfer-encoding", LOAD.as_str()]) {
        fields.remove(name);
    }
}

fn sorted(fields: &HeaderMap) -> Fields {
    let mut all: Fields = fields
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}
