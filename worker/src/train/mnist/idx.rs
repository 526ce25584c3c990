//! The IDX format that MNIST is published in: a magic number, sizes, then bytes.
//!
//! Layout: two zero bytes, the element type (8: unsigned byte), the number of dimensions, each
//! dimension as a big-endian u32, the elements. Files may be gzipped. A file from the internet is
//! not trusted: sizes are checked before memory is allocated, and the unpacked size is bounded.

use std::{io::Read, path::Path};

use flate2::read::GzDecoder;

use crate::{Error, repository::file, train::invalid};

/// MNIST's largest file unpacks to 47 MB; anything far beyond is not MNIST.
const MAX_BYTES: u64 = 256 << 20;
const UNSIGNED_BYTE: u8 = 8;

/// An array of bytes with its sizes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Idx {
    /// Sizes, outermost first.
    pub sizes: Vec<usize>,
    /// The elements, last dimension fastest.
    pub elements: Vec<u8>,
}

/// Reads a plain or gzipped IDX file.
pub(super) fn read(path: &Path) -> Result<Idx, Error> {
    let raw = file::read(path, MAX_BYTES)?;
    let bytes = if raw.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        GzDecoder::new(raw.as_slice())
            .take(MAX_BYTES + 1)
            .read_to_end(&mut plain)
            .map_err(|e| invalid(path, format!("damaged gzip data ({e})")))?;
        plain
    } else {
        raw
    };
    if bytes.len() as u64 > MAX_BYTES {
        return Err(invalid(path, format!("unpacks to more than {MAX_BYTES} bytes")));
    }
    parse(&bytes).map_err(|reason| invalid(path, reason))
}

/// Checks the header against the length; the error says which rule is broken.
pub(super) fn parse(bytes: &[u8]) -> Result<Idx, String> {
    let [zero1, zero2, kind, dimensions, rest @ ..] = bytes else {
        return Err(format!("{} bytes are too few for an IDX header", bytes.len()));
    };
    if (*zero1, *zero2) != (0, 0) {
        return Err(format!("not an IDX file: starts with {zero1:#04x} {zero2:#04x}, not 0 0"));
    }
    if *kind != UNSIGNED_BYTE {
        return Err(format!("element type {kind:#04x} where unsigned bytes (0x08) are needed"));
    }
    let header = usize::from(*dimensions) * 4;
    if *dimensions == 0 || rest.len() < header {
        return Err(format!("the header is cut off: {dimensions} dimensions announced"));
    }
    let (sizes, elements) = rest.split_at(header);
    let sizes: Vec<usize> = sizes
        .chunks_exact(4)
        .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
        .collect();
    let announced = sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    if announced != Some(elements.len()) {
        return Err(format!("the header announces sizes {sizes:?}, {} follow", elements.len()));
    }
    Ok(Idx { sizes, elements: elements.to_vec() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    const TWO_BY_THREE: [u8; 18] = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];

    #[test]
    fn sizes_and_elements_are_read() {
        let idx = parse(&TWO_BY_THREE).unwrap();
        assert_eq!(idx, Idx { sizes: vec![2, 3], elements: vec![1, 2, 3, 4, 5, 6] });
    }

    #[test]
    fn each_broken_rule_is_named() {
        let broken = |at: usize, value: u8| {
            let mut bytes = TWO_BY_THREE;
            bytes[at] = value;
            parse(&bytes).unwrap_err()
        };
        assert!(broken(0, 7).contains("not an IDX file"));
        assert!(broken(2, 0x0d).contains("element type 0x0d"));
        assert!(broken(3, 0).contains("cut off"));
        assert!(broken(3, 200).contains("cut off"));
        assert!(broken(7, 3).contains("[3, 3]"), "{}", broken(7, 3));
        assert!(broken(4, 255).contains("6 follow"));
        assert!(parse(&TWO_BY_THREE[..3]).unwrap_err().contains("too few"));
    }

    #[test]
    fn gzipped_and_plain_files_read_alike_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, packed) = (dir.path().join("plain"), dir.path().join("packed.gz"));
        std::fs::write(&plain, TWO_BY_THREE).unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&TWO_BY_THREE).unwrap();
        let gz = gz.finish().unwrap();
        std::fs::write(&packed, &gz).unwrap();
        assert_eq!(read(&plain).unwrap(), read(&packed).unwrap());
        std::fs::write(&packed, &gz[..gz.len() - 9]).unwrap();
        let error = read(&packed).unwrap_err().to_string();
        assert!(error.contains("packed.gz") && error.contains("gzip"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _outcome = parse(&bytes);
        }
    }
}
