//! Addresses to listen on, as people write them.
//!
//! Programs want `0.0.0.0:5000`, but `5000`, `:5000`, `localhost:5000` and a copied
//! `http://0.0.0.0:5000/` are understood as well. Missing parts are taken from the default; the
//! error for anything else contains a valid example.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

/// Why a text is not an address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; write ADDRESS:PORT, for example {example}")]
pub struct AddressError {
    problem: String,
    example: SocketAddr,
}

/// Reads an address to listen on. A port alone means that port on `default`'s address, and `:PORT`
/// that port on every address. Names are looked up; an IPv4 address wins.
pub fn listen(text: &str, default: SocketAddr) -> Result<SocketAddr, AddressError> {
    let wrong = |problem: &str| AddressError { problem: problem.to_owned(), example: default };
    let text = text.trim();
    if text.is_empty() {
        return Err(wrong("there is no address"));
    }
    if text.starts_with("https://") {
        return Err(wrong("https:// is no part of it; a certificate switches TLS on"));
    }
    let text =
        text.strip_prefix("http://").map_or(text, |rest| rest.strip_suffix('/').unwrap_or(rest));
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.parse::<IpAddr>().is_ok() || text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err(wrong(if text.contains(':') && !text.starts_with('[') {
            "an IPv6 address stands in brackets, and the port is missing"
        } else {
            "the port is missing"
        }));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None if is_number(text) => (DEFAULT_HOST, text),
        None => return Err(wrong("the port is missing")),
    };
    if !is_number(port) {
        return Err(wrong("the port is not a number"));
    }
    let port: u16 = port.parse().map_err(|_| wrong("the port is not a number from 0 to 65535"))?;
    match host {
        DEFAULT_HOST => Ok(SocketAddr::new(default.ip(), port)),
        "" | "*" => Ok((Ipv4Addr::UNSPECIFIED, port).into()),
        host => look_up(host, port).map_err(|problem| wrong(&problem)),
    }
}

/// Placeholder for a host that is left out; no host can have this name.
const DEFAULT_HOST: &str = "?";

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn look_up(host: &str, port: u16) -> Result<SocketAddr, String> {
    if host.contains(['/', '@', '?', '[', ']', ':', ' ']) {
        return Err(format!("{host:?} is neither an address nor a name"));
    }
    let addresses = (host, port).to_socket_addrs();
    let addresses: Vec<SocketAddr> =
        addresses.map_err(|error| format!("{host:?} has no address ({error})"))?.collect();
    let best = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    best.copied().ok_or_else(|| format!("{host:?} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);

    #[test]
    fn an_address_is_understood_however_it_is_usually_written() {
        for (text, address) in [
            ("5000", "127.0.0.1:5000"),
            (":5000", "0.0.0.0:5000"),
            ("*:5000", "0.0.0.0:5000"),
            ("0.0.0.0:5000", "0.0.0.0:5000"),
            (" 10.0.0.1:0 ", "10.0.0.1:0"),
            ("localhost:5000", "127.0.0.1:5000"),
            ("[::]:5000", "[::]:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("http://127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://localhost:5000/", "127.0.0.1:5000"),
            ("http://[::1]:5000/", "[::1]:5000"),
        ] {
            let read = listen(text, DEFAULT).map(|address| address.to_string());
            assert_eq!(read.as_deref(), Ok(address), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_answered_with_an_example() {
        for (text, problem) in [
            ("", "no address"),
            ("127.0.0.1", "port is missing"),
            ("localhost", "port is missing"),
            ("::1", "brackets"),
            ("[::1]", "port is missing"),
            ("::1:x", "not a number"),
            ("127.0.0.1:", "not a number"),
            ("127.0.0.1:99999", "from 0 to 65535"),
            ("99999", "from 0 to 65535"),
            ("127.0.0.1:-1", "not a number"),
            ("127.0.0.1:+1", "not a number"),
            ("https://127.0.0.1:5000", "certificate"),
            ("http://a/b:5000", "neither an address nor a name"),
            ("user@host:5000", "neither an address nor a name"),
            ("1:2:3", "neither an address nor a name"),
        ] {
            let error = listen(text, DEFAULT).expect_err(text).to_string();
            assert!(error.contains(problem), "{text}: {error}");
            assert!(error.ends_with("for example 127.0.0.1:9900"), "{text}: {error}");
        }
    }
}
