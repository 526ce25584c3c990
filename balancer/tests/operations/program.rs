//! The program, its output, and programs in place of its workers.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::exchange;

/// Far longer than anything here takes, but finite.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// A running balancer.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// What it has logged so far.
    log: Arc<Mutex<String>>,
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Polls `condition` until it is met.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let met = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, met).await.expect(what)
}

impl Program {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, Stdio::null()).await
    }

    pub(crate) async fn start_with(arguments: &[&str], stdout: Stdio) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_balancer"));
        command
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--threads", "1"])
            .args(["--probe-interval", "100ms"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout);
        Self::spawn(command).listening().await
    }

    /// Starts it without waiting for the outcome.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                written.lock().expect("not poisoned").push_str(&(line + "\n"));
            }
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { child, address: nowhere, admin: nowhere, log }
    }

    pub(crate) async fn listening(mut self) -> Self {
        let addresses = until("it listens", async || addresses(&self.log)).await;
        (self.address, self.admin) = addresses;
        self
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    pub(crate) async fn until_logged(&self, text: &str) {
        until(text, async || self.log().contains(text).then_some(())).await;
    }

    pub(crate) async fn fleet(&self) -> serde_json::Value {
        let request = "GET /fleet.json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        serde_json::from_str(&exchange(self.admin, request).await.body).expect("JSON")
    }

    pub(crate) async fn until_ready(&self) {
        until("it is ready", async || (self.fleet().await["ready"] == true).then_some(())).await;
    }

    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let text = exchange(self.admin, request).await.body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.expect(name)
    }

    pub(crate) async fn post(&self) -> u16 {
        let request =
            "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
        exchange(self.address, request).await.status
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(&self.child), signal).expect("it runs");
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("it ends", async || child.try_wait().expect("a child")).await
    }

    /// Its exit status; it must exit soon after the second that `--drain-timeout` allows.
    pub(crate) async fn ended_in_time(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(Duration::from_secs(10), self.ended());
        ended.await.expect("it ends within its drain limit")
    }
}

pub(crate) fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid")
}

/// The addresses it listens on, once it has logged them.
fn addresses(log: &Mutex<String>) -> Option<(SocketAddr, SocketAddr)> {
    let log = log.lock().expect("not poisoned");
    let line = log.lines().find(|line| line.contains(" listening address="))?;
    let value = |name: &str| line.split(name).nth(1)?.split(' ').next()?.parse().ok();
    Some((value("address=")?, value("admin=")?))
}

fn script(folder: &Path, text: &str) -> String {
    let path = folder.join("worker.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
    path.to_str().expect("text").to_owned()
}

/// A program in place of a worker, and the balancer that starts it.
pub(crate) async fn supervised(folder: &Path, text: &str, more: &[&str]) -> Program {
    let program = script(folder, text);
    let mut arguments = vec!["--worker-bin", &program];
    arguments.extend(more);
    if !more.contains(&"--spawn") {
        arguments.extend(["--spawn", "1"]);
    }
    Program::start(&arguments).await
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A command that is started like systemd does it, with a socket that outlives it.
pub(crate) fn activated(socket: &std::net::TcpListener, arguments: &[&str]) -> Command {
    let script = "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\" 3<&0 </dev/null";
    let socket = OwnedFd::from(socket.try_clone().expect("a socket"));
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_balancer"), "--threads", "1"]);
    command.args(arguments).stdin(socket).stdout(Stdio::null());
    command
}
