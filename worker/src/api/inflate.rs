//! Unpacks gzip request bodies, never beyond the limit that plain bodies have.

use super::Problem;
use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use flate2::read::MultiGzDecoder;
use std::io::Read;

/// Whether a body is packed; an error for a packing that we do not know.
pub(super) fn is_gzip(headers: &HeaderMap) -> Result<bool, Problem> {
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else { return Ok(false) };
    match encoding.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        other => Err(Problem::UnknownType(format!("bodies packed as {other:?} are not read here"))),
    }
}

/// Unpacks a body on a thread that may block.
pub(super) async fn inflate(packed: Bytes, limit: usize) -> Result<Bytes, Problem> {
    tokio::task::spawn_blocking(move || unpack(&packed, limit))
        .await
        .map_err(|error| Problem::Internal(format!("unpacking panicked: {error}")))?
}

fn unpack(packed: &[u8], limit: usize) -> Result<Bytes, Problem> {
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut plain = Vec::new();
    MultiGzDecoder::new(packed)
        .take(most)
        .read_to_end(&mut plain)
        .map_err(|error| Problem::Malformed(format!("the gzip body does not unpack: {error}")))?;
    if plain.len() > limit {
        let text = format!("the unpacked body is larger than the {limit} bytes allowed");
        return Err(Problem::TooLarge(text));
    }
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use super::unpack;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::io::Write;

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = packed(&vec![0; 10 << 20]);
        assert!(bomb.len() < 20_000);
        assert!(unpack(&bomb, 1000).unwrap_err().to_string().contains("1000 bytes"));
        assert_eq!(unpack(&packed(&[7; 1000]), 1000).unwrap().len(), 1000);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), whole in any::<bool>()) {
            if whole {
                bytes.splice(0..0, packed(b"hello"));
            }
            let _outcome = unpack(&bytes, 100);
        }
    }
}
