//! Asks a running balancer whether it is well, for scripts and containers that have no HTTP client.
//!
//! The admin port is asked, because it belongs to one process alone and tells which; a public port
//! may be another program's, or still that of the process before.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::{ConfigError, Healthcheck, Settings};

/// Time for each step of the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Longest answer.
const MAX_ANSWER: u64 = 64 * 1024;

/// Why it is not well, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum Unwell {
    /// The settings do not say where to ask.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port is chosen by the system.
    #[error("admin has port 0, which the system chooses: give it a number")]
    NoPort,
    /// Nobody answers.
    #[error("no answer from {0}: {1}")]
    Silent(SocketAddr, std::io::Error),
    /// Something else answers.
    #[error("what answers at {0} is no balancer")]
    Other(SocketAddr),
    /// Another process answers.
    #[error("process {0} answers, not {1}")]
    Process(u64, u32),
    /// It says so itself.
    #[error("not ready yet")]
    NotReady,
}

/// Where clients find the balancer, if it is well.
pub fn run(asked: Healthcheck) -> Result<String, Unwell> {
    let settings = asked.settings.with_file()?;
    let address = reachable(settings.admin_address());
    if address.port() == 0 {
        return Err(Unwell::NoPort);
    }
    let path = if asked.live { wire::path::LIVE } else { wire::path::READY };
    let answer = ask(address, path).map_err(|error| Unwell::Silent(address, error))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(Unwell::Other(address))?;
    let health: serde_json::Value =
        serde_json::from_str(body).map_err(|_| Unwell::Other(address))?;
    let process = health["pid"].as_u64().ok_or(Unwell::Other(address))?;
    if let Some(wanted) = asked.pid.filter(|wanted| u64::from(*wanted) != process) {
        return Err(Unwell::Process(process, wanted));
    }
    if head.split(' ').nth(1) == Some("200") { Ok(url(&settings)) } else { Err(Unwell::NotReady) }
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // In one piece: what answers may judge by what it has read first.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}

/// An address to connect to, where one stands for all of a machine's.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn url(settings: &Settings) -> String {
    let scheme = if settings.tls_cert.is_some() { "https" } else { "http" };
    let listen = settings.listen_address();
    if listen.ip().is_unspecified() || listen.ip().is_loopback() {
        format!("{scheme}://localhost:{}/", listen.port())
    } else {
        format!("{scheme}://{listen}/")
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Asks something that gives this answer.
    fn asked(answer: &'static str, pid: Option<u32>) -> Result<String, Unwell> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let admin = listener.local_addr().expect("bound");
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            let mut request = [0; 1024];
            let count = stream.read(&mut request).expect("a request");
            assert!(request[..count].starts_with(b"GET /v2/health/ready HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).expect("sent");
        });
        let settings = Settings { admin: Some(admin), ..Settings::default() };
        let result = run(Healthcheck { pid, live: false, settings });
        answering.join().expect("no panic");
        result
    }

    #[test]
    fn a_balancer_that_is_ready_says_where_it_is() {
        let ready = "HTTP/1.1 200 OK\r\n\r\n{\"live\":true,\"ready\":true,\"pid\":7}\n";
        assert_eq!(asked(ready, None).expect("ready"), "http://localhost:5000/");
        assert!(asked(ready, Some(7)).is_ok());
        assert!(matches!(asked(ready, Some(8)), Err(Unwell::Process(7, 8))));
    }

    #[test]
    fn one_that_is_not_ready_and_what_is_no_balancer_are_told_apart() {
        let loading = "HTTP/1.1 503 X\r\n\r\n{\"live\":true,\"ready\":false,\"pid\":7}\n";
        assert!(matches!(asked(loading, Some(7)), Err(Unwell::NotReady)));
        for other in [
            "HTTP/1.1 403 Forbidden\r\nServer: AirTunes/1\r\n\r\n",
            "hello",
            "",
            "HTTP/1.1 200 OK\r\n\r\n{}",
        ] {
            assert!(matches!(asked(other, None), Err(Unwell::Other(_))), "{other}");
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound");
        let settings = Settings { admin: Some(free), ..Settings::default() };
        let silent = run(Healthcheck { pid: None, live: false, settings });
        assert!(matches!(silent, Err(Unwell::Silent(..))));
    }
}
