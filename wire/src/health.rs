//! Queries the health of a program on this machine, without an HTTP client.
//!
//! Containers and scripts run the program itself (`balancer healthcheck`, `worker healthcheck`), so
//! an image needs nothing else. Every step is bounded in time and the answer in length.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Time limit for each step of the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Time limit for the whole answer.
const WHOLE: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// What a program reports about its health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether the answer was 200.
    pub well: bool,
    /// The body of the answer.
    pub body: String,
}

/// Requests `path` from `address`; `None` if the response is not HTTP.
pub fn ask(address: SocketAddr, path: &str) -> io::Result<Option<Health>> {
    ask_as(address, path, None, MAX_ANSWER)
}

/// Like [`ask`], with an operator's token, for an answer of at most `max` bytes.
pub fn ask_as(
    address: SocketAddr,
    path: &str,
    token: Option<&str>,
    max: usize,
) -> io::Result<Option<Health>> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_write_timeout(Some(LIMIT))?;
    // In one piece, because a server may judge a request by its first read.
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{token}\r\n");
    stream.write_all(request.as_bytes())?;
    let answer = receive(&stream, max, WHOLE)?;
    Ok(read(&String::from_utf8_lossy(&answer)))
}

/// Everything that arrives within `limit`, but no more than `max` bytes, so that a peer which sends
/// a byte now and then does not hold up the caller.
#[expect(
    clippy::disallowed_types,
    reason = "it reads a socket without a runtime whose time could be paused"
)]
fn receive(mut stream: &TcpStream, max: usize, limit: Duration) -> io::Result<Vec<u8>> {
    let end = std::time::Instant::now() + limit;
    let (mut answer, mut block) = (Vec::new(), [0; 4096]);
    while answer.len() < max {
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left.min(LIMIT)))?;
        let wanted = block.len().min(max - answer.len());
        match stream.read(&mut block[..wanted]) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&block[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

fn read(answer: &str) -> Option<Health> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some(Health { well: status == "200", body: body.to_owned() })
}

/// The address to connect to: loopback, if a program listens on all addresses.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_all_is_asked_on_this_machine() {
        for (given, asked) in [
            ("0.0.0.0:5000", "127.0.0.1:5000"),
            ("[::]:5000", "[::1]:5000"),
            ("10.0.0.7:5000", "10.0.0.7:5000"),
        ] {
            assert_eq!(reachable(given.parse().expect("one")).to_string(), asked);
        }
    }

    #[test]
    fn a_peer_that_answers_a_byte_at_a_time_is_given_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let asking = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (mut slow, _) = listener.accept().expect("connected");
        let dripping = std::thread::spawn(move || {
            while slow.write_all(b"x").is_ok() {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        let error = receive(&asking, 1_000_000, Duration::from_millis(200)).expect_err("no end");
        assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{error}");
        drop(asking);
        dripping.join().expect("it hears of the end");
    }

    #[test]
    fn no_more_is_read_than_is_wanted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let asking = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (mut long, _) = listener.accept().expect("connected");
        long.write_all("x".repeat(20_000).as_bytes()).expect("sent");
        drop(long);
        let wait = Duration::from_secs(10);
        assert_eq!(receive(&asking, 10_000, wait).expect("read").len(), 10_000);
    }

    #[test]
    fn only_a_200_is_well_and_only_http_is_an_answer() {
        let well = |answer| read(answer).map(|health| health.well);
        assert_eq!(well("HTTP/1.1 200 OK\r\nA: b\r\n\r\nyes"), Some(true));
        assert_eq!(well("HTTP/1.1 503 Service Unavailable\r\n\r\n"), Some(false));
        for other in ["", "hello", "hello\r\n\r\n", "HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert_eq!(well(other), None, "{other:?}");
        }
        assert_eq!(
            read("HTTP/1.0 200 OK\r\n\r\nyes").map(|health| health.body).as_deref(),
            Some("yes")
        );
    }
}
