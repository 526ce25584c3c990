//! The one thread that writes to a log, and the buffer in front of it.
//!
//! A pipe whose reader has stopped, a terminal that is paused, a disk or a network share that
//! hangs: a write to any of them may block indefinitely. So no thread with other work ever writes.
//! It hands over whole lines, and the log's own thread writes all pending ones whenever it is free.
//! Their bytes are bounded; lines that do not fit are dropped and counted. Buffers are reused: one
//! that is handed over is exchanged for one that was written.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::file::{LogFile, Lost, count};

/// Buffers that are kept for the next lines, and how large each may be.
const MAX_SPARE: usize = 64;
const USUAL: usize = 64 * 1024;

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// This process's standard output.
    StandardOutput,
    /// This process's standard error.
    StandardError,
    /// A file, or anything else with a path.
    Path(PathBuf),
}

impl Destination {
    /// Parses a path, or `-` for standard output. Device paths of the standard streams mean the
    /// streams themselves, since a socket (as systemd connects) cannot be opened by path.
    pub fn new(text: &Path) -> Self {
        match text.to_str() {
            Some("-" | "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => Self::StandardOutput,
            Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => Self::StandardError,
            Some(_) | None => Self::Path(text.to_owned()),
        }
    }

    fn open(&self) -> io::Result<LogFile> {
        let descriptor: OwnedFd = match self {
            Self::StandardOutput => io::stdout().as_fd().try_clone_to_owned()?,
            Self::StandardError => io::stderr().as_fd().try_clone_to_owned()?,
            Self::Path(path) => return LogFile::open(path),
        };
        Ok(LogFile::of(descriptor))
    }
}

/// A log that accepts lines without blocking.
#[derive(Debug)]
pub struct LogWriter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The name of the log in messages and metrics.
    name: &'static str,
    /// Maximum number of bytes that may wait.
    limit: usize,
    queue: Mutex<Queue>,
    /// Signals that there is work for the thread.
    work: Condvar,
    /// Signals that everything is written.
    done: Condvar,
    /// Lines that were dropped because the buffer was full.
    dropped: AtomicU64,
    /// Lines that could not be written.
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    blocks: VecDeque<Vec<u8>>,
    /// Bytes in the blocks, and in those being written.
    bytes: usize,
    spare: Vec<Vec<u8>>,
    thread: Thread,
    is_closed: bool,
    must_reopen: bool,
    /// Lines dropped since the last report.
    dropped: u64,
}

/// The activity of a log's thread.
#[derive(Debug, Default, PartialEq, Eq)]
enum Thread {
    /// It looks for work.
    #[default]
    Looking,
    /// It waits to be woken.
    Waiting,
    /// It has lines that are not written yet.
    Writing,
}

/// The fate of lines handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// They will be written.
    Kept,
    /// There was no room.
    Dropped {
        /// Whether the lines before these were kept.
        is_first: bool,
    },
}

impl LogWriter {
    /// Opens `destination` and starts its thread. At most `limit` bytes wait to be written.
    pub fn start(name: &'static str, destination: &Destination, limit: usize) -> io::Result<Self> {
        let file = destination.open()?;
        let inner = Arc::new(Inner {
            name,
            limit,
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let writing = Arc::clone(&inner);
        let thread = std::thread::Builder::new().name(format!("log-{name}"));
        // It ends with the last handle, or with the process if its descriptor blocks at that point.
        drop(thread.spawn(move || writing.run(file))?);
        Ok(Self { inner })
    }

    /// The name of the log.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Queues whole lines for writing, if there is room for them. Leaves an empty buffer.
    pub fn hand_over(&self, lines: &mut Vec<u8>) -> Appended {
        if lines.len() < lines.capacity() / 2 {
            // Many nearly empty buffers would take more memory than the limit allows.
            let appended = self.append(lines);
            lines.clear();
            return appended;
        }
        let mut queue = self.inner.lock();
        if queue.bytes + lines.len() > self.inner.limit {
            let appended = self.inner.drop_lines(&mut queue, lines);
            drop(queue);
            lines.clear();
            return appended;
        }
        let spare = queue.spare.pop().unwrap_or_else(|| Vec::with_capacity(lines.capacity()));
        let lines = std::mem::replace(lines, spare);
        queue.bytes += lines.len();
        queue.blocks.push_back(lines);
        self.inner.wake(queue);
        Appended::Kept
    }

    /// Like [`Self::hand_over`], for borrowed lines.
    pub fn append(&self, lines: &[u8]) -> Appended {
        let mut queue = self.inner.lock();
        if queue.bytes + lines.len() > self.inner.limit {
            return self.inner.drop_lines(&mut queue, lines);
        }
        queue.bytes += lines.len();
        let last = queue.blocks.back_mut();
        if let Some(block) = last.filter(|block| block.len() + lines.len() <= USUAL) {
            block.extend_from_slice(lines);
        } else {
            let mut block = queue.spare.pop().unwrap_or_default();
            block.extend_from_slice(lines);
            queue.blocks.push_back(block);
        }
        self.inner.wake(queue);
        Appended::Kept
    }

    /// Requests that the file is reopened once everything appended so far is written.
    pub fn reopen(&self) {
        self.inner.lock().must_reopen = true;
        self.inner.work.notify_one();
    }

    /// Waits until everything is written, at most `limit`; false on timeout.
    pub fn flush(&self, limit: Duration) -> bool {
        let queue = self.inner.lock();
        let is_busy =
            |queue: &mut Queue| !queue.blocks.is_empty() || queue.thread == Thread::Writing;
        let waited = self.inner.done.wait_timeout_while(queue, limit, is_busy);
        let (_queue, outcome) = waited.unwrap_or_else(PoisonError::into_inner);
        !outcome.timed_out()
    }

    /// Lines that were dropped because too many were waiting.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Relaxed)
    }

    /// Lines that could not be written.
    pub fn failed(&self) -> u64 {
        self.inner.failed.load(Relaxed)
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.inner.lock().is_closed = true;
        self.inner.work.notify_one();
    }
}

/// For callers that write one line at a time; never fails.
impl Write for &LogWriter {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.append(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Work for the thread of a log.
enum Work {
    Write { dropped: u64 },
    Reopen,
    End,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread if it waits, after unlocking the queue for it.
    fn wake(&self, queue: MutexGuard<'_, Queue>) {
        let is_waiting = queue.thread == Thread::Waiting;
        drop(queue);
        if is_waiting {
            self.work.notify_one();
        }
    }

    fn drop_lines(&self, queue: &mut Queue, lines: &[u8]) -> Appended {
        let lost = count(lines);
        let is_first = queue.dropped == 0;
        queue.dropped += lost;
        self.dropped.fetch_add(lost, Relaxed);
        Appended::Dropped { is_first }
    }

    fn run(&self, mut file: LogFile) {
        give_way();
        let mut blocks = VecDeque::new();
        let mut is_failing = false;
        loop {
            match self.next(&mut blocks) {
                Work::End => return,
                Work::Reopen => self.reopen(&mut file),
                Work::Write { dropped } => {
                    for lines in &blocks {
                        self.tell(&file.append(lines), &mut is_failing);
                    }
                    if dropped > 0 {
                        tracing::warn!(log = self.name, lines = dropped, "log lines were dropped");
                    }
                }
            }
        }
    }

    /// Waits for work. Takes all blocks, and returns the memory of those already written for reuse.
    fn next(&self, blocks: &mut VecDeque<Vec<u8>>) -> Work {
        let mut queue = self.lock();
        queue.thread = Thread::Looking;
        queue.bytes -= blocks.iter().map(Vec::len).sum::<usize>();
        let room = MAX_SPARE.saturating_sub(queue.spare.len());
        let kept = blocks.drain(..).filter(|block| block.capacity() <= 2 * USUAL).take(room);
        queue.spare.extend(kept.map(|mut block| {
            block.clear();
            block
        }));
        loop {
            if !queue.blocks.is_empty() {
                std::mem::swap(&mut queue.blocks, blocks);
                queue.thread = Thread::Writing;
                return Work::Write { dropped: std::mem::take(&mut queue.dropped) };
            }
            self.done.notify_all();
            if queue.must_reopen {
                queue.must_reopen = false;
                return Work::Reopen;
            }
            if queue.is_closed {
                return Work::End;
            }
            queue.thread = Thread::Waiting;
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.thread = Thread::Looking;
        }
    }

    fn reopen(&self, file: &mut LogFile) {
        match file.reopen() {
            Ok(()) => tracing::info!(log = self.name, "log file reopened"),
            Err(error) => {
                tracing::error!(log = self.name, %error, "log file not reopened, the old one stays in use");
            }
        }
    }

    /// Counts lost lines, and reports the start and the end of a failure.
    fn tell(&self, outcome: &Result<(), Lost>, is_failing: &mut bool) {
        match outcome {
            Ok(()) if *is_failing => {
                let lost = self.failed.load(Relaxed);
                tracing::warn!(log = self.name, lines_lost = lost, "log can be written again");
            }
            Ok(()) => {}
            Err(lost) => {
                self.failed.fetch_add(lost.lines, Relaxed);
                if !*is_failing {
                    tracing::error!(log = self.name, error = %lost.error, "log cannot be written, lines are lost");
                }
            }
        }
        *is_failing = outcome.is_err();
    }
}

/// Gives the threads that serve clients priority over this one. Lines wait in memory meanwhile, and
/// if no thread is ever idle, a tenth of a processor is left for them: more than they need.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        /// Against a thread of the usual priority, this one has a weight of 110 to 1024.
        const NICE: i32 = 10;
        // On Linux the priority is per thread. If it cannot be set, lines are written all the same.
        let thread = Some(rustix::thread::gettid());
        if rustix::process::getpriority_process(thread).is_ok_and(|nice| nice < NICE) {
            let _unchanged = rustix::process::setpriority_process(thread, NICE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use super::*;

    const LIMIT: usize = 256 * 1024;
    const LONG: Duration = Duration::from_secs(20);

    /// Where the threads that serve clients have the same processor.
    #[cfg(target_os = "linux")]
    #[test]
    fn only_the_thread_of_a_log_gives_way_to_others() {
        let nice = || rustix::process::getpriority_process(Some(rustix::thread::gettid()));
        let before = nice().expect("a thread knows its own");
        let theirs = std::thread::spawn(move || {
            give_way();
            nice()
        });
        assert_eq!(theirs.join().expect("it ends").expect("and so does that one"), 10.max(before));
        assert_eq!(nice().expect("a thread knows its own"), before);
    }

    /// A log that goes to a pipe, and the pipe's other end.
    fn piped() -> (LogWriter, io::PipeReader) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let destination = Destination::Path(path.into());
        let log = LogWriter::start("access", &destination, LIMIT).expect("started");
        drop(OwnedFd::from(writer));
        (log, reader)
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_that_is_not_read_holds_up_no_one_and_costs_whole_lines_only() {
        let (log, mut reader) = piped();
        let mut kept = 0;
        let mut dropped = 0;
        while dropped < 100 {
            let line = format!("{kept:099}\n");
            match log.append(line.as_bytes()) {
                Appended::Kept => kept += 1,
                Appended::Dropped { is_first } => {
                    assert!(is_first || dropped > 0);
                    dropped += 1;
                }
            }
        }
        assert_eq!(log.dropped(), 100);
        assert!(!log.flush(Duration::from_millis(1)), "the pipe stands still");
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        let numbers: Vec<u64> = text.lines().map(|line| line.parse().expect("whole")).collect();
        assert_eq!(numbers, (0..kept).collect::<Vec<_>>(), "all that was kept, in order");
    }

    #[test]
    fn buffers_that_are_handed_over_come_back_and_lines_stay_in_order() {
        let place = tempfile::NamedTempFile::new().expect("a file");
        let destination = Destination::new(place.path());
        let log = LogWriter::start("access", &destination, LIMIT).expect("started");
        let mut lines = Vec::with_capacity(1000);
        let mut expected = Vec::new();
        for number in 0..1000 {
            lines.resize(number % 1000, b'x');
            lines.push(b'\n');
            expected.extend_from_slice(&lines);
            assert_eq!(log.hand_over(&mut lines), Appended::Kept);
            assert!(lines.is_empty());
            if number % 10 == 0 {
                assert!(log.flush(LONG));
            }
        }
        assert!(log.flush(LONG));
        assert_eq!(std::fs::read(place.path()).expect("read"), expected);
    }

    #[test]
    fn a_log_that_cannot_be_written_counts_what_it_lost() {
        let full = Destination::Path("/dev/full".into());
        let Ok(log) = LogWriter::start("access", &full, LIMIT) else { return };
        for _ in 0..3 {
            assert_eq!(log.append(b"one\ntwo\n"), Appended::Kept);
        }
        assert!(log.flush(LONG));
        assert_eq!(log.failed(), 6);
    }

    #[test]
    fn lines_that_were_appended_before_a_rotation_are_in_the_old_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let log = LogWriter::start("access", &Destination::new(&path), LIMIT).expect("started");
        log.append(b"before\n");
        assert!(log.flush(LONG));
        std::fs::rename(&path, &moved).expect("renamed");
        log.append(b"with it\n");
        log.reopen();
        while !path.exists() {
            std::thread::yield_now();
        }
        log.append(b"after\n");
        assert!(log.flush(LONG));
        assert_eq!(std::fs::read(&moved).expect("read"), b"before\nwith it\n");
        assert_eq!(std::fs::read(&path).expect("read"), b"after\n");
    }

    #[test]
    fn the_standard_streams_have_several_names() {
        let of = |text: &str| Destination::new(Path::new(text));
        assert_eq!(of("-"), Destination::StandardOutput);
        assert_eq!(of("/dev/stdout"), Destination::StandardOutput);
        assert_eq!(of("/dev/stderr"), Destination::StandardError);
        assert_eq!(of("./-"), Destination::Path("./-".into()));
    }
}
