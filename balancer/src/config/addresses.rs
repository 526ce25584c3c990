//! Addresses of sockets, as users write them in flags and in the file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Deserializer, de::Error};
use wire::address::{self, AddressError};

/// The default address for clients.
pub(super) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 5000);
/// The default address for operators.
pub(super) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);
/// The standard port of name servers.
const DNS_PORT: u16 = 53;

pub(super) fn listen(text: &str) -> Result<SocketAddr, AddressError> {
    address::listen(text, LISTEN)
}

pub(super) fn admin(text: &str) -> Result<SocketAddr, AddressError> {
    address::listen(text, ADMIN)
}

pub(super) fn name_server(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse().or_else(|_| {
        let address: IpAddr = text.trim_matches(['[', ']']).parse()?;
        Ok::<_, std::net::AddrParseError>(SocketAddr::new(address, DNS_PORT))
    });
    with_port.ok().filter(|address: &SocketAddr| address.port() != 0).ok_or_else(|| {
        format!(
            "{text:?} is not the address of a name server; write one such as 10.0.0.2 or 10.0.0.2:53"
        )
    })
}

/// A port may be written as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

fn read<'de, D: Deserializer<'de>, E: std::fmt::Display>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<SocketAddr, E>,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = match Written::deserialize(deserializer)? {
        Written::Number(number) => number.to_string(),
        Written::Text(text) => text,
    };
    parse(&text).map(Some).map_err(D::Error::custom)
}

pub(super) fn read_listen<'de, D>(deserializer: D) -> Result<Option<SocketAddr>, D::Error>
where
    D: Deserializer<'de>,
{
    read(deserializer, listen)
}

pub(super) fn read_admin<'de, D>(deserializer: D) -> Result<Option<SocketAddr>, D::Error>
where
    D: Deserializer<'de>,
{
    read(deserializer, admin)
}

pub(super) fn read_name_server<'de, D>(deserializer: D) -> Result<Option<SocketAddr>, D::Error>
where
    D: Deserializer<'de>,
{
    read(deserializer, name_server)
}
