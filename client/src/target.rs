//! Where requests go: an `http://` or `https://` address, parsed once and resolved once per run.
//!
//! Resolving in advance keeps name lookups out of all measurements.

use std::fmt;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;

use crate::driver::Destination;
use crate::error::Error;
use crate::experiment::Protocol;
use crate::tls::{Tls, Trust};

/// The service under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    is_encrypted: bool,
    host: String,
    port: u16,
    /// The path as the user wrote it.
    path: String,
}

/// Default address of the service.
pub const DEFAULT: &str = "http://127.0.0.1:5000";

impl Target {
    /// Whether it differs from the default.
    pub fn is_elsewhere(&self) -> bool {
        self.to_string() != DEFAULT
    }

    /// The `Host` header: the name, and the port unless it is the default of the scheme. A service
    /// with several names may not recognise one with a default port, and browsers omit it.
    pub fn authority(&self) -> String {
        let usual = if self.is_encrypted { 443 } else { 80 };
        if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// The scheme of the URL: `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.is_encrypted { "https" } else { "http" }
    }

    /// The request target of `route`, below the path of the target's URL, if any. An empty route
    /// gives that path unchanged, including a trailing slash.
    pub fn path(&self, route: &str) -> String {
        if route.is_empty() && !self.path.is_empty() {
            return self.path.clone();
        }
        let path = format!("{}{route}", self.path.trim_end_matches('/'));
        if path.is_empty() { "/".to_owned() } else { path }
    }

    /// Every address that accepts connections, and how they are encrypted.
    pub fn destination(&self, protocol: Protocol, trust: &Trust) -> anyhow::Result<Destination> {
        let tls = self.is_encrypted.then(|| Tls::try_new(self.bare_host(), protocol, trust));
        let tls = tls.transpose()?;
        Ok(Destination { addresses: self.resolve(tls.as_ref())?, tls })
    }

    /// The host without the brackets of an IPv6 address.
    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Every address of the host that accepts a connection, in the order of the name lookup.
    fn resolve(&self, tls: Option<&Tls>) -> Result<Vec<SocketAddr>, Error> {
        let unreachable = |reason: String| Error::Unreachable { target: self.to_string(), reason };
        let host = self.bare_host();
        let addresses =
            (host, self.port).to_socket_addrs().map_err(|error| unreachable(error.to_string()))?;
        let mut reason = "the name has no address".to_owned();
        let mut found = Vec::new();
        for address in addresses.take(MAX_ADDRESSES) {
            if found.contains(&address) {
                continue;
            }
            let connected = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
            let tried = connected
                .map_err(|error| error.to_string())
                .and_then(|stream| tls.map_or(Ok(()), |tls| tls.try_out(stream, CONNECT_TIMEOUT)));
            match tried {
                Ok(()) => found.push(address),
                Err(error) => reason = error,
            }
        }
        if found.is_empty() { Err(unreachable(reason)) } else { Ok(found) }
    }
}

const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// Each is tried before anything is measured, and unresponsive ones take until the timeout.
const MAX_ADDRESSES: usize = 16;

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_scheme =
            if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: http::Uri = with_scheme.parse().map_err(|error| format!("{error}"))?;
        let is_encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("only http:// and https:// can be measured".to_owned()),
        };
        if uri.query().is_some() {
            return Err("a query belongs to the requests: --route '/path?query'".to_owned());
        }
        let authority = uri.authority().ok_or("no host")?;
        let host = Some(authority.host()).filter(|host| !host.is_empty()).ok_or("no host")?;
        // `Uri` accepts any digits after the colon, and then reports that there is no port.
        let port = match authority.as_str().strip_prefix(host) {
            None => return Err("a target has no user name".to_owned()),
            Some("") if is_encrypted => 443,
            Some("") => 80,
            Some(rest) => {
                let number = rest.strip_prefix(':').and_then(|text| text.parse().ok());
                number
                    .filter(|port| *port > 0)
                    .ok_or_else(|| format!("{rest:?} is no port: 1 to 65535"))?
            }
        };
        Ok(Self { is_encrypted, host: host.to_owned(), port, path: uri.path().to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.trim_end_matches('/');
        let slash = if path.len() < self.path.len() && !path.is_empty() { "/" } else { "" };
        write!(f, "{}://{}:{}{path}{slash}", self.scheme(), self.host, self.port)
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
        assert_eq!(target.path(""), "/");
    }

    #[test]
    fn a_path_of_the_target_comes_before_the_route() {
        let target: Target = "http://lab.example/fleet/".parse().unwrap();
        assert_eq!(target.path("/submit"), "/fleet/submit");
        assert_eq!(target.authority(), "lab.example");
        let target: Target = "https://lab.example/fleet".parse().unwrap();
        assert_eq!(target.to_string(), "https://lab.example:443/fleet");
        assert_eq!(
            (target.path("").as_str(), target.authority().as_str()),
            ("/fleet", "lab.example")
        );
        let target: Target = "https://lab.example:80".parse().unwrap();
        assert_eq!(target.authority(), "lab.example:80");
    }

    #[test]
    fn a_slash_at_the_end_of_a_path_is_part_of_it() {
        let target: Target = "http://lab.example/predict/".parse().unwrap();
        assert_eq!([target.path(""), target.path("/a")], ["/predict/", "/predict/a"]);
        let again: Target = target.to_string().parse().unwrap();
        assert_eq!(again, target, "an agent is told the address as text");
        assert_eq!("http://lab.example/".parse::<Target>().unwrap().path(""), "/");
    }

    #[test]
    fn other_schemes_and_nonsense_are_refused() {
        for text in ["ftp://host/", "http://", "https://", "http://host/?a=b", "http://a b/", ""] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_that_is_none_is_never_replaced_by_the_default() {
        for text in [
            "127.0.0.1:99999",
            "127.0.0.1:65536",
            "127.0.0.1:0",
            "127.0.0.1:",
            "[::1]:99999",
            "http://host:80a/",
            "http://user@host:5000/",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        assert_eq!("[::1]:5000".parse::<Target>().unwrap().authority(), "[::1]:5000");
    }

    #[test]
    fn an_ipv6_address_resolves_without_its_brackets() {
        let listener = std::net::TcpListener::bind("[::1]:0");
        let Ok(listener) = listener else {
            return; // no IPv6 on this machine
        };
        let port = listener.local_addr().unwrap().port();
        let target: Target = format!("http://[::1]:{port}").parse().unwrap();
        assert_eq!(target.resolve(None).unwrap()[0].port(), port);
    }
}
