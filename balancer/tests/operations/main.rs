//! The program as an operator runs it: its logs, its signals, its workers, and how it ends.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Act, Stub, exchange};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Far longer than anything here takes, but not for ever.
const LONG: Duration = Duration::from_mins(1);

/// A running balancer.
struct Program {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    /// What it has logged so far.
    log: Arc<Mutex<String>>,
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits for `condition`, which is asked again and again.
async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
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
    async fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, Stdio::null()).await
    }

    async fn start_with(arguments: &[&str], stdout: Stdio) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_balancer"));
        command
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--threads", "1"])
            .args(["--probe-interval", "100ms"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout);
        Self::spawn(command).listening().await
    }

    /// Starts it, whatever becomes of it.
    fn spawn(mut command: Command) -> Self {
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

    async fn listening(mut self) -> Self {
        let addresses = until("it listens", async || addresses(&self.log)).await;
        (self.address, self.admin) = addresses;
        self
    }

    fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    async fn until_logged(&self, text: &str) {
        until(text, async || self.log().contains(text).then_some(())).await;
    }

    async fn fleet(&self) -> serde_json::Value {
        let request = "GET /fleet.json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        serde_json::from_str(&exchange(self.admin, request).await.body).expect("JSON")
    }

    async fn until_ready(&self) {
        until("it is ready", async || (self.fleet().await["ready"] == true).then_some(())).await;
    }

    async fn metric(&self, name: &str) -> f64 {
        let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let text = exchange(self.admin, request).await.body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.expect(name)
    }

    async fn post(&self) -> u16 {
        let request =
            "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
        exchange(self.address, request).await.status
    }

    fn signal(&self, signal: Signal) {
        kill_process(pid(&self.child), signal).expect("it runs");
    }

    async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("it ends", async || child.try_wait().expect("a child")).await
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid")
}

/// Where it listens, once it has said so.
fn addresses(log: &Mutex<String>) -> Option<(SocketAddr, SocketAddr)> {
    let log = log.lock().expect("not poisoned");
    let line = log.lines().find(|line| line.contains(" listening address="))?;
    let value = |name: &str| line.split(name).nth(1)?.split(' ').next()?.parse().ok();
    Some((value("address=")?, value("admin=")?))
}

/// `count` requests over one connection; all must be answered.
async fn ask(address: SocketAddr, target: &str, count: usize) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut answer = vec![0; 64 * 1024];
    for number in 0..count {
        stream.write_all(request.as_bytes()).await.expect("sent");
        let read = tokio::time::timeout(LONG, stream.read(&mut answer)).await;
        let length = read.expect("an answer").expect("read");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{number}");
    }
}

fn script(folder: &Path, text: &str) -> String {
    let path = folder.join("worker.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
    path.to_str().expect("text").to_owned()
}

/// A program in the place of a worker, and the balancer that starts it.
async fn supervised(folder: &Path, text: &str, more: &[&str]) -> Program {
    let program = script(folder, text);
    let mut arguments = vec!["--worker-bin", &program];
    arguments.extend(more);
    if !more.contains(&"--spawn") {
        arguments.extend(["--spawn", "1"]);
    }
    Program::start(&arguments).await
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn is_running(pid: &str) -> bool {
    let status = std::fs::read_to_string(PathBuf::from("/proc").join(pid.trim()).join("stat"));
    // A zombie has ended.
    status.is_ok_and(|status| !status.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_log_that_is_not_read_stops_no_request_and_its_lines_are_counted() {
    let stub = Stub::named("alive").await;
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let arguments = ["--worker", &stub.address.to_string(), "--access-log", "-"];
    let mut balancer = Program::start_with(&arguments, writer.into()).await;
    balancer.until_ready().await;
    let target = format!("/v2/health/live?{}", "x".repeat(7_000));
    ask(balancer.address, &target, 4_000).await;
    let dropped = "balancer_log_lines_dropped_total{log=\"access\",reason=\"not_read\"}";
    until("lines are counted", async || (balancer.metric(dropped).await > 0.0).then_some(())).await;
    balancer.until_logged("log is not read, lines are dropped").await;
    balancer.signal(Signal::TERM);
    assert!(balancer.ended().await.success());
    drop(reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standard_error_that_is_not_read_stops_nothing() {
    let stub = Stub::named("alive").await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_balancer"))
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "trace"])
        .args(["--worker", &stub.address.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = lines.next().expect("a line").expect("text");
    let address = line.rsplit('/').next().expect("an address").parse().expect("an address");
    ask(address, "/v2/health/live", 5_000).await;
    kill_process(pid(&child), Signal::TERM).expect("it runs");
    let ended = until("it ends", async || child.try_wait().expect("a child")).await;
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_standard_output_is_no_reason_to_end() {
    let stub = Stub::named("alive").await;
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let arguments = ["--worker", &stub.address.to_string(), "--access-log", "/dev/stdout"];
    let mut balancer = Program::start_with(&arguments, writer.into()).await;
    balancer.until_ready().await;
    assert_eq!(balancer.post().await, 200);
    balancer.until_logged("log=access error=\"Broken pipe").await;
    balancer.signal(Signal::TERM);
    assert!(balancer.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_once_and_stops_no_request() {
    let stub = Stub::named("alive").await;
    let arguments = ["--worker", &stub.address.to_string(), "--access-log", "/dev/full"];
    let balancer = Program::start(&arguments).await;
    balancer.until_ready().await;
    let lost = "balancer_log_lines_dropped_total{log=\"access\",reason=\"not_written\"}";
    for wanted in [1.0, 2.0] {
        assert_eq!(balancer.post().await, 200);
        let counted = async || (balancer.metric(lost).await >= wanted).then_some(());
        until("the line is counted", counted).await;
    }
    assert_eq!(balancer.log().matches("log cannot be written").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_requests_are_noted_in_the_new_file() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let arguments =
        ["--worker", &stub.address.to_string(), "--access-log", path.to_str().expect("text")];
    let balancer = Program::start(&arguments).await;
    balancer.until_ready().await;
    for signal in [Signal::HUP, Signal::USR1] {
        let before = balancer.log().matches("log file reopened").count();
        std::fs::rename(&path, &moved).expect("renamed");
        balancer.signal(signal);
        let opened =
            async || (balancer.log().matches("log file reopened").count() > before).then_some(());
        until("it is opened again", opened).await;
        assert_eq!(balancer.post().await, 200);
        let noted = async || {
            let text = std::fs::read_to_string(&path).ok()?;
            text.contains("/predict").then_some(())
        };
        until("the line is in the new file", noted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_json_objects_when_that_is_wanted() {
    let arguments = ["--worker", "127.0.0.1:9", "--log-format", "json", "--log", "debug"];
    let program = env!("CARGO_BIN_EXE_balancer");
    let mut child = Command::new(program)
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let read = tokio::task::spawn_blocking(move || {
        let mut messages = Vec::new();
        while !messages.iter().any(|message| message == "listening") {
            let line = lines.next().expect("a line").expect("text");
            let event: serde_json::Value = serde_json::from_str(&line).expect(&line);
            messages.push(event["message"].as_str().expect("text").to_owned());
        }
        messages
    });
    let messages = tokio::time::timeout(LONG, read).await.expect("in time").expect("JSON lines");
    assert!(messages.iter().any(|message| message == "configuration"), "{messages:?}");
    drop(child.kill());
    drop(child.wait());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_while_a_worker_is_starting() {
    let folder = folder();
    let started = folder.path().join("started");
    let text = format!("trap '' TERM\ntouch {}\nwhile :; do sleep 1; done", started.display());
    let mut balancer = supervised(folder.path(), &text, &["--drain-timeout", "1s"]).await;
    until("it is started", async || started.exists().then_some(())).await;
    balancer.signal(Signal::TERM);
    assert!(balancer.ended().await.success(), "{}", balancer.log());
    assert!(balancer.log().contains("worker did not stop, killing it worker=worker1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_print_what_is_no_text_and_has_no_end() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    let text = format!(
        "echo hello\nprintf 'caf\\351\\n'\necho listening on {}\nprintf 'ol\\303\\n' >&2\n\
         head -c 300000 /dev/zero\necho\necho the end\nexec cat >/dev/null",
        stub.address
    );
    let mut balancer = supervised(folder.path(), &text, &[]).await;
    balancer.until_ready().await;
    for printed in
        ["worker1 | hello\n", "worker1 | caf\\xe9\n", "worker1 | ol\\xc3\n", "worker1 | the end\n"]
    {
        balancer.until_logged(printed).await;
    }
    assert_eq!(balancer.post().await, 200);
    balancer.signal(Signal::TERM);
    assert!(balancer.ended().await.success());
    assert!(balancer.log().contains("worker stopped worker=worker1"), "{}", balancer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_is_started_again_and_the_reason_is_told() {
    let folder = folder();
    let balancer = supervised(folder.path(), "exit 3", &[]).await;
    balancer.until_logged("worker exited worker=worker1 reason=\"exit status 3\"").await;
    let again = async || (balancer.log().matches("exit status 3").count() >= 2).then_some(());
    until("it is started again", again).await;
    assert!(balancer.log().contains("restart_in=200ms"), "{}", balancer.log());
    let missing = Program::start(&["--spawn", "1", "--worker-bin", "/nowhere/worker"]).await;
    missing.until_logged("worker1 | cannot run /nowhere/worker: No such file").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_be_started_does_not_keep_the_others_from_their_work() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    // The first process makes the folder and fails, the second listens, all others fail.
    let text = format!(
        "mkdir {0}/failing 2>/dev/null && exit 1\n\
         [ -e {0}/other ] && exit 1\n: >{0}/other\necho listening on {1}\nexec cat >/dev/null",
        folder.path().display(),
        stub.address
    );
    let balancer = supervised(folder.path(), &text, &["--spawn", "2"]).await;
    balancer.until_ready().await;
    assert_eq!(balancer.post().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_do_not_outlive_a_balancer_that_is_killed() {
    let folder = folder();
    let noted = folder.path().join("pid");
    let text = format!("echo $$ > {0}.new; mv {0}.new {0}\nexec sleep 1000", noted.display());
    let mut balancer = supervised(folder.path(), &text, &[]).await;
    let pid = until("it is started", async || std::fs::read_to_string(&noted).ok()).await;
    assert!(is_running(&pid));
    balancer.signal(Signal::KILL);
    assert_eq!(balancer.ended().await.signal(), Some(9));
    until("the worker ends", async || (!is_running(&pid)).then_some(())).await;
}

/// What answers at the address of a worker that has crashed is not the worker.
#[tokio::test(flavor = "multi_thread")]
async fn another_program_on_a_crashed_workers_port_gets_no_request() {
    let (foreign, stub, folder) =
        (Stub::named("foreign").await, Stub::named("own").await, folder());
    let crash = folder.path().join("crash");
    // The first time it is at the foreign address and crashes when it is told to. Then that port is
    // taken, and it finds another.
    let text = format!(
        "case \"$*\" in\n*--listen\\ {0}*) echo address in use >&2; exit 1;; esac\n\
         [ -e {2} ] && {{ echo listening on {1}; exec cat >/dev/null; }}\n\
         echo listening on {0}\nwhile ! [ -e {2} ]; do sleep 0.01; done\nkill -9 $$",
        foreign.address,
        stub.address,
        crash.display()
    );
    let balancer = supervised(folder.path(), &text, &[]).await;
    balancer.until_ready().await;
    assert_eq!(balancer.post().await, 200);
    let before = foreign.seen().len();
    std::fs::write(&crash, "").expect("written");
    balancer.until_logged("reason=\"killed by signal 9\"").await;
    let moved = stub.address.to_string();
    until("it is elsewhere", async || {
        balancer.post().await;
        let one = balancer.fleet().await["endpoints"][0].clone();
        (one["address"] == *moved && one["state"] == "available").then_some(())
    })
    .await;
    assert_eq!(balancer.post().await, 200);
    assert_eq!(foreign.seen().len(), before, "{}", balancer.log());
}

/// A worker that never answers, and a client that waits for it.
async fn busy(drain: &str) -> (Program, Stub, TcpStream) {
    busy_with(drain, Act::Hang).await
}

/// A worker that does this, and a client that has asked it and reads nothing.
async fn busy_with(drain: &str, act: Act) -> (Program, Stub, TcpStream) {
    let stub = Stub::start(move |_| act.clone()).await;
    let arguments = ["--worker", &stub.address.to_string(), "--drain-timeout", drain];
    let balancer = Program::start(&arguments).await;
    balancer.until_ready().await;
    let mut client = TcpStream::connect(balancer.address).await.expect("connected");
    let request = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    client.write_all(request).await.expect("sent");
    until("the worker has the request", async || (!stub.seen().is_empty()).then_some(())).await;
    (balancer, stub, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_waits_for_requests_until_the_drain_limit_and_no_longer() {
    let (mut balancer, _stub, _client) = busy("1s").await;
    balancer.signal(Signal::TERM);
    assert!(balancer.ended().await.success(), "{}", balancer.log());
    assert!(balancer.log().contains("draining limit=1s"), "{}", balancer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_holds_up_the_end_no_longer_than_the_drain_limit() {
    let (mut balancer, _stub, client) = busy_with("1s", Act::ok(&"x".repeat(20_000_000))).await;
    client.readable().await.expect("the answer begins");
    balancer.signal(Signal::TERM);
    assert!(balancer.ended().await.success(), "{}", balancer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_it_at_once() {
    let (mut balancer, _stub, _client) = busy("1h").await;
    balancer.signal(Signal::TERM);
    let ended = until("it ends", async || {
        balancer.signal(Signal::TERM);
        balancer.child.try_wait().expect("a child")
    });
    assert_eq!(ended.await.code(), Some(1));
    balancer.until_logged("told a second time to stop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_stop_that_comes_twice_at_once_is_one() {
    let (mut balancer, _stub, _client) = busy("1s").await;
    balancer.signal(Signal::TERM);
    balancer.signal(Signal::INT);
    balancer.signal(Signal::TERM);
    assert!(balancer.ended().await.success(), "{}", balancer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_storm_changes_nothing() {
    let stub = Stub::named("alive").await;
    let balancer = Program::start(&["--worker", &stub.address.to_string()]).await;
    balancer.until_ready().await;
    for _ in 0..1_000 {
        balancer.signal(Signal::HUP);
        balancer.signal(Signal::USR1);
    }
    assert_eq!(balancer.post().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_is_silent_at_the_start_holds_up_no_other_worker_and_no_file() {
    let (one, two, folder) = (Stub::named("one").await, Stub::named("two").await, folder());
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let path = folder.path().join("workers");
    std::fs::write(&path, format!("{}\n", one.address)).expect("written");
    let arguments = [
        "--dns-server",
        &silent.local_addr().expect("bound").to_string(),
        "--worker",
        "dns:workers.test:8501",
        "--workers-file",
        path.to_str().expect("text"),
    ];
    let balancer = Program::start(&arguments).await;
    balancer.until_ready().await;
    assert_eq!(balancer.post().await, 200);
    balancer
        .until_logged("name not resolved, retrying source=\"worker=dns:workers.test:8501\"")
        .await;
    std::fs::write(&path, format!("{}\n", two.address)).expect("written");
    let second = two.address.to_string();
    let followed = async || {
        let fleet = balancer.fleet().await;
        (fleet["endpoints"][0]["name"] == *second).then_some(())
    };
    until("the file is followed", followed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_file_that_becomes_empty_or_no_file_empties_nothing_until_sighup() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    let path = folder.path().join("workers");
    std::fs::write(&path, format!("a={}\n", stub.address)).expect("written");
    let balancer = Program::start(&["--workers-file", path.to_str().expect("text")]).await;
    balancer.until_ready().await;
    std::fs::write(&path, "").expect("written");
    balancer.until_logged("the file names no worker any more").await;
    assert_eq!(balancer.post().await, 200);
    std::fs::remove_file(&path).expect("removed");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("made");
    balancer.until_logged("not a regular file").await;
    assert_eq!(balancer.post().await, 200);
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, "").expect("written");
    balancer.signal(Signal::HUP);
    until("the list is empty", async || {
        let fleet = balancer.fleet().await;
        fleet["endpoints"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_that_is_not_known_holds_up_no_other_worker() {
    let stub = Stub::named("alive").await;
    let local = format!("local=localhost:{}", stub.address.port());
    let arguments = ["--worker", "gone=nowhere.invalid:8501", "--worker", &local];
    let balancer = Program::start(&arguments).await;
    balancer.until_ready().await;
    assert_eq!(balancer.post().await, 200);
    let fleet = balancer.fleet().await;
    assert_eq!(fleet["endpoints"][0]["address"], stub.address.to_string(), "the one that listens");
}

/// Started as systemd does it, with a socket that outlives it.
fn activated(socket: &std::net::TcpListener, arguments: &[&str]) -> Command {
    let script = "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\" 3<&0 </dev/null";
    let socket = OwnedFd::from(socket.try_clone().expect("a socket"));
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_balancer"), "--threads", "1"]);
    command.args(arguments).stdin(socket).stdout(Stdio::null());
    command
}

/// A worker joins at the balancer's public port, and is answered with this status.
async fn join(balancer: SocketAddr, token: &str, worker: SocketAddr) -> u16 {
    let body = format!(r#"{{"name":"a","instance":"1","address":"{worker}","port":1}}"#);
    let (path, length) = (wire::join::JOIN, body.len());
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\nauthorization: Bearer {token}\r\n\r\n{body}"
    );
    exchange(balancer, &request).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_socket_of_systemd_workers_join_at_once_and_clients_wait_for_them() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let stub = Stub::named("alive").await;
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), TOKEN).expect("written");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let file = token.path().to_str().expect("a path");
    let arguments = ["--admin", "127.0.0.1:0", "--accept-joins", "--join-token-file", file];
    let balancer = Program::spawn(activated(&socket, &arguments)).listening().await;
    let asking = balancer.post();
    let joining = async {
        let waits = async || (balancer.metric("balancer_queue_depth").await > 0.0).then_some(());
        until("the client waits", waits).await;
        assert_eq!(join(balancer.address, TOKEN, stub.address).await, 200);
    };
    assert_eq!(tokio::join!(asking, joining), (200, ()));
}

#[test]
fn settings_are_checked_from_flags_variables_and_files_and_nothing_is_started() {
    let check = |arguments: &[&str], variable: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_balancer"));
        let output = command.arg("check").args(arguments).env("BALANCER_WORKER", variable).output();
        let output = output.expect("the program");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = check(&[], "10.0.0.7:8501");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("valid"), "{said}");
    for (arguments, variable) in [
        (&[][..], "10.0.0.7"),
        (&["--admin", "0.0.0.0:9900"], "10.0.0.7:8501"),
        (&["--config", "/nowhere/balancer.toml"], "10.0.0.7:8501"),
        (&["/nowhere/balancer.toml"], "10.0.0.7:8501"),
    ] {
        let (code, said) = check(arguments, variable);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_balancers_for_different_clients_never_share_the_admin_port() {
    let stub = Stub::named("alive").await;
    let socket = || std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let (one, other, admin) = (socket(), socket(), socket());
    let (worker, admin_address) =
        (stub.address.to_string(), admin.local_addr().expect("bound").to_string());
    let arguments = ["--worker", &worker, "--admin", &admin_address];
    drop(admin);
    let first = Program::spawn(activated(&one, &arguments)).listening().await;
    first.until_ready().await;
    let mut unlike = Command::new(env!("CARGO_BIN_EXE_balancer"));
    unlike.args(["--listen", "127.0.0.1:0"]).args(arguments).stdout(Stdio::null());
    for command in [unlike, activated(&other, &arguments)] {
        let mut second = Program::spawn(command);
        assert_eq!(second.ended().await.code(), Some(1));
        second.until_logged("choose another port with --admin").await;
    }
    assert!(!first.log().contains("taken over"), "{}", first.log());
    assert_eq!(first.post().await, 200);
    // One that serves the same clients is the next one.
    let _next = Program::spawn(activated(&one, &arguments)).listening().await;
    first.until_logged("another process has taken over the admin port").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_cannot_be_read_keeps_no_later_sighup_back() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let (stub, folder) = (Stub::named("alive").await, folder());
    let [token, workers] = ["token", "workers"].map(|name| folder.path().join(name));
    std::fs::write(&token, TOKEN).expect("written");
    std::fs::write(&workers, format!("a={}\n", stub.address)).expect("written");
    let [token_path, workers_path] = [&token, &workers].map(|path| path.to_str().expect("text"));
    let arguments = ["--admin-token-file", token_path, "--workers-file", workers_path];
    let balancer = Program::start(&arguments).await;
    let fleet = async || {
        let request = format!(
            "GET /fleet.json HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
        );
        let answer = exchange(balancer.admin, &request).await.body;
        serde_json::from_str::<serde_json::Value>(&answer).expect("JSON")
    };
    until("it is ready", async || (fleet().await["ready"] == true).then_some(())).await;
    std::fs::remove_file(&token).expect("removed");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &token, kind, mode, 0).expect("made");
    for _ in 0..2 {
        let count = || balancer.log().matches("tokens not reloaded").count();
        let before = count();
        balancer.signal(Signal::HUP);
        until("it is told", async || (count() > before).then_some(())).await;
    }
    std::fs::write(&workers, "").expect("written");
    balancer.until_logged("the file names no worker any more").await;
    balancer.signal(Signal::HUP);
    let is_empty =
        async || fleet().await["endpoints"].as_array().is_some_and(Vec::is_empty).then_some(());
    until("the list is empty", is_empty).await;
}

/// Started with no more open files than this; `which` is what `ulimit` sets.
fn with_few_files(which: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit {which} 512 && exec \"$@\"");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_balancer"), "--threads", "1"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_take_no_files_from_workers_where_there_are_few() {
    let stub = Stub::named("alive").await;
    let worker = stub.address.to_string();
    for (which, are_all_kept) in [("-n", false), ("-Sn", true)] {
        let balancer = Program::spawn(with_few_files(which, &["--worker", &worker]));
        let balancer = balancer.listening().await;
        balancer.until_ready().await;
        let mut idle = Vec::new();
        for _ in 0..600 {
            let mut client = TcpStream::connect(balancer.address).await.expect("connected");
            client
                .write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .expect("sent");
            assert_eq!(client.read_u8().await.expect("an answer"), b'H');
            idle.push(client);
        }
        for _ in 0..20 {
            assert_eq!(balancer.post().await, 200, "{}", balancer.log());
        }
        let fleet = balancer.fleet().await;
        let worker = &fleet["endpoints"][0];
        assert_eq!((&worker["state"], &worker["failed"]), (&"available".into(), &0.into()));
        assert!(!balancer.log().contains("endpoint down"), "{}", balancer.log());
        let evicted = balancer.metric("balancer_connections_evicted_total").await;
        assert_eq!(evicted == 0.0, are_all_kept, "{which}: {evicted}");
    }
}

/// Requests that come before the first worker listens wait for it, as they wait for a busy one.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_worker_that_is_starting_and_is_told_when_it_does_not() {
    let (stub, folder) = (Stub::named("alive").await, folder());
    let ready = folder.path().join("ready");
    let text = format!(
        "while ! [ -e {} ]; do sleep 0.01; done\necho listening on {}\nexec cat >/dev/null",
        ready.display(),
        stub.address
    );
    let more = ["--queue-timeout", "60s", "--request-timeout", "2m"];
    let balancer = supervised(folder.path(), &text, &more).await;
    let (status, ()) = tokio::join!(balancer.post(), async {
        let waits = async || (balancer.metric("balancer_queue_depth").await > 0.0).then_some(());
        until("the request waits", waits).await;
        std::fs::write(&ready, "").expect("written");
    });
    assert_eq!(status, 200);
    // The first start of this one fails after the request has come, and nothing is to be expected then.
    let folder = self::folder();
    let go = folder.path().join("go");
    let text = format!("while ! [ -e {} ]; do sleep 0.01; done\nexit 3", go.display());
    let balancer = supervised(folder.path(), &text, &more).await;
    let (status, ()) = tokio::join!(balancer.post(), async {
        let waits = async || (balancer.metric("balancer_queue_depth").await > 0.0).then_some(());
        until("the request waits", waits).await;
        std::fs::write(&go, "").expect("written");
    });
    assert_eq!(status, 503);
}
