//! The PROXY protocol, versions 1 and 2: a proxy in front reports the client's address.
//!
//! The header comes once, at the beginning of a connection, before TLS. It is expected from trusted
//! proxies only, and from all of them: whether a connection carries one must not depend on its
//! bytes. Only the address of the client is of interest; the rest is skipped.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The start of a version 2 header.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1.
const MAX_LINE: usize = 107;
/// Longest header of version 2, including all extensions.
const MAX_LENGTH: usize = 4096;

/// Reads a header; `None` if the connection is the proxy's own or the client is unknown.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<IpAddr>> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        header.resize(SIGNATURE.len() + 4, 0);
        stream.read_exact(&mut header[SIGNATURE.len()..]).await?;
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > MAX_LENGTH {
            return Err(invalid());
        }
        header.resize(16 + length, 0);
        stream.read_exact(&mut header[16..]).await?;
    } else {
        if !header.starts_with(b"PROXY ") {
            return Err(invalid());
        }
        // The bytes after the line are not part of the header, so none of them may be read.
        while !header.ends_with(b"\n") && header.len() < MAX_LINE {
            header.push(stream.read_u8().await?);
        }
    }
    parse(&header).ok_or_else(invalid)
}

fn invalid() -> Error {
    Error::new(ErrorKind::InvalidData, "no PROXY protocol header")
}

/// Parses one complete header; `None` if it is not one.
pub fn parse(header: &[u8]) -> Option<Option<IpAddr>> {
    match header.strip_prefix(&SIGNATURE) {
        Some(rest) => parse_binary(rest),
        None => parse_line(header),
    }
}

#[expect(clippy::option_option, reason = "no header, no address, and an address are three things")]
fn parse_binary(rest: &[u8]) -> Option<Option<IpAddr>> {
    let (&[command, family, high, low], body) = rest.split_first_chunk::<4>()?;
    if body.len() != usize::from(u16::from_be_bytes([high, low])) {
        return None;
    }
    match (command, family >> 4) {
        // A health check of the proxy itself, or an address family that is not of interest.
        (0x20, _) | (0x21, 0 | 3) => Some(None),
        (0x21, 1) if body.len() >= 12 => {
            let source: [u8; 4] = body[..4].try_into().ok()?;
            Some(Some(Ipv4Addr::from(source).into()))
        }
        (0x21, 2) if body.len() >= 36 => {
            let source: [u8; 16] = body[..16].try_into().ok()?;
            Some(Some(Ipv6Addr::from(source).to_canonical()))
        }
        _ => None,
    }
}

#[expect(clippy::option_option, reason = "as above")]
fn parse_line(line: &[u8]) -> Option<Option<IpAddr>> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let mut words = text.strip_prefix("PROXY ")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let addresses: [IpAddr; 2] = [words.next()?.parse().ok()?, words.next()?.parse().ok()?];
    let _ports: [u16; 2] = [words.next()?.parse().ok()?, words.next()?.parse().ok()?];
    let fits = match family {
        "TCP4" => addresses.iter().all(IpAddr::is_ipv4),
        "TCP6" => addresses.iter().all(IpAddr::is_ipv6),
        _ => false,
    };
    (fits && words.next().is_none()).then(|| Some(addresses[0].to_canonical()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];

    #[test]
    fn version_2_names_the_client() {
        let client = Some(Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!(parse(&binary(0x21, 0x11, &V4)), client);
        let with_extension = [&V4[..], &[4, 0, 1, 0]].concat();
        assert_eq!(parse(&binary(0x21, 0x11, &with_extension)), client);
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
        assert_eq!(parse(&binary(0x21, 0x21, &v6)), Some(Some(Ipv6Addr::LOCALHOST.into())));
        assert_eq!(parse(&binary(0x20, 0, &[])), Some(None), "a check of the proxy itself");
        assert_eq!(parse(&binary(0x21, 0, b"anything")), Some(None));
    }

    #[test]
    fn version_1_names_the_client() {
        let client = Some(Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!(parse(b"PROXY TCP4 192.0.2.1 10.0.0.1 5000 80\r\n"), client);
        assert_eq!(parse(b"PROXY TCP6 ::1 ::2 5 8\r\n"), Some(Some(Ipv6Addr::LOCALHOST.into())));
        assert_eq!(parse(b"PROXY UNKNOWN what ever\r\n"), Some(None));
    }

    #[test]
    fn what_is_not_a_header_is_refused() {
        for header in [
            &b""[..],
            b"GET / HTTP/1.1\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 5000 80\n",
            b"PROXY TCP4 ::1 ::2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 5000 80000\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 5000 80 9\r\n",
            b"PROXY UDP4 192.0.2.1 10.0.0.1 5000 80\r\n",
            &binary(0x11, 0x11, &V4),
            &binary(0x22, 0x11, &V4),
            &binary(0x21, 0x41, &V4),
            &binary(0x21, 0x11, &V4[..11]),
            &[&binary(0x21, 0x11, &V4)[..], b"x"].concat(),
        ] {
            assert_eq!(parse(header), None, "{header:?}");
        }
    }

    #[tokio::test]
    async fn not_a_byte_after_the_header_is_read() {
        for header in [binary(0x21, 0x11, &V4), b"PROXY TCP4 192.0.2.1 10.0.0.1 5 80\r\n".to_vec()]
        {
            let bytes = [&header[..], b"GET /"].concat();
            let mut stream = &bytes[..];
            assert_eq!(read(&mut stream).await.expect("valid"), Some([192, 0, 2, 1].into()));
            assert_eq!(stream, b"GET /");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(body in any::<Vec<u8>>(), two in any::<[u8; 2]>()) {
            let _line = parse(&body);
            let body = &body[..body.len().min(1000)];
            let header = binary(two[0], two[1], body);
            if let Some(Some(_)) = parse(&header) {
                prop_assert!(two[0] == 0x21 && body.len() >= 12);
            }
        }
    }
}
