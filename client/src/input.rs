//! Files that the user names, read whole up to a sensible limit. The limit applies to the bytes
//! that are read, since the reported length of a device or a pipe means nothing.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;

use crate::error::Error;

/// More than enough for settings, tokens, certificates and descriptions of slices.
pub(crate) const SMALL: u64 = 16 << 20;

/// The content of `file`, of at most `most` bytes.
pub(crate) fn read(file: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let shown = || file.display().to_string();
    read_from(File::open(file).with_context(shown)?, &shown(), most)
}

/// The same, as UTF-8 text.
pub(crate) fn read_text(file: &Path, most: u64) -> anyhow::Result<String> {
    let text = String::from_utf8(read(file, most)?);
    text.map_err(|_| Error::Usage(format!("{}: not UTF-8 text", file.display())).into())
}

/// Reads `source` to its end, at most `most` bytes; `name` is for errors.
pub(crate) fn read_from(source: impl Read, name: &str, most: u64) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read: io::Result<usize> = source.take(most.saturating_add(1)).read_to_end(&mut content);
    read.with_context(|| name.to_owned())?;
    if content.len() as u64 > most {
        return Err(Error::Usage(format!("{name}: more than {most} bytes")).into());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{read, read_from, read_text};
    use crate::error::Error;

    #[test]
    fn no_more_is_read_than_is_allowed_however_long_a_file_says_that_it_is() {
        assert_eq!(read_from(&b"four"[..], "it", 4).unwrap(), b"four");
        let error = read_from(std::io::repeat(0), "it", 1 << 16).unwrap_err();
        assert_eq!(error.to_string(), "it: more than 65536 bytes");
        assert!(matches!(error.downcast_ref(), Some(Error::Usage(_))));
        #[cfg(unix)]
        assert!(read(Path::new("/dev/zero"), 1 << 16).is_err());
    }

    #[test]
    fn what_is_no_text_is_said_to_be_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0xff, 0xfe]).unwrap();
        let error = read_text(file.path(), 10).unwrap_err().to_string();
        assert!(error.ends_with("not UTF-8 text"), "{error}");
        assert!(read_text(Path::new("/nonexistent"), 10).is_err());
    }
}
