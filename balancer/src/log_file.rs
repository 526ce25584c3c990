//! The file behind the access log, which takes little memory however fast it grows.
//!
//! A busy balancer writes tens of megabytes of lines a second, and hardly anybody reads them at
//! once. Left alone, the kernel keeps all of it: every line goes to memory that is cold, or that a
//! virtual machine has to get from its host first (which costs more than all the rest of the
//! line), and files that are needed again have to make room. So every few megabytes the kernel is
//! told that the latest ones are not needed: it writes them to the disk and then uses their memory
//! for the next lines. The file itself is the same as without.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::runtime::Handle;

/// Memory is given back each time that this much was written.
const STEP: u64 = 4 * 1024 * 1024;
/// How far back: what is on its way to the disk one time is there the next, or the one after.
const REACH: u64 = 4 * STEP;

/// A file that lines are appended to.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    written: AtomicU64,
    /// One at a time: a disk that is slow would otherwise hold up a thread for each step.
    is_releasing: AtomicBool,
}

impl LogFile {
    /// Opens a file for appending, or makes it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file, written: AtomicU64::new(0), is_releasing: AtomicBool::new(false) })
    }

    /// Appends whole lines, in one piece.
    pub fn append(self: &Arc<Self>, lines: &[u8]) -> Result<()> {
        (&self.file).write_all(lines)?;
        let length = lines.len() as u64;
        let before = self.written.fetch_add(length, Relaxed);
        if before / STEP != (before + length) / STEP
            // The last lines are written when no task runs any more.
            && let Ok(runtime) = Handle::try_current()
            && !self.is_releasing.swap(true, Relaxed)
        {
            let file = Arc::clone(self);
            // Elsewhere, because it may have to wait for the disk.
            drop(runtime.spawn_blocking(move || file.release()));
        }
        Ok(())
    }

    /// Has the memory of the latest lines given back. It is advice: if it cannot be taken, nothing
    /// is worse than before.
    fn release(&self) {
        let end = self.file.metadata().map_or(0, |file| file.len());
        let start = end.saturating_sub(REACH);
        if let Some(length) = NonZeroU64::new(end - start) {
            forget(&self.file, start, length);
        }
        self.is_releasing.store(false, Relaxed);
    }
}

#[cfg(target_os = "linux")]
fn forget(file: &File, start: u64, length: NonZeroU64) {
    use rustix::fs::{Advice, fadvise};
    if let Err(error) = fadvise(file, start, Some(length), Advice::DontNeed) {
        tracing::debug!(%error, "access log");
    }
}

#[cfg(not(target_os = "linux"))]
fn forget(_: &File, _: u64, _: NonZeroU64) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_not_kept_in_memory_is_complete_all_the_same() {
        let place = tempfile::NamedTempFile::new().expect("a file");
        let file = Arc::new(LogFile::open(place.path()).expect("opened"));
        let line = [b"0123456789".repeat(10_000).as_slice(), b"\n"].concat();
        let lines = 2 * REACH.div_ceil(line.len() as u64);
        for _ in 0..lines {
            file.append(&line).expect("written");
        }
        file.release();
        let text = std::fs::read(place.path()).expect("read");
        assert_eq!(text.len() as u64, lines * line.len() as u64);
        assert!(text.chunks(line.len()).all(|read| read == line));
    }

    /// As at the end of a thread, when its runtime is gone.
    #[test]
    fn lines_are_written_without_a_runtime_too() {
        let place = tempfile::NamedTempFile::new().expect("a file");
        let file = Arc::new(LogFile::open(place.path()).expect("opened"));
        let lines = vec![b'\n'; usize::try_from(STEP).expect("small") + 1];
        file.append(&lines).expect("written");
        assert_eq!(std::fs::read(place.path()).expect("read").len(), lines.len());
    }
}
