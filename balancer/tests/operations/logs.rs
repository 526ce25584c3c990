//! The access log and the event log, even if they are not read.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::Stub;
use crate::program::{LONG, Program, folder, pid, until};

/// Sends `count` requests over one connection; all must be answered.
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
