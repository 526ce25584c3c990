//! Unpacks gzip and deflate request bodies, never beyond the limit that plain bodies have.

use super::Problem;
use super::memory::{Allowance, Charge};
use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use std::io::Read;
use std::sync::Arc;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    /// HTTP's name for zlib's format.
    Deflate,
}

/// How a body is packed; an error for a packing that we do not know.
pub(super) fn packing(headers: &HeaderMap) -> Result<Option<Packing>, Problem> {
    let mut found = None;
    for encoding in headers.get_all(header::CONTENT_ENCODING) {
        let name = encoding.to_str().unwrap_or("?").trim().to_ascii_lowercase();
        let packing = match name.as_str() {
            "" | "identity" => continue,
            "gzip" | "x-gzip" => Packing::Gzip,
            "deflate" => Packing::Deflate,
            other => {
                let other = super::problem::quoted(other);
                let text = format!("bodies packed as {other} are not read here");
                return Err(Problem::UnknownType(text));
            }
        };
        if found.replace(packing).is_some() {
            return Err(Problem::UnknownType("bodies packed twice are not read here".to_owned()));
        }
    }
    Ok(found)
}

/// Unpacks a body on a thread that may block.
pub(super) async fn inflate(
    packed: Bytes,
    packing: Packing,
    limit: usize,
    memory: &Arc<Allowance>,
) -> Result<(Bytes, Charge), Problem> {
    let mut charge = memory.charge(0)?;
    let work = move || {
        let plain = match packing {
            Packing::Gzip => unpack(MultiGzDecoder::new(&*packed), limit, &mut charge),
            Packing::Deflate => unpack(ZlibDecoder::new(&*packed), limit, &mut charge),
        };
        plain.map(|plain| (plain, charge))
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::unreadable())?
}

/// What is unpacked at a time.
const PIECE: usize = 64 << 10;

fn unpack(packed: impl Read, limit: usize, charge: &mut Charge) -> Result<Bytes, Problem> {
    let mut packed = packed.take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1));
    let mut plain = Vec::new();
    loop {
        if plain.len() == plain.capacity() {
            // Doubling, as a vector grows; the old one lives until its bytes are copied.
            let more = plain.capacity().clamp(PIECE, (limit + 1).max(PIECE));
            charge.grow(more)?;
            plain.reserve_exact(more);
        }
        let room = plain.capacity() - plain.len();
        let read = packed
            .by_ref()
            .take(u64::try_from(room).unwrap_or(u64::MAX))
            .read_to_end(&mut plain)
            .map_err(|error| Problem::Malformed(format!("the body does not unpack: {error}")))?;
        if plain.len() > limit {
            let text = format!("the unpacked body is larger than the {limit} bytes allowed");
            return Err(Problem::TooLarge(text));
        }
        if read < room {
            return Ok(plain.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Packing, Problem, packing};
    use crate::api::memory::Pool;
    use crate::metrics::Metrics;
    use axum::body::Bytes;
    use axum::http::{HeaderMap, HeaderValue, header};
    use flate2::Compression;
    use flate2::read::{MultiGzDecoder, ZlibDecoder};
    use flate2::write::{GzEncoder, ZlibEncoder};
    use proptest::prelude::*;
    use std::io::Write;
    use std::sync::Arc;

    fn unpack(packed: &[u8], limit: usize) -> Result<Bytes, Problem> {
        let pool = Pool::new(4 << 20, 1 << 20, Arc::new(Metrics::new()));
        let mut charge = pool.allowance().charge(0)?;
        super::unpack(MultiGzDecoder::new(packed), limit, &mut charge)
    }

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
        assert_eq!(unpack(&bomb, 20 << 20).unwrap_err().status(), 413);
        let measured = allocation_counter::measure(|| drop(unpack(&bomb, 20 << 20).unwrap_err()));
        assert!(measured.bytes_max < 2 << 20, "{measured:?}");
    }

    #[test]
    fn deflate_is_the_format_of_zlib() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"hello").unwrap();
        let packed = encoder.finish().unwrap();
        let pool = Pool::new(1 << 20, 1 << 20, Arc::new(Metrics::new()));
        let mut charge = pool.allowance().charge(0).unwrap();
        let plain = super::unpack(ZlibDecoder::new(&*packed), 5, &mut charge);
        assert_eq!(plain.unwrap(), "hello");
    }

    #[test]
    fn one_packing_is_read_and_no_other() {
        let of = |values: &[&'static str]| {
            let field =
                |value: &&'static str| (header::CONTENT_ENCODING, HeaderValue::from_static(value));
            packing(&values.iter().map(field).collect::<HeaderMap>())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["identity", "GZIP"]), Ok(Some(Packing::Gzip)));
        assert_eq!(of(&["deflate"]), Ok(Some(Packing::Deflate)));
        for values in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"]] {
            assert_eq!(of(values).unwrap_err().status(), 415, "{values:?}");
        }
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
