//! Checks whether a running worker is healthy, for scripts and containers without an HTTP client.

use std::io::Write;

use crate::Error;
use crate::config::Address;

/// Arguments of `worker healthcheck`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the worker answers, by the flags and variables that it runs with.
    #[command(flatten)]
    pub address: Address,
    /// Check liveness instead of readiness
    #[arg(long, env = "WORKER_HEALTHCHECK_LIVE")]
    pub live: bool,
}

/// Prints the URL of the worker if it is healthy.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    let address = wire::health::reachable(args.address.listen());
    let unwell = |reason: &str| Error::Unwell { address, reason: reason.to_owned() };
    if address.port() == 0 {
        return Err(unwell("the system chose the port: give its number"));
    }
    let path = if args.live { wire::path::LIVE } else { wire::path::READY };
    let answer = wire::health::ask(address, path)
        .map_err(|error| unwell(&format!("no answer: {error}")))?
        .ok_or_else(|| unwell("what answers is not a worker"))?;
    if !answer.well {
        return Err(unwell("not ready"));
    }
    writeln!(out, "http://{address}/")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    /// Runs the health check against a server that expects a request for `path` and sends `answer`.
    fn asked(live: bool, path: &'static str, answer: &'static str) -> Result<String, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address { listen: listener.local_addr().ok(), port: None };
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(format!("GET {path} HTTP/1.1\r\n").as_bytes()));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let mut out = Vec::new();
        let result = run(&Args { address, live }, &mut out);
        answering.join().unwrap();
        result.map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_worker_that_is_ready_says_where_it_is() {
        let well = "HTTP/1.1 200 OK\r\n\r\n";
        let told = asked(false, "/v2/health/ready", well).unwrap();
        assert!(told.starts_with("http://127.0.0.1:"), "{told}");
        asked(true, "/v2/health/live", well).unwrap();
    }

    #[test]
    fn one_that_is_not_ready_and_what_is_no_worker_are_told_apart() {
        let reason = |answer| asked(false, "/v2/health/ready", answer).unwrap_err().to_string();
        assert!(reason("HTTP/1.1 503 Service Unavailable\r\n\r\n").ends_with("not ready"));
        assert!(reason("SSH-2.0-OpenSSH_9.2\r\n").ends_with("what answers is not a worker"));
        // A port that is bound, so that no other program gets it, but not listened on.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listen = socket.local_addr().ok();
        let silent = Args { address: Address { listen, port: None }, live: false };
        assert!(run(&silent, &mut Vec::new()).unwrap_err().to_string().contains("no answer"));
        let unknown = Address { listen: None, port: Some(0) };
        let unknown = run(&Args { address: unknown, live: false }, &mut Vec::new()).unwrap_err();
        assert!(unknown.to_string().contains("the system chose the port"));
    }
}
