//! Where requests go: an `http://` address, parsed once, resolved once a run.
//!
//! Resolving ahead keeps name lookups out of every measured time.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::error::Error;

/// The service under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
    prefix: String,
}

/// Where the service is unless somebody says otherwise.
pub const DEFAULT: &str = "http://127.0.0.1:5000";

impl Target {
    /// Whether somebody said otherwise.
    pub fn is_elsewhere(&self) -> bool {
        self.to_string() != DEFAULT
    }

    /// The `Host` header: the name and port as the user wrote them.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The request target of `route`, below the path that the URL of the target may carry.
    pub fn path(&self, route: &str) -> String {
        format!("{}{route}", self.prefix)
    }

    /// The first address of the host that accepts a connection.
    pub fn resolve(&self) -> Result<SocketAddr, Error> {
        let unreachable = |reason: String| Error::Unreachable { target: self.to_string(), reason };
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let addresses =
            (host, self.port).to_socket_addrs().map_err(|error| unreachable(error.to_string()))?;
        let mut reason = "the name has no address".to_owned();
        for address in addresses {
            match std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(_) => return Ok(address),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(unreachable(reason))
    }
}

const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_scheme =
            if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: http::Uri = with_scheme.parse().map_err(|error| format!("{error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err("only http:// can be measured; end TLS in front of it".to_owned());
        }
        if uri.query().is_some() {
            return Err("a target has no query".to_owned());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("no host")?;
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(80),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn a_bare_address_is_http() {
        let target: Target = "127.0.0.1:5000".parse().unwrap();
        assert_eq!(target.to_string(), "http://127.0.0.1:5000");
        assert_eq!(target.path("/submit"), "/submit");
    }

    #[test]
    fn a_path_of_the_target_comes_before_the_route() {
        let target: Target = "http://lab.example/fleet/".parse().unwrap();
        assert_eq!(target.path("/submit"), "/fleet/submit");
        assert_eq!(target.authority(), "lab.example:80");
    }

    #[test]
    fn other_schemes_and_nonsense_are_refused() {
        for text in ["https://host/", "http://", "http://host/?a=b", "http://a b/", ""] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_ipv6_address_resolves_without_its_brackets() {
        let listener = std::net::TcpListener::bind("[::1]:0");
        let Ok(listener) = listener else {
            return; // no IPv6 on this machine
        };
        let port = listener.local_addr().unwrap().port();
        let target: Target = format!("http://[::1]:{port}").parse().unwrap();
        assert_eq!(target.resolve().unwrap().port(), port);
    }
}
