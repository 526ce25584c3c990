//! The file behind a log: opened, reopened after a rotation, and filled with whole lines.
//!
//! A busy balancer writes tens of megabytes of lines per second, which are rarely read soon. Left
//! alone, the kernel caches all of them: every line goes to cold memory, or to memory that a
//! virtual machine has to get from its host first (which costs more than the rest of the line), and
//! files that are needed again are evicted. So every few megabytes the kernel is advised that the
//! latest ones are not needed: it writes them to the disk and reuses their memory for the next
//! lines. The contents of the file are unaffected.
//!
//! A full disk accepts only part of a line. That part is removed again, so that the next one begins
//! at the start of a line.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;

/// Memory is released each time that this much was written.
const STEP: u64 = 4 * 1024 * 1024;
/// How far back memory is released: pages being written to the disk at one release are covered by
/// the next one, or the one after.
const REACH: u64 = 4 * STEP;

/// Where lines are appended.
#[derive(Debug)]
pub(super) struct LogFile {
    /// The path it was opened from, if it can be reopened.
    path: Option<PathBuf>,
    file: Arc<File>,
    is_regular: bool,
    written: u64,
    /// The rest of a line that is already partly in the file.
    owed: Vec<u8>,
    /// Only one release at a time: otherwise a slow disk would hold up a thread for each step.
    is_releasing: Arc<AtomicBool>,
}

/// Lines that could not be written.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) lines: u64,
    pub(super) error: io::Error,
}

impl LogFile {
    /// Opens or creates a file for appending.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::new(Some(path.to_owned()), open(path)?))
    }

    /// Writes to a descriptor that is already open.
    pub(super) fn of(descriptor: OwnedFd) -> Self {
        Self::new(None, File::from(descriptor))
    }

    fn new(path: Option<PathBuf>, file: File) -> Self {
        let is_regular = file.metadata().is_ok_and(|data| data.is_file());
        let file = Arc::new(file);
        Self { path, file, is_regular, written: 0, owed: Vec::new(), is_releasing: Arc::default() }
    }

    /// Opens the path again, where there is a new file after a rotation. If that fails, the old
    /// file stays in use.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = open(path)?;
        *self = Self::new(Some(path.clone()), file);
        Ok(())
    }

    /// Appends whole lines. Blocks for as long as the other side does not accept them.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), Lost> {
        if !self.owed.is_empty() {
            let owed = std::mem::take(&mut self.owed);
            if let Err((written, error)) = self.write(&owed) {
                self.owed = owed[written..].to_vec();
                return Err(Lost { lines: count(lines), error });
            }
        }
        self.write(lines).map_err(|(written, error)| {
            let lost = self.cut(lines, written);
            Lost { lines: lost, error }
        })?;
        let before = self.written;
        self.written += lines.len() as u64;
        if self.is_regular && before / STEP != self.written / STEP {
            self.release_elsewhere();
        }
        Ok(())
    }

    /// Writes everything, or returns how much was written and the error.
    fn write(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < bytes.len() {
            match (&*self.file).write(&bytes[written..]) {
                Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another program that shares the descriptor has set it to non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(),
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }

    fn wait(&self) {
        let mut descriptors = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::OUT)];
        // If this fails too, the next write reports why.
        let _polled = rustix::event::poll(&mut descriptors, None).is_ok();
    }

    /// Removes the beginning of a line from the file after a write that stopped at `written`;
    /// returns how many lines are lost. If that is not possible, the rest of the line is owed.
    fn cut(&mut self, lines: &[u8], written: usize) -> u64 {
        let whole = memchr::memrchr(b'\n', &lines[..written]).map_or(0, |last| last + 1);
        let end =
            memchr::memchr(b'\n', &lines[written..]).map_or(lines.len(), |at| written + at + 1);
        if written == whole || self.is_regular && self.shorten((written - whole) as u64).is_ok() {
            return count(&lines[whole..]);
        }
        self.owed = lines[written..end].to_vec();
        count(&lines[end..])
    }

    /// Truncates the file by `count` bytes, unless another process has appended to it.
    fn shorten(&mut self, count: u64) -> io::Result<()> {
        let mut file = &*self.file;
        let end = file.stream_position()?;
        if file.metadata()?.len() != end {
            return Err(ErrorKind::ResourceBusy.into());
        }
        file.set_len(end - count)?;
        file.seek(SeekFrom::Start(end - count)).map(drop)
    }

    /// Releases the page cache of the latest lines, on another thread because that may wait for
    /// the disk.
    fn release_elsewhere(&self) {
        if self.is_releasing.swap(true, Relaxed) {
            return;
        }
        let (file, is_releasing) = (Arc::clone(&self.file), Arc::clone(&self.is_releasing));
        let thread = std::thread::Builder::new().name("log-release".to_owned());
        let started = thread.spawn(move || {
            release(&file);
            is_releasing.store(false, Relaxed);
        });
        if started.is_err() {
            self.is_releasing.store(false, Relaxed);
        }
    }
}

/// Opens a path without blocking: a FIFO without a reader would hold up the start.
fn open(path: &Path) -> io::Result<File> {
    let is_fifo = std::fs::metadata(path).is_ok_and(|data| data.file_type().is_fifo());
    // A FIFO that is also open for reading has a reader, and accepts lines until it is full.
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(is_fifo);
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("a small number");
    let file = options.custom_flags(nonblocking).open(path)?;
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK))?;
    Ok(file)
}

/// Releases the page cache of the latest lines. This is only advice: if it fails, no harm is done.
fn release(file: &File) {
    let end = file.metadata().map_or(0, |file| file.len());
    let start = end.saturating_sub(REACH);
    if let Some(length) = NonZeroU64::new(end - start) {
        forget(file, start, length);
    }
}

#[cfg(target_os = "linux")]
fn forget(file: &File, start: u64, length: NonZeroU64) {
    use rustix::fs::{Advice, fadvise};
    if let Err(error) = fadvise(file, start, Some(length), Advice::DontNeed) {
        tracing::debug!(%error, "the memory of the access log is not given back");
    }
}

#[cfg(not(target_os = "linux"))]
fn forget(_: &File, _: u64, _: NonZeroU64) {}

/// The number of lines.
pub(super) fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_kept_in_memory_is_complete_all_the_same() {
        let place = tempfile::NamedTempFile::new().expect("a file");
        let mut file = LogFile::open(place.path()).expect("opened");
        let line = [b"0123456789".repeat(10_000).as_slice(), b"\n"].concat();
        let lines = 2 * REACH.div_ceil(line.len() as u64);
        for _ in 0..lines {
            file.append(&line).expect("written");
        }
        release(&file.file);
        let text = std::fs::read(place.path()).expect("read");
        assert_eq!(text.len() as u64, lines * line.len() as u64);
        assert!(text.chunks(line.len()).all(|read| read == line));
    }

    #[test]
    fn the_part_of_a_line_that_a_full_disk_took_is_cut_off_again() {
        let place = tempfile::NamedTempFile::new().expect("a file");
        let mut file = LogFile::open(place.path()).expect("opened");
        file.append(b"first\n").expect("written");
        let lines = b"second\nthird\nfourth\n";
        file.write(&lines[..9]).expect("written");
        assert_eq!(file.cut(lines, 9), 2, "the third line and the fourth");
        file.append(b"fifth\n").expect("written");
        assert_eq!(std::fs::read(place.path()).expect("read"), b"first\nsecond\nfifth\n");
    }

    #[test]
    fn a_line_that_cannot_be_cut_off_is_finished_before_the_next() {
        let place = tempfile::NamedTempFile::new().expect("a file");
        let mut file = LogFile::open(place.path()).expect("opened");
        let lines = b"first\nsecond\nthird\n";
        file.write(&lines[..9]).expect("written");
        // Another process appends to the same file.
        OpenOptions::new()
            .append(true)
            .open(place.path())
            .and_then(|mut other| other.write_all(b"|"))
            .expect("written");
        assert_eq!(file.cut(lines, 9), 1, "only the third line is lost");
        file.append(b"fourth\n").expect("written");
        assert_eq!(std::fs::read(place.path()).expect("read"), b"first\nsec|ond\nfourth\n");
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut file = LogFile::open(&path).expect("opened");
        file.append(b"before\n").expect("written");
        std::fs::rename(&path, &moved).expect("renamed");
        file.reopen().expect("opened again");
        file.append(b"after\n").expect("written");
        assert_eq!(std::fs::read(&moved).expect("read"), b"before\n");
        assert_eq!(std::fs::read(&path).expect("read"), b"after\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_stays_in_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("logs");
        std::fs::create_dir(&place).expect("made");
        let mut file = LogFile::open(&place.join("log")).expect("opened");
        std::fs::remove_dir_all(&place).expect("removed");
        assert!(file.reopen().is_err());
        file.append(b"still\n").expect("written");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_fifo_without_a_reader_is_opened_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("made");
        let mut file = LogFile::open(&path).expect("opened");
        file.append(b"taken\n").expect("written");
    }
}
