//! Decompresses gzip and deflate request bodies, never beyond the limit for plain bodies.

use std::sync::Arc;

use axum::body::Bytes;
use message::Coding;
use message::coding::Unpacking;

use super::Problem;
use super::memory::{Allowance, Charge};

/// Unpacks a body on a blocking thread.
pub(super) async fn inflate(
    packed: Bytes,
    coding: Coding,
    limit: usize,
    memory: &Arc<Allowance>,
) -> Result<(Bytes, Charge), Problem> {
    let mut charge = memory.charge(0)?;
    let work =
        move || unpack(coding, &packed, limit, &mut charge).map(|plain| (plain.into(), charge));
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::unreadable())?
}

/// Initial memory for decompressed bytes.
const PIECE: usize = 64 << 10;

/// Unpacks a body into at most `limit` bytes, all of them charged.
pub(super) fn unpack(
    coding: Coding,
    packed: &[u8],
    limit: usize,
    charge: &mut Charge,
) -> Result<Vec<u8>, Problem> {
    let mut unpacking = Unpacking::new(coding, packed, limit);
    let mut plain = Vec::new();
    loop {
        if plain.len() == plain.capacity() {
            // Doubles like a vector; the old buffer lives until its bytes are copied.
            let more = plain.capacity().clamp(PIECE, (limit + 1).max(PIECE));
            charge.grow(more)?;
            plain.reserve_exact(more);
        }
        if unpacking.step(&mut plain)?.is_none() {
            return Ok(plain);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use message::Coding;
    use proptest::prelude::*;

    use super::Problem;
    use crate::api::memory::Pool;
    use crate::metrics::Metrics;

    fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, Problem> {
        let pool = Pool::new(4 << 20, 1 << 20, Arc::new(Metrics::new()));
        let mut charge = pool.allowance().charge(0)?;
        super::unpack(Coding::Gzip, packed, limit, &mut charge)
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
        let plain = super::unpack(Coding::Deflate, &packed, 5, &mut charge);
        assert_eq!(plain.unwrap(), b"hello");
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
