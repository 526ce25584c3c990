//! Runs that end early: by signals, and by being killed.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Speaks, Stub, label};
use serde_json::Value;
use tokio::time::Instant;

use crate::common;

/// Far longer than anything here takes; exceeded only if something hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running client.
struct Running(Child);

impl Running {
    fn start(stub: &Stub, out: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
        command.args(["load", "--target", &stub.url(), "--out"]).arg(out).args(arguments);
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        Self(command.spawn().expect("it starts"))
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.0.id().to_string()]).status();
        assert!(status.expect("kill is there").success());
    }

    fn stderr(&mut self) -> BufReader<ChildStderr> {
        BufReader::new(self.0.stderr.take().expect("it is piped"))
    }

    /// Waits for its end and returns the exit status; `None` if a signal killed it.
    fn code(mut self) -> Option<i32> {
        until("the client ends", || self.0.try_wait().expect("it is ours").is_some());
        self.0.wait().expect("it has ended").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has already ended, unless the test failed.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Polls until `is_so`.
#[expect(clippy::disallowed_methods, reason = "other processes do not report how far they are")]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A stub that counts requests, and answers them if `answers` is set.
fn counting(answers: bool) -> (Stub, Arc<AtomicUsize>) {
    let seen: Arc<AtomicUsize> = Arc::default();
    let counter = Arc::clone(&seen);
    let stub = Stub::start(Speaks::Http1, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            if !answers {
                std::future::pending::<()>().await;
            }
            label("cat", "w1")
        }
    });
    (stub, seen)
}

fn summary(out: &Path) -> Value {
    let text = std::fs::read(out.join("summary.json")).expect("a summary");
    serde_json::from_slice(&text).expect("JSON")
}

const UNIFORM: [&str; 6] = ["--arrivals", "uniform", "--rate", "100", "--warm-up", "0s"];

#[test]
fn a_run_that_a_signal_ends_is_measured_over_the_time_that_it_ran() {
    for (name, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let (stub, seen) = counting(true);
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("run");
        let flags = [&UNIFORM[..], &["--duration", "1h"]].concat();
        let client = Running::start(&stub, &out, &flags);
        until("requests are answered", || seen.load(Ordering::Relaxed) > 40);
        client.signal(name);
        assert_eq!(client.code(), Some(code), "{name}");
        let summary = summary(&out);
        assert!(
            (summary["offered_rate"].as_f64().unwrap() / 100.0 - 1.0).abs() < 0.05,
            "{summary}"
        );
        assert_eq!(summary["interrupted"], true);
        assert!(out.join("samples.csv").is_file() && !out.join("samples.part.csv").exists());
    }
}

/// Simulates a full disk: no file may be larger than 64 KiB.
#[test]
fn what_finds_no_room_on_disk_is_printed_and_the_rest_is_kept() {
    let (stub, _) = counting(true);
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let script = "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_client"), "load", "--json", "--target"])
        .args([&stub.url(), "--out", out.to_str().unwrap(), "--duration", "1s", "--warm-up", "0s"])
        .args(["--rate", "1500"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{told}");
    assert!(told.contains("not complete") && told.contains("samples.csv"), "{told}");
    let printed: Value = serde_json::from_slice(&output.stdout).expect("the summary");
    assert_eq!(printed, summary(&out), "it is small enough");
    assert!(!out.join("samples.csv").exists(), "half of it would be taken for all of it");
    let report =
        Command::new(env!("CARGO_BIN_EXE_client")).arg("report").arg(&out).output().unwrap();
    let told = String::from_utf8_lossy(&report.stderr);
    assert!(report.status.success(), "{told}");
    assert!(told.contains("samples.part.csv"), "what stood there is what is left: {told}");
}

#[test]
fn every_experiment_keeps_what_it_measured_when_a_signal_ends_it() {
    let grid = ["--servers", "1", "--waits", "0.01", "--capacity", "0s", "--duration", "1h"];
    let scaling = [&["scaling", "--requests", "1000000"], &grid[..]].concat();
    for words in [&["rtt", "--repeat", "100000"][..], &scaling] {
        let (stub, seen) = counting(true);
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("run");
        let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
        command.args(words).args(["--target", &stub.url(), "--out"]).arg(&out);
        let client = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        until("requests are answered", || seen.load(Ordering::Relaxed) > 60);
        client.signal("-TERM");
        assert_eq!(client.code(), Some(143), "{words:?}");
        assert_eq!(summary(&out)["interrupted"], true, "{words:?}");
        let samples = std::fs::read_to_string(out.join("samples.csv")).unwrap();
        assert!(samples.lines().count() > 10, "{words:?}: {samples}");
    }
}

#[test]
fn a_second_signal_ends_waiting_for_answers_and_they_are_counted() {
    let (stub, seen) = counting(false);
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let flags = [&UNIFORM[..], &["--duration", "1h", "--timeout", "1h"]].concat();
    let mut client = Running::start(&stub, &out, &flags);
    let stderr = client.stderr();
    until("requests are under way", || seen.load(Ordering::Relaxed) > 5);
    client.signal("-TERM");
    let said = stderr.lines().map_while(Result::ok).find(|line| line.contains("stopping early"));
    assert!(said.is_some());
    client.signal("-INT");
    assert_eq!(client.code(), Some(143));
    let summary = summary(&out);
    assert_eq!(summary["outcomes"]["unfinished"], summary["requests"]);
    assert_eq!(summary["unanswered"], summary["requests"]);
}

#[test]
fn what_a_killed_run_left_is_read_and_may_be_replaced() {
    let (stub, _) = counting(true);
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let client = Running::start(&stub, &out, &[&UNIFORM[..], &["--duration", "1h"]].concat());
    let journal = out.join("samples.part.csv");
    let rows = || std::fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    until("samples are written down", || rows() > 30);
    client.signal("-KILL");
    assert_eq!(client.code(), None);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
        command.args(arguments).output().expect("it starts")
    };
    let folder = out.to_str().unwrap();
    let report = run(&["report", folder]);
    assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    assert!(String::from_utf8_lossy(&report.stdout).starts_with("group"));
    assert!(out.join("load-course.svg").is_file());
    let url = stub.url();
    let again = ["load", "--target", &url, "--out", folder, "--warm-up", "0s", "--duration", "1s"];
    let refused = run(&again);
    assert_eq!(refused.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"));
    run(&[&again[..], &["--force"]].concat());
    assert_eq!(summary(&out)["interrupted"], false);
    assert!(!journal.exists());
}

#[test]
fn figures_can_be_read_while_a_run_goes_on() {
    let (stub, seen) = counting(true);
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let flags = ["--duration", "1h", "--metrics-listen", "127.0.0.1:0", "--arrivals", "closed"];
    let mut client = Running::start(&stub, &out, &flags);
    let mut lines = client.stderr().lines().map_while(Result::ok);
    let address = lines.find_map(|line| {
        let (_, rest) = line.split_once("http://")?;
        Some(rest.strip_suffix("/metrics")?.to_owned())
    });
    let address = address.expect("it says where its figures are");
    until("requests are answered", || seen.load(Ordering::Relaxed) > 100);
    until("figures are told", || {
        let mut stream = std::net::TcpStream::connect(&address).expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: client\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let count = answer.lines().find_map(|line| {
            let count = line.strip_prefix("client_requests_total{outcome=\"succeeded\"} ")?;
            count.parse::<u64>().ok()
        });
        count > Some(0) && answer.contains("client_latency_seconds{quantile=\"0.5\"}")
    });
    client.signal("-INT");
    // A reader that leaves its messages unread must not hold it up.
    std::thread::spawn(move || lines.count());
    assert_eq!(client.code(), Some(130));
    let distribution = std::fs::read_to_string(out.join("latency.hgrm")).unwrap();
    assert!(distribution.contains("1/(1-Percentile)") && distribution.contains("#[Max"));
}

#[test]
fn a_killed_run_goes_on_where_it_was_and_finished_trials_count() {
    let (stub, seen) = counting(true);
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let url = stub.url();
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
        command.args(["scaling", "--target", &url, "--servers", "1", "--waits", "0.02,0.01"]);
        command.args(["--trials", "2", "--duration", "400ms", "--capacity", "200ms", "--out"]);
        command.arg(&out).args(more).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let client = Running(run(&[]).spawn().unwrap());
    let journal = out.join("samples.part.csv");
    let trials = || {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        let names = text.lines().skip(1).filter_map(|line| line.split_once(','));
        names.map(|(name, _)| name.to_owned()).collect::<std::collections::BTreeSet<_>>().len()
    };
    until("two trials are over", || trials() > 2);
    client.signal("-KILL");
    assert_eq!(client.code(), None);
    let text = std::fs::read_to_string(&journal).unwrap();
    let columns = |line: &str| line.matches(',').count();
    // The last row may be torn.
    let is_whole = |line: &&str| columns(line) == columns(text.lines().next().unwrap_or_default());
    let kept: Vec<&str> = text.lines().skip(1).filter(is_whole).collect();
    let other = run(&["--resume", "--timeout", "9s"]).output().unwrap();
    assert_eq!(other.status.code(), Some(2), "{}", String::from_utf8_lossy(&other.stderr));
    let other = run(&["--resume", "--seed", "2"]).output().unwrap();
    assert_eq!(other.status.code(), Some(2), "{}", String::from_utf8_lossy(&other.stderr));
    let before = seen.load(Ordering::Relaxed);
    let resumed = run(&["--resume"]).output().unwrap();
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    let samples = std::fs::read_to_string(out.join("samples.csv")).unwrap();
    let first = kept.first().unwrap();
    assert!(samples.contains(first), "{first}");
    assert!(!journal.exists() && out.join("scaling-knee.svg").is_file());
    let summary = summary(&out);
    let cells = summary["cells"].as_array().unwrap();
    assert!(cells.iter().all(|cell| cell["trials"] == 2), "{summary}");
    assert_eq!(summary["interrupted"], false);
    let asked = seen.load(Ordering::Relaxed) - before;
    let last = kept.last().unwrap().split(',').next().unwrap();
    let finished = kept.iter().filter(|row| !row.starts_with(last)).count();
    // Each of four cells is warmed up by ten requests that are not recorded.
    let rows = samples.lines().count() - 1;
    assert!(finished > 0 && asked + finished <= rows + 40, "{asked} were asked, {rows} rows");
}
