//! Files from other sources, read so that none of them can block or flood the reader.
//!
//! A pipe, a device or a folder in place of a file is an error immediately, and a file longer than
//! its limit is not read to its end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::Error;

/// The SHA-256 of a file's contents.
pub(crate) type Digest = [u8; 32];

/// Bytes of a `model.toml` or `serving.toml`.
pub(super) const MAX_TEXT: u64 = 16 << 20;
/// Bytes of a weights file.
pub(crate) const MAX_WEIGHTS: u64 = 1 << 30;

/// Opens a regular file to read; never waits for the writer of a pipe.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        libc::O_NONBLOCK | libc::O_NOCTTY,
    );
    let file = options.open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// The bytes of a regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    bytes(path, limit).map_err(Error::file(path))
}

/// Like [`read`], for callers that name the file in errors in another way.
pub(crate) fn bytes(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    bounded(open(path)?, limit)
}

/// The text of a regular file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, Error> {
    let bytes = read(path, limit)?;
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "the text is not UTF-8");
    String::from_utf8(bytes).map_err(not_text).map_err(Error::file(path))
}

/// Reads all of `reader`, which must have at most `limit` bytes.
pub(crate) fn bounded(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_long(limit));
    }
    Ok(bytes)
}

/// The SHA-256 of a regular file of at most `limit` bytes.
pub(crate) fn digest(path: &Path, limit: u64) -> Result<Digest, Error> {
    let hash = || {
        let mut reader = open(path)?.take(limit + 1);
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match reader.read(&mut buffer)? {
                0 if reader.limit() == 0 => return Err(too_long(limit)),
                0 => return Ok(hasher.finalize().into()),
                count => hasher.update(&buffer[..count]),
            }
        }
    };
    hash().map_err(Error::file(path))
}

fn too_long(limit: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.txt");
        std::fs::write(&path, "zwölf").unwrap();
        assert_eq!(read_text(&path, 6).unwrap(), "zwölf");
        let error = read_text(&path, 5).unwrap_err().to_string();
        assert!(error.contains("labels.txt: longer than 5 bytes"), "{error}");
        std::fs::write(&path, [0xff]).unwrap();
        assert!(read_text(&path, 5).unwrap_err().to_string().contains("not UTF-8"));
    }

    #[test]
    fn what_is_no_file_is_refused_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path(), 9).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        assert!(read(Path::new("/dev/zero"), 9).is_err());
        assert!(read(&folder.path().join("none"), 9).is_err());
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|status| status.success()) {
            let error = read(&pipe, 9).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
    }

    #[test]
    fn a_digest_is_that_of_all_bytes_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(digest(&path, 3).unwrap()[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert!(digest(&path, 2).unwrap_err().to_string().contains("longer than 2 bytes"));
    }
}
