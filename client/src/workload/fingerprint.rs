//! Fingerprints that tell whether two runs sent the same: SHA-256 as hexadecimal digits.

use sha2::{Digest, Sha256};

use super::pictures::Picture;

/// The hash of a file.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A hash of pictures with their names and labels, in their order.
pub(crate) fn of_pictures<'a>(pictures: impl IntoIterator<Item = &'a Picture>) -> String {
    let mut hash = Sha256::new();
    for picture in pictures {
        let label = picture.label.as_deref().unwrap_or_default();
        for part in [picture.name.as_bytes(), label.as_bytes(), &picture.bytes] {
            // Each with its length, so that no part of one is taken for the next one's.
            hash.update(part.len().to_string());
            hash.update(":");
            hash.update(part);
        }
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{of_pictures, sha256};
    use crate::workload::pictures::Picture;

    #[test]
    fn other_pictures_names_and_labels_have_another_hash() {
        let picture = |name: &str, bytes: &'static [u8], label: Option<&str>| Picture {
            name: name.to_owned(),
            bytes: Bytes::from_static(bytes),
            width: 1,
            height: 1,
            label: label.map(str::to_owned),
        };
        let hashes = [
            picture("a", b"12", None),
            picture("a", b"13", None),
            picture("b", b"12", None),
            picture("a", b"12", Some("cat")),
        ]
        .map(|picture| of_pictures([&picture]));
        for (number, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..number].contains(hash), "{number}: {hash}");
        }
        assert_eq!(of_pictures([&picture("a", b"12", None)]), hashes[0]);
    }

    #[test]
    fn the_hash_of_a_file_is_that_of_other_tools() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), empty);
    }
}
