//! Checks whether a running balancer is healthy, for scripts and containers without an HTTP client.
//!
//! It uses the admin port, which belongs to one process and reports its id; a public port may
//! belong to another program, or still to the previous process.

use std::net::SocketAddr;

use wire::health;

use crate::config::{ConfigError, Healthcheck, Settings};

/// Why the balancer is unhealthy, or not known to be healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unwell {
    /// The settings do not say where to ask.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port is chosen by the system.
    #[error("admin has port 0, which the system chooses: give it a number")]
    NoPort,
    /// There is no answer.
    #[error("no answer from {0}: {1}")]
    Silent(SocketAddr, std::io::Error),
    /// Something other than a balancer answers.
    #[error("the process answering at {0} is not a balancer")]
    Other(SocketAddr),
    /// Another balancer process answers.
    #[error("process {0} answers, not {1}")]
    Process(u64, u32),
    /// The balancer reports that it is not ready.
    #[error("not ready yet")]
    NotReady,
}

/// The address for clients, if the balancer is healthy.
pub fn run(asked: Healthcheck) -> Result<String, Unwell> {
    let settings = asked.settings.with_file()?;
    let address = health::reachable(settings.admin_address());
    if address.port() == 0 {
        return Err(Unwell::NoPort);
    }
    let path = if asked.live { wire::path::LIVE } else { wire::path::READY };
    let answer = health::ask(address, path).map_err(|error| Unwell::Silent(address, error))?;
    let answer = answer.ok_or(Unwell::Other(address))?;
    let told: serde_json::Value =
        serde_json::from_str(&answer.body).map_err(|_| Unwell::Other(address))?;
    let process = told["pid"].as_u64().ok_or(Unwell::Other(address))?;
    if let Some(wanted) = asked.pid.filter(|wanted| u64::from(*wanted) != process) {
        return Err(Unwell::Process(process, wanted));
    }
    if answer.well { Ok(url(&settings)) } else { Err(Unwell::NotReady) }
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
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Runs the check against a server with this answer.
    fn asked(answer: &'static str, pid: Option<u32>) -> Result<String, Unwell> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let admin = listener.local_addr().expect("bound");
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a question comes");
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
        // Bound, so that no other program gets it, but not listening.
        let silent = tokio::net::TcpSocket::new_v4().expect("a socket");
        silent.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
        let settings = Settings { admin: silent.local_addr().ok(), ..Settings::default() };
        let silent = run(Healthcheck { pid: None, live: false, settings });
        assert!(matches!(silent, Err(Unwell::Silent(..))));
    }
}
