//! Requests to end early: Ctrl-C, and SIGTERM and SIGHUP, which mean the same.
//!
//! Signals are sent to the whole process, so they are counted in one place, by a thread that runs
//! from the first trial on. Before that a signal ends the program as usual. Signals that the
//! program was started to ignore (`nohup`, a job in the background) stay ignored.

use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

#[derive(Debug, Default)]
struct Wishes {
    count: AtomicUsize,
    first: AtomicU8,
}

static WISHES: OnceLock<Wishes> = OnceLock::new();

/// Makes signals count instead of ending the program, from now on.
pub(crate) fn watch() {
    let mut is_first = false;
    WISHES.get_or_init(|| {
        is_first = true;
        Wishes::default()
    });
    if is_first && let Err(error) = start() {
        tracing::warn!(%error, "signals end this program at once, without results");
    }
}

/// How many signals have been received.
pub(crate) fn count() -> usize {
    WISHES.get().map_or(0, |wishes| wishes.count.load(Ordering::Relaxed))
}

/// Exit status of a program ended by the first signal; `None` if there was none.
pub fn exit_code() -> Option<ExitCode> {
    const SIGNALLED: u8 = 128;
    let number = WISHES.get()?.first.load(Ordering::Relaxed);
    (number > 0).then(|| ExitCode::from(SIGNALLED + number))
}

#[cfg(unix)]
fn start() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ignored = ignored();
    // Registered before the thread starts, so that no signal is missed.
    let guard = runtime.enter();
    let mut streams = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
        if ignored & (1 << number.saturating_sub(1)) == 0 {
            streams.push((number, signal(kind)?));
        }
    }
    drop(guard);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let count = |(number, mut stream): (u8, tokio::signal::unix::Signal)| async move {
            while stream.recv().await.is_some() {
                counted(number);
            }
        };
        let local = tokio::task::LocalSet::new();
        for stream in streams {
            local.spawn_local(count(stream));
        }
        runtime.block_on(local);
    })?;
    Ok(())
}

#[cfg(not(unix))]
fn start() -> std::io::Result<()> {
    const INTERRUPT: u8 = 2;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                counted(INTERRUPT);
            }
        });
    })?;
    Ok(())
}

fn counted(number: u8) {
    let Some(wishes) = WISHES.get() else { return };
    // Only the first signal determines the exit status.
    let _earlier = wishes.first.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
    wishes.count.fetch_add(1, Ordering::Relaxed);
}

/// Mask of the signals that this program was started to ignore; 0 if unknown.
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
