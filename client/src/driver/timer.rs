//! Waits until an instant, accurate to some tens of microseconds.
//!
//! The runtime's own timer counts in milliseconds, which at 1,000 requests per second would be the
//! whole gap between two of them. On Linux a timerfd in the event loop is exact and costs no
//! spinning; elsewhere the runtime's timer has to do, and the scheduling error in every report
//! shows it.

use std::time::Duration;

#[cfg(target_os = "linux")]
use tokio::time::Instant;

/// A timer of one event loop.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(crate) struct Timer {
    fd: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

#[cfg(target_os = "linux")]
impl Timer {
    /// Creates a timer for the current event loop.
    pub(crate) fn try_new() -> std::io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "deprecated for types that may swap their descriptor; an OwnedFd never does"
        )]
        let fd = tokio::io::unix::AsyncFd::new(fd)?;
        Ok(Self { fd })
    }

    /// Sleeps for `wait`, accurate to some tens of microseconds.
    pub(crate) async fn sleep(&self, wait: Duration) -> std::io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        if wait.is_zero() {
            return Ok(()); // a zero would disarm the timer
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let spec = Itimerspec { it_interval: zero, it_value: value };
        let until = Instant::now() + wait;
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)?;
        loop {
            // Not read, as setting the timer again clears it as well. An earlier sleep may have
            // been abandoned, and this may be the end of that one.
            self.fd.readable().await?.clear_ready();
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }
}

/// A timer of one event loop.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(crate) struct Timer;

#[cfg(not(target_os = "linux"))]
impl Timer {
    /// Creates a timer for the current event loop.
    pub(crate) fn try_new() -> std::io::Result<Self> {
        Ok(Self)
    }

    /// Sleeps for `wait`, with the precision of the runtime's timer.
    pub(crate) async fn sleep(&self, wait: Duration) -> std::io::Result<()> {
        tokio::time::sleep(wait).await;
        Ok(())
    }
}
