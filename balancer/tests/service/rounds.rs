//! Answers wait for the end of a round before they are written; clients must not notice.

use common::{Act, Running, Stub};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common;

/// Answers with the number of bytes that the query specifies.
fn sized(seen: &common::Seen) -> Act {
    let size = seen.line().split(['=', ' ']).find_map(|part| part.parse().ok()).unwrap_or(0);
    Act::ok(&"x".repeat(size))
}

fn request(size: usize, last: &str) -> String {
    format!("GET /predict?size={size} HTTP/1.1\r\nhost: fleet\r\n{last}\r\n")
}

/// The sizes of the bodies in a sequence of responses.
fn sizes(mut text: &[u8]) -> Vec<usize> {
    let mut sizes = Vec::new();
    while !text.is_empty() {
        let end = text.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        let head = std::str::from_utf8(&text[..end]).expect("text").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.split("content-length: ").nth(1).expect("a length");
        let length: usize = length[..length.find('\r').expect("a line")].parse().expect("a number");
        assert!(text[end..end + length].iter().all(|byte| *byte == b'x'));
        sizes.push(length);
        text = &text[end + length..];
    }
    sizes
}

#[tokio::test]
async fn requests_in_a_row_get_short_and_long_answers_in_their_order() {
    let stub = Stub::start(sized).await;
    let balancer = Running::before(&[&stub]).await;
    let mut client = TcpStream::connect(balancer.address).await.expect("connected");
    let wanted: Vec<usize> = (0..300).map(|n| [1, 3000, 40_000, 15_000][n % 4] + n).collect();
    let mut all: String = wanted.iter().map(|size| request(*size, "")).collect();
    all.push_str(&request(7, "connection: close\r\n"));
    let (mut reader, mut writer) = client.split();
    let write = async {
        writer.write_all(all.as_bytes()).await.expect("written");
    };
    let mut text = Vec::new();
    // The answers exceed the socket buffers, so the balancer has to wait for its client.
    let read = async {
        reader.read_to_end(&mut text).await.expect("closed after the last answer");
    };
    tokio::join!(write, read);
    assert_eq!(sizes(&text), [&wanted[..], &[7]].concat());
}

#[tokio::test]
async fn many_connections_in_one_round_get_their_own_answers() {
    let stub = Stub::start(sized).await;
    let balancer = Running::before(&[&stub]).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(TcpStream::connect(balancer.address).await.expect("connected"));
    }
    for (size, client) in clients.iter_mut().enumerate() {
        let text = request(size * 50, "connection: close\r\n");
        client.write_all(text.as_bytes()).await.expect("written");
    }
    for (size, client) in clients.iter_mut().enumerate() {
        let mut text = Vec::new();
        client.read_to_end(&mut text).await.expect("closed");
        assert_eq!(sizes(&text), [size * 50]);
    }
}
