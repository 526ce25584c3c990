//! Files that operators name: the configuration, tokens, certificates and lists of workers.
//!
//! Some are read again while the balancer runs. By then a path may lead to anything: opening a FIFO
//! would wait for a writer, and a device may never end. So only regular files of reasonable size
//! are read at that point. A disk that hangs still blocks the read, so it belongs on a thread that
//! has nothing else to do.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use crate::error::ConfigError;

/// Maximum size of a file.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The text of a file that is read at startup, which may be a pipe.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let wrong = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(wrong)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(wrong)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(wrong(io::Error::other(format!("it is larger than {MAX_BYTES} bytes"))));
    }
    Ok(text)
}

/// The contents of a regular file.
pub(crate) fn read_regular(path: &Path) -> Result<Vec<u8>, ConfigError> {
    bytes(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    // Without this flag, opening a FIFO waits for a writer.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("a small number");
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    if file.take(MAX_BYTES + 1).read_to_end(&mut bytes)? as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let fifo = folder.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).expect("made");
        for path in [&fifo, folder.path(), Path::new("/dev/zero")] {
            let error = read_regular(path).expect_err("refused").to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
        let large = folder.path().join("large");
        std::fs::File::create(&large).expect("made").set_len(1 << 40).expect("sparse");
        assert!(read_regular(&large).expect_err("refused").to_string().contains("more than"));
    }
}
