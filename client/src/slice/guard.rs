//! Removes a slice when this program ends, however it ends.
//!
//! A helper process waits at the other end of a pipe. The pipe closes when this program drops it or
//! dies, even by `kill -9`; then the helper runs `slice down`. It also holds the lock on the
//! slice's name, so that a new slice of that name is never built during the removal of the old one.

use std::fs::{self, File, TryLockError};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::Which;

/// Waits for the end of its input in a session of its own, where Ctrl-C does not reach it.
const HELPER: &str = "cat > /dev/null; exec \"$0\" slice down --name \"$1\" --state-dir \"$2\"";

/// The hold on a slice that is to be removed.
#[derive(Debug)]
pub(crate) struct Guard {
    helper: Child,
}

impl Guard {
    /// Locks the slice's name; fails if another program has locked it.
    pub(crate) fn take(which: &Which) -> Result<Self> {
        fs::create_dir_all(&which.state_dir)
            .with_context(|| format!("making {}", which.state_dir.display()))?;
        let path = which.state_dir.join(format!("{}.lock", which.name));
        let lock = File::create(&path).with_context(|| path.display().to_string())?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another program is using or removing slice `{}`", which.name)
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| path.display().to_string());
            }
        }
        let helper = Command::new("setsid")
            .args(["sh", "-c", HELPER])
            .arg(std::env::current_exe().context("finding this program")?)
            .arg(&which.name)
            .arg(&which.state_dir)
            .stdin(Stdio::piped())
            // The helper's copy of the file keeps the lock as long as the helper lives.
            .stdout(lock)
            .spawn()
            .context("starting `setsid sh`")?;
        Ok(Self { helper })
    }

    /// Removes the slice now.
    pub(crate) fn release(mut self) -> Result<()> {
        drop(self.helper.stdin.take());
        let status = self.helper.wait().context("waiting for the slice to be removed")?;
        ensure!(status.success(), "the slice could not be removed: {status}");
        Ok(())
    }
}
