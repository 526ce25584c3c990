//! A connection to services that answer in pieces, early, or not as they should.

use std::time::Duration;

use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Both ends of a connection.
async fn connected() -> (Http1, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    near.set_nodelay(true).unwrap();
    let (far, _) = listener.accept().await.unwrap();
    far.set_nodelay(true).unwrap();
    (Http1::new(Transport::Plain(near)), far)
}

fn request(body: impl Into<Bytes>) -> WireRequest {
    let body = body.into();
    let head = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len());
    WireRequest { head: head.into(), body, is_head: false }
}

/// Status and body of the answer to a request.
async fn ask(near: &mut Http1, request: WireRequest) -> Result<(StatusCode, Vec<u8>), Unanswered> {
    let head = near.send(request).await?;
    let mut body = Vec::new();
    while let Some(part) = near.part().await.map_err(Unanswered::Failed)? {
        body.extend_from_slice(&part);
    }
    Ok((head.parts.status, body))
}

/// The outcome of an answer that arrives in pieces of `cut` bytes, and whether the connection may
/// be used again.
async fn answered(
    wire: &str,
    cut: usize,
    is_head: bool,
) -> (Result<(u16, String), Unanswered>, bool) {
    let (mut near, mut far) = connected().await;
    let service = async move {
        far.read_buf(&mut Vec::with_capacity(1024)).await.unwrap();
        for piece in wire.as_bytes().chunks(cut) {
            // The other side may have stopped reading.
            let _is_gone = far.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        if wire.contains("length") {
            // Kept open: the end has to be known without a close.
            return Some(far);
        }
        None
    };
    let asked = WireRequest { is_head, ..request("") };
    let (answer, _far) = tokio::join!(ask(&mut near, asked), service);
    let told =
        |(status, body): (StatusCode, _)| (status.as_u16(), String::from_utf8(body).expect("text"));
    (answer.map(told), near.is_done())
}

#[tokio::test]
async fn an_answer_is_the_same_in_whatever_pieces_it_arrives() {
    let ok = |status: u16, body: &str| Ok((status, body.to_owned()));
    let long = "x".repeat(100_000);
    let length = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}", long.len());
    let answers = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", false, ok(200, "hello"), true),
        ("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", false, ok(503, ""), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true, ok(200, ""), true),
        (
            "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
            false,
            ok(200, "a"),
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\na",
            false,
            ok(200, "a"),
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nx-length: 1\r\n\r\n",
            false,
            ok(200, "abc"),
            true,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nto the end", false, ok(200, "to the end"), false),
        (length.as_str(), false, ok(200, &long), true),
    ];
    for (wire, is_head, expected, keeps) in answers {
        for cut in [1, 2, 7, wire.len()] {
            if wire.len() / cut > 20_000 {
                continue;
            }
            let found = answered(wire, cut, is_head).await;
            assert_eq!(found, (expected.clone(), keeps), "{wire:.80} in pieces of {cut}");
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_or_ends_too_soon_is_told_apart() {
    let failed = |failure| Err(Unanswered::Failed(failure));
    for (wire, expected) in [
        ("hello\r\n\r\n", failed(Failure::Malformed)),
        ("HTTP/1.1 101 Switching\r\n\r\n", failed(Failure::Malformed)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", failed(Failure::Malformed)),
        ("", failed(Failure::Closed)),
        ("HTTP/1.1 200 OK\r\nx-a", failed(Failure::Closed)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel", failed(Failure::Closed)),
    ] {
        assert_eq!(answered(wire, wire.len().max(1), false).await, (expected, false), "{wire}");
    }
}

#[tokio::test]
async fn a_large_request_is_sent_whole_while_its_answer_comes() {
    let (mut near, mut far) = connected().await;
    let body: Vec<u8> = (0..8_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let whole = request(body.clone());
    let length = whole.head.len() + body.len();
    let service = async move {
        // The head of the answer and half of its body before anything is read.
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
        let mut read = Vec::new();
        while read.len() < length {
            assert_ne!(far.read_buf(&mut read).await.unwrap(), 0);
        }
        far.write_all(b"cd").await.unwrap();
        (read, far)
    };
    let (answer, (read, _far)) = tokio::join!(ask(&mut near, whole), service);
    assert_eq!(answer, Ok((StatusCode::OK, b"abcd".to_vec())));
    assert!(read.ends_with(&body), "not all of it arrived, or not as it was");
    assert!(near.is_done());
}

#[tokio::test]
async fn an_answer_to_half_a_request_counts_and_its_connection_is_not_used_again() {
    let (mut near, mut far) = connected().await;
    far.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    let answer = ask(&mut near, request(vec![0; 64 << 20])).await;
    assert_eq!(answer, Ok((StatusCode::PAYLOAD_TOO_LARGE, b"no".to_vec())));
    assert!(!near.is_done());
}

/// What the other side did is only seen once the event loop has polled for it.
async fn until_unusable(near: &mut Http1) {
    let noticed = async {
        while near.is_usable() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), noticed).await.expect("it notices");
}

#[tokio::test]
async fn a_connection_on_which_something_came_in_between_is_not_used_again() {
    for more in [&b"HTTP/1.1 408 Timeout\r\n\r\n"[..], b""] {
        let (mut near, mut far) = connected().await;
        assert!(near.is_usable(), "it is new");
        let service = async {
            far.read_buf(&mut Vec::with_capacity(1024)).await.unwrap();
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask(&mut near, request("")), service);
        assert_eq!(answer.unwrap().0, StatusCode::OK);
        assert!(near.is_usable(), "nothing has come");
        far.write_all(more).await.unwrap();
        far.shutdown().await.unwrap();
        until_unusable(&mut near).await;
    }
}

#[tokio::test]
async fn what_could_not_be_sent_at_all_is_known() {
    let (mut near, far) = connected().await;
    far.set_zero_linger().unwrap();
    drop(far);
    until_unusable(&mut near).await;
    assert_eq!(ask(&mut near, request("")).await, Err(Unanswered::NothingSent));
}
