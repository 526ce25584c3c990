//! Whether a request can come from the operator: pure rules about its head.
//!
//! An order (drain, load, unload) is trusted because of where it comes from. Three kinds of sender
//! appear to be on the operator's machine without being there: a page of another site in the
//! operator's browser, a foreign name that was made to point here (DNS rebinding), and a client
//! behind a proxy on this machine. Browsers send the name of the requested host and of the
//! requesting page, and proxies usually announce themselves; a request that such fields show not to
//! be the operator's is refused. Balancer and worker apply the same rules.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use http::header::{HOST, HeaderName, ORIGIN, REFERER};
use http::{HeaderMap, HeaderValue, Uri};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Fields that proxies add, besides those that begin with one of [`PROXY_PREFIXES`].
const PROXY_FIELDS: [&str; 8] = [
    "via",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-cluster-client-ip",
];
const PROXY_PREFIXES: [&str; 3] = ["x-forwarded", "x-original-", "x-envoy-"];

/// Longest host that is repeated in a message.
const MAX_SHOWN: usize = 100;

/// Why a request is not accepted as the operator's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// It does not name the host that it is meant for.
    #[error("the request names no host")]
    NoHost,
    /// It is meant for another name.
    #[error("{0} is not an address of this server")]
    Host(String),
    /// It comes from a page of another site, according to this header field.
    #[error("the request comes from a page of another site ({0})")]
    Page(HeaderName),
    /// It came through a proxy, according to this header field.
    #[error("the request came through a proxy ({0})")]
    Proxy(HeaderName),
}

/// A host without its port: an address or a name, in lower case and without a dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum HostName {
    /// `127.0.0.1`, `[::1]`
    Address(IpAddr),
    /// `fleet.example`
    Name(String),
}

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Ok(address) = unbracketed.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 253 || !name.bytes().all(is_plain) {
            return Err(format!(
                "{text:?} is not a host name; write it without scheme and port, for example fleet.example"
            ));
        }
        Ok(Self::Name(name.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for HostName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A host and its port, as in `Host`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority {
    name: HostName,
    port: Option<u16>,
}

impl Authority {
    fn parse(text: &str) -> Option<Self> {
        let (name, port) = match text.rfind(']') {
            Some(end) if text.starts_with('[') => {
                text[1..end].parse::<Ipv6Addr>().ok()?;
                let port = &text[end + 1..];
                (&text[..=end], if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            Some(_) => return None,
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None | Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(port.parse().ok()?)
            }
            Some(_) => return None,
        };
        Some(Self { name: name.parse().ok()?, port })
    }
}

/// The head of a request, seen as an order.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The request target.
    pub uri: &'a Uri,
}

impl Caller<'_> {
    /// Whether a browser sent it on behalf of a page. Browsers name the page with every POST.
    pub fn is_page(&self) -> bool {
        self.headers.contains_key(ORIGIN)
            || self.headers.contains_key(REFERER)
            || self.headers.keys().any(|name| name.as_str().starts_with("sec-fetch-"))
    }

    /// Refuses a request that is meant for another host. `local` is the address that the client
    /// connected to, if known; `names` are further names of this host.
    pub fn check_host(&self, local: Option<IpAddr>, names: &[HostName]) -> Result<(), Stranger> {
        let is_own = |name: &HostName| {
            names.contains(name)
                || match name {
                    HostName::Address(address) => {
                        address.is_loopback() || local.is_some_and(|l| l.to_canonical() == *address)
                    }
                    HostName::Name(name) => name == "localhost",
                }
        };
        let mut is_named = false;
        for text in self.hosts() {
            is_named = true;
            if !Authority::parse(text).is_some_and(|authority| is_own(&authority.name)) {
                return Err(Stranger::Host(shown(text)));
            }
        }
        if is_named { Ok(()) } else { Err(Stranger::NoHost) }
    }

    /// Refuses changes requested by a page of another origin.
    pub fn check_page(&self) -> Result<(), Stranger> {
        if !self.is_own_site() {
            return Err(Stranger::Page(SEC_FETCH_SITE));
        }
        self.check_origin()?;
        // Old browsers send no Origin with some POSTs.
        if !self.headers.contains_key(ORIGIN) && !self.all_own(REFERER) {
            return Err(Stranger::Page(REFERER));
        }
        Ok(())
    }

    /// Refuses reads by a page of another origin. Links from elsewhere are allowed.
    pub fn check_page_reads(&self) -> Result<(), Stranger> {
        self.check_origin()?;
        let says = |name, word: &str| self.headers.get(name).is_some_and(|value| value == word);
        let is_link = says(SEC_FETCH_MODE, "navigate") && says(SEC_FETCH_DEST, "document");
        if is_link || self.is_own_site() { Ok(()) } else { Err(Stranger::Page(SEC_FETCH_SITE)) }
    }

    /// Refuses a request that came through a proxy: the address of its connection says nothing
    /// about its sender.
    pub fn check_direct(&self) -> Result<(), Stranger> {
        let is_added = |name: &HeaderName| {
            let name = name.as_str();
            PROXY_FIELDS.contains(&name)
                || PROXY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        match self.headers.keys().find(|name| is_added(name)) {
            Some(name) => Err(Stranger::Proxy(name.clone())),
            None => Ok(()),
        }
    }

    /// Whether no other site is involved according to the browser, if it says anything about it.
    fn is_own_site(&self) -> bool {
        let is_own = |value: &HeaderValue| matches!(value.as_bytes(), b"same-origin" | b"none");
        self.headers.get_all(SEC_FETCH_SITE).iter().all(is_own)
    }

    fn check_origin(&self) -> Result<(), Stranger> {
        if self.all_own(ORIGIN) { Ok(()) } else { Err(Stranger::Page(ORIGIN)) }
    }

    /// Whether every field of this name names the host that received the request.
    fn all_own(&self, name: HeaderName) -> bool {
        let own = self.hosts().next().and_then(Authority::parse);
        self.headers.get_all(name).iter().all(|value| {
            value
                .to_str()
                .ok()
                .is_some_and(|origin| own.as_ref().is_some_and(|own| is_same_origin(origin, own)))
        })
    }

    /// The hosts that the request names: in its target and in its `Host` fields.
    fn hosts(&self) -> impl Iterator<Item = &str> {
        let fields = self.headers.get_all(HOST).iter();
        // A field that is not text is not a host either.
        let fields = fields.map(|value| value.to_str().unwrap_or("?"));
        self.uri.authority().map(http::uri::Authority::as_str).into_iter().chain(fields)
    }
}

/// Whether an address such as `http://localhost:9900/fleet` belongs to `host`.
fn is_same_origin(address: &str, host: &Authority) -> bool {
    let Some((scheme, rest)) = address.split_once("://") else { return false };
    let default = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Authority::parse(&rest[..end]).is_some_and(|origin| {
        origin.name == host.name && origin.port.unwrap_or(default) == host.port.unwrap_or(default)
    })
}

fn shown(host: &str) -> String {
    let end = host.char_indices().nth(MAX_SHOWN).map_or(host.len(), |(end, _)| end);
    host[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));

    fn head(target: &str, fields: &[(&str, &str)]) -> (Uri, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        (target.parse().expect("a target"), headers)
    }

    fn host(host: &str) -> Result<(), Stranger> {
        let (uri, headers) = head("/", &[("Host", host)]);
        let names = ["fleet.example".parse().expect("a name")];
        Caller { headers: &headers, uri: &uri }.check_host(Some(LAN), &names)
    }

    fn page(fields: &[(&str, &str)]) -> Result<(), Stranger> {
        let (uri, headers) = head("/", fields);
        Caller { headers: &headers, uri: &uri }.check_page()
    }

    fn reads(fields: &[(&str, &str)]) -> Result<(), Stranger> {
        let (uri, headers) = head("/", fields);
        Caller { headers: &headers, uri: &uri }.check_page_reads()
    }

    #[test]
    fn the_address_itself_and_names_that_are_allowed_are_own_hosts() {
        for own in [
            "127.0.0.1",
            "127.0.0.1:9900",
            "127.0.0.2:1",
            "localhost",
            "LocalHost:9900",
            "localhost.",
            "localhost.:9900",
            "[::1]",
            "[::1]:9900",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]:80",
            "10.0.0.5:9900",
            "fleet.example",
            "FLEET.example.:443",
        ] {
            assert_eq!(host(own), Ok(()), "{own}");
        }
    }

    #[test]
    fn every_other_host_is_a_strangers() {
        for foreign in [
            "evil.example",
            "evil.example:9900",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "fleet.example.evil.example",
            "notlocalhost",
            "a",
            "",
            ":9900",
            "10.0.0.6:9900",
            "0.0.0.0:9900",
            "[::]:9900",
            "::1",
            "[::1",
            "[::1]evil",
            "[127.0.0.1]",
            "127.0.0.1:9900@evil.example",
            "evil.example@127.0.0.1",
            "127.0.0.1:99999",
            "127.0.0.1:+80",
            "127.0.0.1:80:80",
            "localhost..",
            "localhost%00",
            "127.0.0.1, evil.example",
        ] {
            assert!(matches!(host(foreign), Err(Stranger::Host(_))), "{foreign}");
        }
    }

    #[test]
    fn a_request_without_a_host_is_for_nobody_and_one_with_two_for_both() {
        let check = |target: &str, fields: &[(&str, &str)]| {
            let (uri, headers) = head(target, fields);
            Caller { headers: &headers, uri: &uri }.check_host(None, &[])
        };
        assert_eq!(check("/", &[]), Err(Stranger::NoHost));
        assert_eq!(check("http://localhost:1/x", &[]), Ok(()));
        assert_eq!(check("http://localhost:1/x", &[("Host", "localhost:1")]), Ok(()));
        for (target, hosts) in [
            ("http://evil.example/x", vec!["localhost"]),
            ("http://localhost/x", vec!["evil.example"]),
            ("/x", vec!["localhost", "evil.example"]),
            ("/x", vec!["evil.example", "localhost"]),
        ] {
            let fields: Vec<(&str, &str)> = hosts.iter().map(|host| ("Host", *host)).collect();
            assert!(matches!(check(target, &fields), Err(Stranger::Host(_))), "{target} {hosts:?}");
        }
    }

    #[test]
    fn only_pages_of_the_same_origin_may_order() {
        let from = |host, origin| page(&[("Host", host), ("Origin", origin)]);
        for (host, origin) in [
            ("127.0.0.1:9900", "http://127.0.0.1:9900"),
            ("localhost:9900", "HTTP://LOCALHOST:9900"),
            ("[::1]:9900", "http://[::1]:9900"),
            ("fleet.example", "https://fleet.example"),
            ("fleet.example:443", "https://fleet.example"),
            ("fleet.example", "http://fleet.example:80"),
        ] {
            assert_eq!(from(host, origin), Ok(()), "{host} {origin}");
        }
        for origin in [
            "https://evil.example",
            "null",
            "",
            "file://",
            "chrome-extension://abcdef",
            "http://localhost:9900",
            "http://127.0.0.1",
            "http://127.0.0.1:9901",
            "ftp://127.0.0.1:9900",
            "127.0.0.1:9900",
            "http://127.0.0.1:9900@evil.example",
            "http://127.0.0.1:9900 http://evil.example",
            "http://127.0.0.1:9900.evil.example",
        ] {
            assert_eq!(from("127.0.0.1:9900", origin), Err(Stranger::Page(ORIGIN)), "{origin}");
        }
        let both = [("Host", "h"), ("Origin", "http://h"), ("Origin", "http://evil.example")];
        assert_eq!(page(&both), Err(Stranger::Page(ORIGIN)));
    }

    #[test]
    fn fetch_metadata_and_the_referer_count_too() {
        for site in ["cross-site", "same-site", "Same-Origin", "", "anything"] {
            let fields = [("Host", "h"), ("Sec-Fetch-Site", site)];
            assert_eq!(page(&fields), Err(Stranger::Page(SEC_FETCH_SITE)), "{site}");
        }
        for site in ["same-origin", "none"] {
            assert_eq!(page(&[("Host", "h"), ("Sec-Fetch-Site", site)]), Ok(()), "{site}");
        }
        let from = |referer| page(&[("Host", "h:1"), ("Referer", referer)]);
        assert_eq!(from("http://h:1/fleet?x=1"), Ok(()));
        assert_eq!(from("https://evil.example/?http://h:1/"), Err(Stranger::Page(REFERER)));
        assert_eq!(page(&[("Host", "h")]), Ok(()));
    }

    #[test]
    fn a_link_from_another_site_may_lead_here_but_nothing_may_be_embedded_or_fetched() {
        let cross = [("Host", "h"), ("Sec-Fetch-Site", "cross-site")];
        let with = |mode, to| {
            let more = [("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", to)];
            reads(&[&cross[..], &more[..]].concat())
        };
        assert_eq!(with("navigate", "document"), Ok(()));
        for (mode, to) in [
            ("navigate", "iframe"),
            ("no-cors", "image"),
            ("cors", "empty"),
            ("no-cors", "document"),
        ] {
            assert_eq!(with(mode, to), Err(Stranger::Page(SEC_FETCH_SITE)), "{mode} {to}");
        }
        assert_eq!(reads(&cross), Err(Stranger::Page(SEC_FETCH_SITE)));
        assert_eq!(reads(&[("Host", "h")]), Ok(()));
        let origin = [("Host", "h"), ("Origin", "http://evil.example")];
        assert_eq!(reads(&origin), Err(Stranger::Page(ORIGIN)));
    }

    #[test]
    fn what_any_proxy_adds_tells_that_it_is_there() {
        for (name, value) in [
            ("Via", "1.1 other"),
            ("forwarded", "for=203.0.113.9"),
            ("FORWARDED", ""),
            ("X-Forwarded-For", "203.0.113.9"),
            ("x-forwarded-for", ""),
            ("X-FORWARDED-PROTO", "https"),
            ("X-Forwarded-Host", "a"),
            ("X-Forwarded-Port", "80"),
            ("X-Forwarded-Anything", "1"),
            ("X-Real-IP", "203.0.113.9"),
            ("X-Client-IP", "203.0.113.9"),
            ("True-Client-IP", "203.0.113.9"),
            ("CF-Connecting-IP", "203.0.113.9"),
            ("X-Original-Forwarded-For", "203.0.113.9"),
            ("X-Envoy-External-Address", "203.0.113.9"),
        ] {
            let (uri, headers) = head("/", &[("Host", "h"), (name, value)]);
            let checked = Caller { headers: &headers, uri: &uri }.check_direct();
            let field = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            assert_eq!(checked, Err(Stranger::Proxy(field)), "{name}");
        }
        let (uri, headers) =
            head("/", &[("Host", "h"), ("User-Agent", "curl/8"), ("Accept", "*/*")]);
        assert_eq!(Caller { headers: &headers, uri: &uri }.check_direct(), Ok(()));
    }

    #[test]
    fn names_that_are_allowed_are_written_without_scheme_and_port() {
        for right in ["fleet", "fleet.example", "10.0.0.5", "[::1]", "::1", "a_b-c.d"] {
            assert!(right.parse::<HostName>().is_ok(), "{right}");
        }
        for wrong in ["", ".", "http://fleet", "fleet:9900", "a b", "*", "fléet", "a/b"] {
            let error = wrong.parse::<HostName>().expect_err(wrong);
            assert!(error.contains("for example"), "{error}");
        }
    }
}
