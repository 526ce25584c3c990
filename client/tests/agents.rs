//! Several generators acting as one.
#![cfg(unix)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Speaks, Stub, label};
use serde_json::Value;
use tokio::time::Instant;

/// Far longer than anything here takes; exceeded only if something hangs.
const PATIENCE: Duration = Duration::from_mins(1);
const CLIENT: &str = env!("CARGO_BIN_EXE_client");

/// An agent on a port of its own.
struct Agent {
    child: Child,
    address: String,
    log: BufReader<std::process::ChildStderr>,
}

impl Agent {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(CLIENT);
        command.args(["agent", "--listen", "127.0.0.1:0", "--threads", "2"]).args(arguments);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        log.read_line(&mut line).expect("it says where it listens");
        let address = line.trim().rsplit_once("address=").expect(&line).1.to_owned();
        Self { child, address, log }
    }

    /// Reads its log up to a line that contains these words.
    fn says(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(self.log.read_line(&mut line).expect("its log") > 0, "it ended before {words}");
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Some tests have already killed it.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn command(stub: &Stub, agents: &[&Agent], out: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(CLIENT);
    command.args(["load", "--json", "--target", &stub.url(), "--warm-up", "0s", "--out"]).arg(out);
    if !agents.is_empty() {
        let addresses: Vec<&str> = agents.iter().map(|agent| &*agent.address).collect();
        command.args(["--agents", &addresses.join(",")]);
    }
    command.args(arguments);
    command
}

fn load(stub: &Stub, agents: &[&Agent], arguments: &[&str]) -> Output {
    let parent = tempfile::tempdir().expect("a folder");
    let out = parent.path().join("run");
    command(stub, agents, &out, arguments).output().expect("it runs")
}

fn summary(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).expect(&stderr)
}

fn stub() -> Stub {
    Stub::start(Speaks::Http1, |_| async { label("cat", "w1") })
}

/// A stub that counts requests.
fn counting() -> (Stub, Arc<AtomicUsize>) {
    let seen: Arc<AtomicUsize> = Arc::default();
    let counter = Arc::clone(&seen);
    let stub = Stub::start(Speaks::Http1, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { label("cat", "w1") }
    });
    (stub, seen)
}

#[expect(clippy::disallowed_methods, reason = "other processes do not report how far they are")]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn several_generators_send_one_schedule_and_add_up_to_one_run() {
    let (one, other) = (Agent::start(&[]), Agent::start(&[]));
    let bodies: Arc<Mutex<Vec<bytes::Bytes>>> = Arc::default();
    let seen = Arc::clone(&bodies);
    let stub = Stub::start(Speaks::Http1, move |request| {
        seen.lock().expect("no panic").push(request.body);
        async { label("cat", "w1") }
    });
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("bodies.jsonl");
    std::fs::write(&lines, "0\n1\n2\n3\n4\n").unwrap();
    let lines = lines.display().to_string();
    let flags = ["--json-body", &lines, "--route", "/any", "--rate", "300", "--duration", "1s"];
    let alone = summary(&load(&stub, &[], &flags));
    let sent_alone = std::mem::take(&mut *bodies.lock().unwrap());
    let together = summary(&load(&stub, &[&one, &other], &flags));
    let sent_together = std::mem::take(&mut *bodies.lock().unwrap());

    assert_eq!(together["requests"], alone["requests"], "the same draw");
    assert_eq!(together["outcomes"]["200"], together["requests"], "{together}");
    assert_eq!(together["offered_rate"], alone["offered_rate"]);
    let sorted = |mut bodies: Vec<bytes::Bytes>| {
        bodies.sort();
        bodies
    };
    assert_eq!(sorted(sent_together), sorted(sent_alone), "each request once");
    let generators = together["generators"].as_array().unwrap();
    let parts: Vec<u64> = generators.iter().map(|it| it["requests"].as_u64().unwrap()).collect();
    assert_eq!(parts.iter().sum::<u64>(), together["requests"].as_u64().unwrap());
    assert!(parts.len() == 2 && parts[0].abs_diff(parts[1]) <= 2, "{parts:?}");
    assert!(generators.iter().all(|it| it["clock_error_ms"].as_f64().unwrap() < 1000.0));
    for time in ["latency_ms", "service_time_ms", "scheduling_error_ms"] {
        assert_eq!(together[time]["count"], together["requests"], "{time}");
    }
    assert_eq!(alone["generators"], serde_json::json!([]));
    // Little's law: requests in flight are the arrival rate times the mean latency.
    let figure = |value: &Value| value.as_f64().unwrap();
    let expected =
        figure(&together["offered_rate"]) * figure(&together["latency_ms"]["mean"]) / 1e3;
    assert!((figure(&together["in_flight"]) / expected - 1.0).abs() < 0.01, "{together}");
}

#[test]
fn a_token_is_needed_beyond_loopback_and_has_to_be_the_same() {
    let output = Command::new(CLIENT).args(["agent", "--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--token-file"));

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, token: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, token).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (file("right", "0123456789abcdef"), file("wrong", "0123456789abcdeg"));
    let agent = Agent::start(&["--token-file", &right]);
    let (stub, seen) = counting();
    let flags = ["--rate", "50", "--duration", "200ms"];
    for (token, told) in [(None, "it wants a token"), (Some(&wrong), "the token is another one")] {
        let token = token.map_or_else(Vec::new, |file| vec!["--agent-token-file", file.as_str()]);
        let refused = load(&stub, &[&agent], &[&flags[..], &token].concat());
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(5) && stderr.contains(told), "{stderr}");
    }
    let open = Agent::start(&[]);
    let token = ["--agent-token-file", &right];
    let refused = load(&stub, &[&open], &[&flags[..], &token].concat());
    assert_eq!(refused.status.code(), Some(5), "one that does not know it is told nothing");
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    let served = summary(&load(&stub, &[&agent], &[&flags[..], &token].concat()));
    assert_eq!(served["outcomes"]["200"], served["requests"]);
}

#[test]
fn an_agent_that_dies_ends_the_run_and_what_the_others_measured_is_kept() {
    let (one, mut other) = (Agent::start(&[]), Agent::start(&[]));
    let (stub, seen) = counting();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let mut command = command(&stub, &[&one, &other], &out, &["--rate", "100", "--duration", "1h"]);
    let client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    until("requests are answered", || seen.load(Ordering::Relaxed) > 50);
    other.child.kill().unwrap();
    let output = client.wait_with_output().unwrap();
    let summary: Value = serde_json::from_slice(&output.stdout).expect("a summary");
    assert_eq!(output.status.code(), Some(3));
    let text = summary["verdict"].to_string();
    assert!(text.contains("generator") && text.contains("was lost"), "{text}");
    assert!(text.contains(&other.address), "{text}");
    assert!(summary["requests"].as_u64().unwrap() > 10, "{summary}");
    assert_eq!(summary["generators"][0]["requests"], summary["requests"]);
    assert_eq!(summary["generators"][1]["requests"], Value::Null);
}

#[test]
fn a_controller_that_dies_ends_the_run_of_its_agents() {
    let mut agent = Agent::start(&[]);
    let (stub, seen) = counting();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let mut command = command(&stub, &[&agent], &out, &["--rate", "100", "--duration", "1h"]);
    let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("requests are answered", || seen.load(Ordering::Relaxed) > 20);
    let busy = load(&stub, &[&agent], &["--rate", "100", "--duration", "1s"]);
    assert!(String::from_utf8_lossy(&busy.stderr).contains("another controller"));
    client.kill().unwrap();
    client.wait().unwrap();
    agent.says("run given up");
    // The agent is free for the next controller.
    let flags = ["--rate", "100", "--duration", "300ms"];
    until("the agent is free", || load(&stub, &[&agent], &flags).stdout.starts_with(b"{"));
}

#[test]
fn a_signal_ends_the_agents_at_one_instant_and_everything_is_kept() {
    let (one, other) = (Agent::start(&[]), Agent::start(&[]));
    let (stub, seen) = counting();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let flags = ["--rate", "100", "--duration", "1h", "--arrivals", "uniform"];
    let flags = [&flags[..], &["--keep-samples", "1000000"]].concat();
    let mut command = command(&stub, &[&one, &other], &out, &flags);
    let client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    until("requests are answered", || seen.load(Ordering::Relaxed) > 40);
    // Unlike SIGINT, it is not ignored in background jobs.
    let killed = Command::new("kill").args(["-TERM", &client.id().to_string()]).status();
    assert!(killed.unwrap().success());
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("a summary");
    assert!((summary["offered_rate"].as_f64().unwrap() / 100.0 - 1.0).abs() < 0.05, "{summary}");
    let samples = std::fs::read_to_string(out.join("samples.csv")).unwrap();
    assert_eq!(samples.lines().count() as u64, summary["requests"].as_u64().unwrap() + 1);
}

#[test]
fn a_service_that_no_agent_reaches_is_told_as_one_that_is_not_there() {
    let agent = Agent::start(&[]);
    let gone = stub();
    let url = gone.url();
    drop(gone);
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let arguments = ["load", "--agents", &agent.address, "--target", &url, "--out"];
    let output = Command::new(CLIENT).args(arguments).arg(&out).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains(&agent.address), "{stderr}");
    assert!(!out.exists());
}

#[test]
fn who_speaks_something_else_to_an_agent_is_hung_up_on() {
    let mut agent = Agent::start(&[]);
    let mut browser = TcpStream::connect(&agent.address).unwrap();
    browser.set_read_timeout(Some(PATIENCE)).unwrap();
    browser.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut challenge = Vec::new();
    // Reset or closed: either way the connection ends, and nothing follows the challenge.
    let _either = browser.read_to_end(&mut challenge);
    assert!(challenge.len() < 1000);
    agent.says("controller left");
    let (stub, flags) = (stub(), ["--rate", "100", "--duration", "300ms"]);
    assert!(summary(&load(&stub, &[&agent], &flags))["requests"].as_u64().unwrap() > 0);
}
