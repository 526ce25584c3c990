//! An unfinished download: what has arrived, and of which file.
//!
//! It is kept in `NAME.part`, with `NAME.part.json` beside it, so that another run can continue it.
//! What has arrived of one file is never continued with another: it belongs to one address, to one
//! version of the file by its entity tag and length, and to one process at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::repository::file;

/// Bytes of `NAME.part.json`.
const MAX_ABOUT: u64 = 1 << 16;

/// Which file is being downloaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// The SHA-256 of its address, which may hold secrets.
    address: String,
    /// Its strong entity tag.
    pub(super) tag: Option<String>,
    /// The length of the file, if the server states it.
    pub(super) total: Option<u64>,
}

/// What has arrived.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    about: About,
    /// Whether it arrived in more than one response.
    pub(super) is_joined: bool,
}

impl Partial {
    /// Remains of an earlier download of `url`, or an empty file; locked against other processes.
    pub(super) fn open(target: &Path, url: &str) -> Result<Self, Error> {
        let path = with_ending(target, ".part");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
        let file = options.open(&path).map_err(Error::file(&path))?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(Error::file(&path)(source));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = format!("{}: another download of it is under way", path.display());
                return Err(Error::Invalid(reason));
            }
            Err(TryLockError::Error(source)) => return Err(Error::file(&path)(source)),
        }
        let about = file::read(&with_ending(&path, ".json"), MAX_ABOUT).ok();
        let about = about.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let mut partial = Self { path, file, about, is_joined: false };
        let address = hex(&Sha256::digest(url));
        if partial.about.address != address {
            partial.about.address = address;
            partial.restart(None, None).map_err(Error::file(target))?;
        }
        partial.is_joined = partial.len().is_ok_and(|len| len > 0);
        Ok(partial)
    }

    /// Which file it is.
    pub(super) fn about(&self) -> &About {
        &self.about
    }

    /// Bytes that have arrived.
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Discards what has arrived: what follows is a file of its own, with this entity tag and
    /// length if they are known.
    pub(super) fn restart(&mut self, tag: Option<String>, total: Option<u64>) -> io::Result<()> {
        self.file.set_len(0)?;
        self.is_joined = false;
        (self.about.tag, self.about.total) = (tag, total);
        let (fresh, path) = (with_ending(&self.path, ".new"), with_ending(&self.path, ".json"));
        fs::write(&fresh, serde_json::to_vec(&self.about)?)?;
        fs::rename(&fresh, &path)
    }

    /// Appends all of `from`.
    pub(super) fn append(&mut self, from: &mut impl Read) -> io::Result<u64> {
        self.file.seek(SeekFrom::End(0))?;
        let copied = io::copy(from, &mut self.file);
        // What did arrive is kept for the next attempt.
        self.file.flush()?;
        copied
    }

    /// All that has arrived.
    pub(super) fn bytes(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(0))?;
        file::bounded(&mut self.file, limit)
    }

    /// Removes both files.
    pub(super) fn remove(self) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(Error::file(&self.path))?;
        let about = with_ending(&self.path, ".json");
        match fs::remove_file(&about) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file(&about)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_is_kept_for_its_address_only() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("weights.pth");
        let open = |url| Partial::open(&target, url).unwrap();
        let mut partial = open("http://one/weights.pth");
        let tag = Some("\"1\"".to_owned());
        partial.restart(tag, Some(9)).unwrap();
        partial.append(&mut &b"half"[..]).unwrap();
        drop(partial);
        let again = open("http://one/weights.pth");
        assert_eq!((again.len().unwrap(), again.is_joined), (4, true));
        assert_eq!(again.about().total, Some(9));
        drop(again);
        let other = open("http://two/weights.pth");
        assert_eq!((other.len().unwrap(), other.is_joined), (0, false));
        assert_eq!(other.about().tag, None);
        other.remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn bytes_that_nobody_knows_the_address_of_are_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("weights.pth");
        fs::write(folder.path().join("weights.pth.part"), "of an older program").unwrap();
        let partial = Partial::open(&target, "http://one/weights.pth").unwrap();
        assert_eq!(partial.len().unwrap(), 0);
    }

    #[test]
    fn two_downloads_never_write_into_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("weights.pth");
        let first = Partial::open(&target, "http://one").unwrap();
        let error = Partial::open(&target, "http://one").unwrap_err().to_string();
        assert!(error.contains("under way"), "{error}");
        drop(first);
        Partial::open(&target, "http://one").unwrap();
    }
}
