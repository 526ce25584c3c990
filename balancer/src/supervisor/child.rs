//! One worker process, from start to end.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::output;
use crate::config::Spawn;

/// Time to read the last output of a process that has exited: its own children may keep it open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Time limit for the kernel to end a killed process.
const KILL_LIMIT: Duration = Duration::from_millis(100);

/// The running worker processes, whatever they are doing.
#[derive(Debug, Default)]
pub struct Children {
    running: Mutex<Vec<Running>>,
}

/// A running process and the worker that it belongs to.
#[derive(Debug)]
struct Running {
    pid: Pid,
    worker: Arc<str>,
}

impl Children {
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Running>) -> T) -> T {
        change(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Kills the remaining processes, with all that they started, when the balancer itself ends.
    pub fn kill(&self) {
        self.change(|running| running.drain(..).for_each(|process| kill(process.pid)));
    }

    /// Kills the process of one worker immediately, like a crash; false if it currently has none.
    pub(super) fn kill_worker(&self, worker: &str) -> bool {
        self.change(|running| {
            let process = running.iter().find(|process| &*process.worker == worker);
            process.inspect(|process| kill(process.pid)).is_some()
        })
    }
}

fn kill(pid: Pid) {
    // It may have just ended, or have left its group.
    let _killed =
        kill_process_group(pid, Signal::KILL).is_ok() || kill_process(pid, Signal::KILL).is_ok();
}

/// Keeps a process in the list of [`Children`] while it runs.
#[derive(Debug)]
struct Entry {
    pid: Pid,
    children: Arc<Children>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.children.change(|running| running.retain(|process| process.pid != self.pid));
    }
}

/// A worker's process and its reports.
#[derive(Debug)]
pub(super) struct Worker {
    name: Arc<str>,
    child: Child,
    /// Closed by dropping it, which tells the worker to finish.
    stdin: Option<ChildStdin>,
    address: oneshot::Receiver<SocketAddr>,
    output: JoinSet<()>,
    entry: Option<Entry>,
}

impl Worker {
    /// Starts the process `name`, which will listen on `listen`.
    pub(super) fn start(
        spawn: &Spawn,
        name: &str,
        listen: SocketAddr,
        children: &Arc<Children>,
    ) -> std::io::Result<Self> {
        let mut command = command(spawn);
        command
            .args(["serve", "--supervised", "--listen", &listen.to_string()])
            .args(["--threads", &spawn.threads.to_string()])
            .arg("--models")
            .arg(&spawn.models);
        // In its own group: Ctrl-C is for the balancer, which stops its workers last.
        command.process_group(0).kill_on_drop(true);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let name: Arc<str> = name.into();
        let entry = pid(&child).map(|pid| {
            let worker = Arc::clone(&name);
            children.change(|running| running.push(Running { pid, worker }));
            Entry { pid, children: Arc::clone(children) }
        });
        let (tell, address) = oneshot::channel();
        let mut output = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            output.spawn(output::follow(Arc::clone(&name), stdout, Some(tell)));
        }
        if let Some(stderr) = child.stderr.take() {
            output.spawn(output::follow(Arc::clone(&name), stderr, None));
        }
        Ok(Self { name, stdin: child.stdin.take(), child, address, output, entry })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it reports where it listens; `None` if it never will.
    pub(super) async fn address(&mut self) -> Option<SocketAddr> {
        (&mut self.address).await.ok()
    }

    /// Waits for its end, and returns how it ended.
    pub(super) async fn exited(&mut self) -> String {
        let status = self.child.wait().await;
        if let Some(entry) = self.entry.take() {
            // Processes that it started and left behind would keep its port.
            let _killed = kill_process_group(entry.pid, Signal::KILL).is_ok();
        }
        let output = async { while self.output.join_next().await.is_some() {} };
        // Output after that is dropped with `self`.
        let _all_read = timeout(LAST_WORDS, output).await.is_ok();
        status.map_or_else(|error| error.to_string(), words)
    }

    /// Kills it because of `reason`; returns that, or how it ended on its own.
    pub(super) async fn killed(&mut self, reason: &str) -> String {
        // A process that exits closes its output a moment earlier.
        if let Ok(status) = timeout(LAST_WORDS, self.exited()).await {
            return status;
        }
        if let Some(pid) = pid(&self.child) {
            kill(pid);
        }
        let _exited = timeout(KILL_LIMIT, self.exited()).await.is_ok();
        format!("{reason}, and was killed")
    }

    /// Tells it to finish, and kills it if it is still running at `deadline`.
    pub(super) async fn finish(mut self, deadline: Instant) {
        drop(self.stdin.take());
        if let Some(pid) = pid(&self.child) {
            // On failure it has already ended.
            let _told = kill_process(pid, Signal::TERM).is_ok();
        }
        // Keep up to half of the remaining time, because killing takes a moment too.
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = left.saturating_sub((left / 2).min(KILL_LIMIT));
        if let Ok(reason) = timeout(patience, self.exited()).await {
            tracing::info!(worker = self.name(), reason, "worker stopped");
            return;
        }
        tracing::warn!(worker = self.name(), "worker did not stop, killing it");
        if let Some(pid) = pid(&self.child) {
            kill(pid);
        }
        let _exited = timeout(KILL_LIMIT, self.exited()).await.is_ok();
    }
}

fn pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
}

/// The command to run, through [`launch`] if there is a launcher.
fn command(spawn: &Spawn) -> Command {
    match &spawn.launcher {
        None => Command::new(&spawn.program),
        Some(launcher) => {
            let mut command = Command::new(launcher);
            command.args(["launch", &std::process::id().to_string()]).arg(&spawn.program).arg("--");
            command
        }
    }
}

/// Becomes `program`, which from then on ends when the process `parent` does, however that ends.
/// Returns only if that is not possible.
#[cfg(target_os = "linux")]
pub fn launch(parent: u32, program: &Path, arguments: &[OsString]) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    if std::os::unix::process::parent_id() != parent {
        return std::io::Error::other("the balancer has ended");
    }
    // Small pages suit many connections but not weights, and the setting would be inherited.
    let _is_unsupported = rustix::thread::disable_transparent_huge_pages(false).is_err();
    std::process::Command::new(program).args(arguments).exec()
}

/// Not supported where a process cannot be bound to another.
#[cfg(not(target_os = "linux"))]
pub fn launch(_: u32, _: &Path, _: &[OsString]) -> std::io::Error {
    std::io::ErrorKind::Unsupported.into()
}

/// How a process ended, in words.
fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(127), _) => "exit status 127: the program cannot be run".to_owned(),
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_told_in_words() {
        assert_eq!(words(ExitStatus::from_raw(9)), "killed by signal 9");
        assert_eq!(words(ExitStatus::from_raw(1 << 8)), "exit status 1");
        assert_eq!(words(ExitStatus::from_raw(0)), "exit status 0");
    }
}
