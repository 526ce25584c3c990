//! Real slices: namespaces, links, CPU shares and their removal.
//!
//! Needs root on Linux, and reports loudly if it is skipped without. Servers inside a slice are
//! this test program itself, run again as `serve` below, so nothing else has to be installed.

mod latency;
mod requests;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tokio::time::Instant;

const CLIENT: &str = env!("CARGO_BIN_EXE_client");
/// Size of the body of `/large`.
const LARGE_BYTES: usize = 1_000_000;
/// Packets that are sent to measure loss.
const BLAST: u32 = 20_000;

/// A slice that is removed when the test ends, however it ends.
struct Slice {
    name: String,
    state: tempfile::TempDir,
}

impl Slice {
    /// `None` if slices cannot be built here, which is reported.
    fn new(test: &str) -> Option<Self> {
        if !is_root() {
            testdata::skip("building a slice needs root on Linux");
            return None;
        }
        let probe = format!("fleet.probe{}.{test}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &probe]).output();
        if !made.is_ok_and(|made| made.status.success()) {
            testdata::skip("network namespaces cannot be made here (iproute2, kernel)");
            return None;
        }
        Command::new("ip").args(["netns", "delete", &probe]).output().expect("ip runs");
        let name = format!("{test}-{}", std::process::id());
        Some(Self { name, state: tempfile::tempdir().expect("folder") })
    }

    fn call(&self, verb: &str, args: &[&str]) -> Output {
        let mut command = Command::new(CLIENT);
        command.args(["slice", verb, "--name", &self.name, "--state-dir"]).arg(self.state.path());
        command.args(args).output().expect("the client runs")
    }

    /// Runs a verb that must succeed and returns its output.
    fn ok(&self, verb: &str, args: &[&str]) -> String {
        let output = self.call(verb, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "slice {verb} {args:?}: {stderr}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Whether a URL answers 200 to a request from a node within `within`.
    fn answers(&self, node: &str, url: &str, within: &str) -> bool {
        let args = [node, "--", CLIENT, "slice", "wait", url, "--within", within];
        self.call("exec", &args).status.success()
    }

    fn namespaces(&self) -> usize {
        let list = Command::new("ip").args(["netns", "list"]).output().expect("ip runs");
        String::from_utf8_lossy(&list.stdout).matches(&format!("fleet.{}.", self.name)).count()
    }

    /// The control groups with the name of the slice.
    fn groups(&self) -> Vec<PathBuf> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"];
        let group = |root| Path::new(root).join(format!("fleet.{}", self.name));
        roots.into_iter().map(group).filter(|group| group.exists()).collect()
    }

    /// Starts stub programs `worker` and `balancer` in their nodes.
    fn serve(&self) {
        let (bin, models) = (self.stubs(), self.state.path().display().to_string());
        self.ok("run", &["--bin-dir", &bin, "--models", &models]);
    }

    /// The folder of the stub programs.
    fn stubs(&self) -> String {
        let folder = self.state.path().join("bin");
        fs::create_dir_all(&folder).expect("made");
        for (name, port) in [("worker", 8501), ("balancer", 5000)] {
            let file = folder.join(name);
            let me = me();
            let text = format!("#!/bin/sh\nSTUB_PORT={port} exec '{me}' --exact serve --ignored\n");
            fs::write(&file, text).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        folder.display().to_string()
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        self.call("down", &[]);
    }
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

/// The path of this test program.
fn me() -> String {
    std::env::current_exe().expect("this program").display().to_string()
}

#[test]
#[ignore = "not a test: the server that the tests start inside a slice"]
#[expect(clippy::disallowed_methods, reason = "this is a program of its own")]
fn serve() {
    let Ok(port) = std::env::var("STUB_PORT") else { return };
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).expect("bound");
    listener.incoming().flatten().for_each(answer);
}

fn answer(stream: TcpStream) {
    // The other side may hang up at any moment.
    std::thread::spawn(move || answer_all(stream).unwrap_or_default());
}

/// Answers requests in sequence.
fn answer_all(stream: TcpStream) -> std::io::Result<()> {
    let (mut reader, mut writer) = (BufReader::new(stream.try_clone()?), stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim().to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(number) = line.strip_prefix("content-length:") {
                length = number.trim().parse().expect("a length");
            }
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        let body = if first.starts_with("GET /large") {
            vec![b'.'; LARGE_BYTES]
        } else {
            b"\"cat\"\n".to_vec()
        };
        let times = "Server-Timing: queue;dur=0, total;dur=2";
        let head = format!("HTTP/1.1 200 OK\r\n{times}\r\nContent-Length: {}\r\n\r\n", body.len());
        writer.write_all(head.as_bytes())?;
        writer.write_all(&body)?;
    }
}

#[test]
#[ignore = "not a test: the download that a test starts inside a slice"]
#[expect(clippy::disallowed_methods, reason = "this is a program of its own")]
fn fetch() {
    let Ok(address) = std::env::var("STUB_FETCH") else { return };
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.write_all(b"GET /large HTTP/1.1\r\n\r\n").expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("said all");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("received");
    assert!(bytes.len() > LARGE_BYTES);
    eprintln!("\nFETCHED {}", start.elapsed().as_millis());
}

#[test]
fn links_can_be_cut_and_healed_and_nodes_killed_and_revived() {
    let Some(slice) = Slice::new("life") else { return };
    slice.serve();
    // The client's packets to a worker go through the balancer.
    assert!(slice.answers("client", "http://10.10.1.1:8501/", "5s"));
    slice.ok("cut", &["link-0"]);
    assert!(!slice.answers("client", "http://10.10.1.1:8501/", "100ms"));
    assert!(slice.answers("client", "http://10.10.2.1:8501/", "5s"), "other links are untouched");
    assert!(slice.ok("status", &[]).contains("link-0       cut"));
    slice.ok("heal", &["link-0"]);
    assert!(slice.answers("client", "http://10.10.1.1:8501/", "5s"));

    slice.ok("kill", &["server2"]);
    assert!(!slice.answers("client", "http://10.10.2.1:8501/", "100ms"));
    slice.serve();
    assert!(slice.answers("client", "http://10.10.2.1:8501/", "5s"));

    let said = slice.ok("down", &[]);
    assert!(said.contains("6 nodes removed, 5 processes stopped"), "{said}");
    assert_eq!(slice.namespaces(), 0);
    assert_eq!(slice.groups(), Vec::<PathBuf>::new());
    assert!(slice.ok("down", &[]).contains("0 nodes removed"), "down again is harmless");
}

#[test]
fn a_service_that_runs_with_other_settings_is_refused_until_it_is_killed() {
    let Some(slice) = Slice::new("settings") else { return };
    slice.serve();
    slice.serve();
    let (bin, models) = (slice.stubs(), slice.state.path().display().to_string());
    let run = ["--bin-dir", &bin, "--models", &models, "--threads", "2"];
    let refused = slice.call("run", &run);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("`server1`, `server2`, `server3`, `server4`"), "{stderr}");
    assert!(!stderr.contains("`balancer`"), "its settings are the same: {stderr}");
    for server in ["server1", "server2", "server3", "server4"] {
        slice.ok("kill", &[server]);
    }
    slice.ok("run", &run);
    assert!(slice.answers("client", "http://10.10.4.1:8501/", "5s"));
}

/// An RSpec request for three nodes in a LAN, without addresses, as testbeds accept it.
fn lan() -> String {
    let all = |part: fn(&str) -> String| ["balancer", "client", "server1"].map(part).concat();
    let nodes =
        all(|name| format!("<node client_id='{name}'><interface client_id='{name}:0'/></node>"));
    let ends = all(|name| format!("<interface_ref client_id='{name}:0'/>"));
    let space = "xmlns='http://www.geni.net/resources/rspec/3' type='request'";
    format!("<rspec {space}>{nodes}<link client_id='lan'>{ends}</link></rspec>")
}

#[test]
fn a_lan_without_addresses_is_built_and_can_be_cut_and_healed() {
    let Some(slice) = Slice::new("lan") else { return };
    let file = slice.state.path().join("lan.rspec");
    fs::write(&file, lan()).expect("written");
    let (bin, models) = (slice.stubs(), slice.state.path().display().to_string());
    let rspec = file.display().to_string();
    let run = ["--rspec", &rspec, "--bin-dir", &bin, "--models", &models];
    slice.ok("run", &run);
    let worker = "http://10.10.1.3:8501/";
    assert!(slice.answers("client", worker, "5s"));
    slice.ok("cut", &["lan"]);
    assert!(!slice.answers("client", worker, "100ms"));
    assert!(slice.ok("status", &[]).contains("balancer - client - server1"));
    slice.ok("heal", &["lan"]);
    assert!(slice.answers("client", worker, "5s"));
    slice.ok("run", &run);
    assert!(slice.ok("down", &[]).contains("3 nodes removed"));
    assert_eq!(slice.namespaces(), 0);
}

#[test]
fn another_request_for_a_slice_that_exists_is_an_error_that_shows_the_difference() {
    let Some(slice) = Slice::new("other") else { return };
    slice.ok("up", &["--worker-cpus", "0.2"]);
    let file = slice.state.path().join("other.rspec");
    let text = rspec::image_class(rspec::REPOSITORY).to_xml().replace("10.10.4.", "10.20.4.");
    fs::write(&file, text).expect("written");
    let (bin, models) = (slice.stubs(), slice.state.path().display().to_string());
    let flags = ["--bin-dir", &bin, "--models", &models, "--worker-cpus", "0.1", "--rspec"];
    let file = file.display().to_string();
    let refused = slice.call("run", &[&flags[..], &[&file]].concat());
    assert_eq!(refused.status.code(), Some(5));
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("node `server4` has 10.10.4.1/24, not 10.20.4.1/24"), "{stderr}");
    assert!(slice.groups().is_empty() || stderr.contains("workers have 0.2 CPUs, not 0.1"));
}

#[test]
fn exec_passes_output_and_exit_status_through() {
    let Some(slice) = Slice::new("exec") else { return };
    slice.ok("up", &[]);
    let output = slice.call("exec", &["server3", "--", "sh", "-c", "ip -br address; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&output.stdout).contains("10.10.3.1/24"));
    let killed = slice.call("exec", &["server3", "--", "sh", "-c", "kill -KILL $$"]);
    assert_eq!(killed.status.code(), Some(137));
    let unknown = slice.call("exec", &["server9", "--", "true"]);
    let stderr = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(5));
    assert!(stderr.contains("no node `server9`; the slice has balancer, server1"), "{stderr}");
}

#[test]
fn a_worker_gets_exactly_its_share_of_cpu() {
    let Some(slice) = Slice::new("cpu") else { return };
    slice.ok("up", &["--worker-cpus", "0.2"]);
    if slice.groups().is_empty() {
        testdata::skip("this kernel has no cpu controller");
        return;
    }
    let spin = "timeout 1 sh -c 'while :; do :; done'; times";
    let times = slice.ok("exec", &["server1", "--", "sh", "-c", spin]);
    // The second line of `times` is for the children: user and system time, as 0m0.200000s.
    let children = times.lines().nth(1).expect("two lines");
    let seconds = |time: &str| {
        let seconds = time.trim_end_matches('s').split_once('m').expect("minutes").1;
        seconds.parse::<f64>().expect("seconds")
    };
    let used: f64 = children.split_whitespace().map(seconds).sum();
    assert!((0.1..0.3).contains(&used), "used {used} s of CPU in one second, not 0.2");
}

#[test]
fn the_capacity_of_a_link_limits_what_passes() {
    let Some(slice) = Slice::new("rate") else { return };
    let rspec = slice.state.path().join("slow.rspec");
    let request = ["slice", "rspec", "--workers", "1", "--capacity", "8mbps", "--latency", "1ms"];
    let text = Command::new(CLIENT).args(request).output().expect("runs").stdout;
    fs::write(&rspec, text).expect("written");
    let up = slice.call("up", &["--rspec", &rspec.display().to_string()]);
    let stderr = String::from_utf8_lossy(&up.stderr).into_owned();
    assert!(up.status.success(), "{stderr}");
    let status = slice.ok("status", &["--json"]);
    if status.contains("capacity 8000kbit") {
        testdata::skip("this kernel has no tbf");
        return;
    }
    // If netem is missing, the delay must be reported as missing at each of the four ends.
    let missing = status.matches("latency 1ms on interface-").count();
    assert!(missing == 0 || missing == 4, "{status}");
    assert_eq!(stderr.matches("latency 1ms on interface-").count(), missing, "{stderr}");
    slice.serve();
    let mut fetch = vec!["client", "--", "env", "STUB_FETCH=10.10.1.1:8501"];
    let me = me();
    fetch.extend([&me, "--exact", "fetch", "--ignored", "--nocapture"]);
    let output = slice.call("exec", &fetch);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let millis = text.lines().find_map(|line| line.strip_prefix("FETCHED ")).expect(&text);
    let took = Duration::from_millis(millis.parse().expect("number"));
    assert!((800..2000).contains(&took.as_millis()), "8 Mbit through 8 Mbit/s took {took:?}");
}

#[test]
#[ignore = "not a test: the packets that a test sends inside a slice"]
#[expect(clippy::disallowed_methods, reason = "this is a program of its own")]
fn blast() {
    let Ok(address) = std::env::var("STUB_BLAST") else { return };
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("bound");
    for _ in 0..BLAST {
        // Refused or not, the packet was sent.
        let _either = socket.send_to(b".", &address);
    }
}

#[test]
fn a_link_loses_as_many_packets_as_its_request_says() {
    let Some(slice) = Slice::new("loss") else { return };
    let rspec = slice.state.path().join("loss.rspec");
    let request = ["slice", "rspec", "--workers", "1", "--loss", "0.2"];
    fs::write(&rspec, Command::new(CLIENT).args(request).output().expect("runs").stdout)
        .expect("written");
    let up = slice.call("up", &["--rspec", &rspec.display().to_string()]);
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let counters = ["balancer", "--", "iptables", "-w", "-t", "raw", "-nvxL", "PREROUTING"];
    if !has_iptables() || !slice.ok("exec", &counters).contains("probability") {
        return; // netem does it here
    }
    let mut blast = vec!["client", "--", "env", "STUB_BLAST=10.10.2.1:9"];
    let me = me();
    blast.extend([&me, "--exact", "blast", "--ignored"]);
    slice.ok("exec", &blast);
    let shown = slice.ok("exec", &counters);
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
    let rules = shown.lines().filter(|line| line.contains("probability"));
    let lost: f64 = rules.map(|line| number(line.split_whitespace().next())).sum();
    // Seven standard errors of this many draws.
    let share = lost / f64::from(BLAST);
    assert!((0.18..0.22).contains(&share), "{share}\n{shown}");
}

/// Whether packets can be dropped at random without netem; reports it if not.
fn has_iptables() -> bool {
    let is_there = Command::new("iptables").arg("-V").output().is_ok();
    if !is_there {
        testdata::skip("iptables is not installed");
    }
    is_there
}

/// Runs an experiment in a slice of its own, with stubs for balancer and workers.
fn experiment(name: &str, words: &[&str]) -> Option<(serde_json::Value, Slice)> {
    if std::env::var_os("IMAGEFLEET_CONDITIONS").is_none() {
        testdata::skip("experiments on a slice are asked for by IMAGEFLEET_CONDITIONS=1");
        return None;
    }
    let slice = Slice::new(name)?;
    let (bin, models) = (slice.stubs(), slice.state.path().display().to_string());
    let out = slice.state.path().join("out");
    let mut command = Command::new(CLIENT);
    command.args(words).args(["--bin-dir", &bin, "--models", &models, "--json", "--trials", "1"]);
    let output =
        command.args(["--slice-name", &slice.name, "--out"]).arg(&out).output().expect("runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(out.join("report.html").is_file() && out.join("manifest.json").is_file());
    assert_eq!(slice.namespaces(), 0, "the slice is gone");
    Some((serde_json::from_slice(&output.stdout).expect(&stderr), slice))
}

#[test]
fn loss_on_the_clients_link_costs_time_and_theory_stands_beside_it() {
    if !has_iptables() {
        return;
    }
    let words =
        ["loss", "--losses", "0,0.3", "--duration", "1s", "--users", "2", "--timeout", "1s"];
    let Some((found, slice)) = experiment("lossy", &words) else { return };
    let lines = found["lines"].as_array().expect("lines");
    let mean = |line: usize, figure: &str| lines[line][figure]["mean"].as_f64();
    assert!(mean(0, "succeeded") == Some(1.0), "{found}");
    assert!(mean(1, "throughput") < mean(0, "throughput"), "{found}");
    assert!(mean(0, "goodput").unwrap_or(0.0) > 0.0 && lines[0]["expected"].is_null(), "{found}");
    assert!(lines[1]["expected_with_timeouts"].as_f64() < lines[1]["expected"].as_f64(), "{found}");
    assert!(slice.state.path().join("out/loss=0.3-trial=0/samples.csv").is_file());
}

#[test]
fn no_more_pictures_pass_than_the_clients_link_carries() {
    let words = ["bandwidth", "--capacities", "2mbps", "--duration", "1s", "--users", "2"];
    let Some((found, _slice)) = experiment("narrow", &words) else { return };
    let goodput = found["lines"][0]["goodput"]["mean"].as_f64().expect("a figure");
    // The bucket may pass a few packets more than the capacity of the measured second.
    assert!(goodput > 0.2e6 && goodput < 2.6e6, "{found}");
}

/// If the kernel cannot delay packets either, this was reported when the slice was built.
#[test]
fn a_link_that_is_lossy_and_slow_by_its_request_is_measured_as_well() {
    if !has_iptables() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let rspec = folder.path().join("lossy.rspec");
    let request = ["slice", "rspec", "--workers", "1", "--loss", "0.01", "--latency", "2ms"];
    fs::write(&rspec, Command::new(CLIENT).args(request).output().expect("runs").stdout)
        .expect("written");
    let rspec = rspec.display().to_string();
    let words = ["bandwidth", "--capacities", "2mbps", "--duration", "1s", "--users", "2"];
    let words = [&words[..], &["--rspec", &rspec]].concat();
    let Some((found, _slice)) = experiment("both", &words) else { return };
    let goodput = found["lines"][0]["goodput"]["mean"].as_f64().expect("a figure");
    assert!(goodput > 0.1e6 && goodput < 2.6e6, "{found}");
}

#[test]
fn workers_that_die_are_gone_for_a_while_and_theory_stands_beside_it() {
    let words = ["churn", "--dead", "1", "--duration", "1100ms", "--rate", "50"];
    let Some((found, _slice)) = experiment("deaths", &words) else { return };
    assert_eq!((found["workers"].as_u64(), found["rate"].as_f64()), (Some(4), Some(50.0)));
    let lines = found["lines"].as_array().expect("lines");
    let phases: Vec<_> = lines.iter().map(|line| line["phase"].as_str().expect("text")).collect();
    assert_eq!(phases, ["before", "gone", "after"]);
    // 50 requests/s of 2 ms each: a fortieth of four workers, a thirtieth of three.
    let busy = |line: &serde_json::Value| line["utilisation"].as_f64().expect("a share");
    assert!((busy(&lines[0]) - 0.025).abs() < 1e-4 && (busy(&lines[1]) - 0.1 / 3.0).abs() < 1e-4);
    assert!(lines.iter().all(|line| line["latency_ms"]["mean"].as_f64().is_some()), "{found}");
}

#[test]
fn a_slice_that_was_not_finished_is_none_and_run_builds_it_anew() {
    let Some(slice) = Slice::new("half") else { return };
    slice.ok("up", &[]);
    let file = slice.state.path().join("slice").join(&slice.name).join("slice.json");
    let mut record: serde_json::Value =
        serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
    record["is_built"] = false.into();
    fs::write(&file, record.to_string()).expect("written");
    // The last part of the slice is missing.
    let namespace = format!("fleet.{}.client", slice.name);
    let removed = Command::new("ip").args(["netns", "delete", &namespace]).status().expect("ip");
    assert!(removed.success());
    for args in [&["status"][..], &["exec", "server1", "--", "true"]] {
        let refused = slice.call(args[0], &args[1..]);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(5), "{stderr}");
        assert!(stderr.contains("was not finished; `client slice down"), "{stderr}");
    }
    slice.serve();
    assert!(slice.answers("client", "http://10.10.1.1:8501/", "5s"));
}

#[test]
fn what_a_crash_left_behind_is_refused_by_up_and_removed_by_down() {
    let Some(slice) = Slice::new("crash") else { return };
    let half = format!("fleet.{}.server1", slice.name);
    assert!(Command::new("ip").args(["netns", "add", &half]).status().expect("ip").success());
    let mut stray = Command::new("ip");
    stray.args(["netns", "exec", &half, "sleep", "60"]);
    let mut stray = stray.spawn().expect("started");
    let refused = slice.call("up", &[]);
    assert_eq!(refused.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is already there; remove it with"));
    // The stray process may not have entered its node yet.
    while !slice.ok("down", &[]).contains("0 nodes removed") {}
    assert_eq!(slice.namespaces(), 0);
    stray.kill().expect("killed, or already");
    assert!(!stray.wait().expect("ended").success());
    slice.ok("up", &[]);
}

#[test]
fn a_slice_for_one_command_goes_even_if_its_maker_is_killed() {
    let Some(slice) = Slice::new("once") else { return };
    let (bin, results) = (slice.stubs(), slice.state.path().join("results"));
    let mut run = Command::new(CLIENT);
    run.args(["slice", "run", "--once", "--name", &slice.name, "--bin-dir", &bin]);
    run.arg("--state-dir").arg(slice.state.path()).arg("--models").arg(slice.state.path());
    run.args(["--", "load", "--get", "/", "--duration", "10m", "--out"]).arg(&results);
    let mut maker = run.spawn().expect("started");
    let client = format!("fleet.{}.client", slice.name);
    let measures = || {
        let pids = Command::new("ip").args(["netns", "pids", &client]).output().expect("ip runs");
        results.join("manifest.json").exists() && !pids.stdout.is_empty()
    };
    assert!(eventually(measures), "the command runs in the slice");
    maker.kill().expect("killed");
    maker.wait().expect("ended");
    assert!(eventually(|| slice.namespaces() == 0 && slice.groups().is_empty()), "it is removed");
    // The helper that removed it releases the name.
    assert!(eventually(|| slice.call("up", &[]).status.success()));
}

/// Whether a condition comes true within a minute.
#[expect(clippy::disallowed_methods, reason = "other processes do not report that they are done")]
fn eventually(condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > Duration::from_mins(1) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

#[test]
fn a_slice_that_cannot_be_finished_leaves_nothing() {
    let Some(slice) = Slice::new("undo") else { return };
    // A multicast address passes every check but the kernel's own.
    let text = rspec::image_class(rspec::REPOSITORY).to_xml().replace("10.10.4.", "224.0.4.");
    let file = slice.state.path().join("bad.rspec");
    fs::write(&file, text).expect("written");
    let refused = slice.call("up", &["--rspec", &file.display().to_string()]);
    assert_eq!(refused.status.code(), Some(5));
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("224.0.4."), "the failing command is named: {stderr}");
    assert_eq!(slice.namespaces(), 0);
    assert_eq!(slice.groups(), Vec::<PathBuf>::new());
}

#[test]
fn without_root_the_commands_can_be_seen_and_the_rest_explains_itself() {
    let folder = tempfile::tempdir().expect("folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("open");
    let copy = folder.path().join("client");
    fs::copy(CLIENT, &copy).expect("copied");
    let unprivileged = |args: &[&str]| {
        let mut command = Command::new(if is_root() { Path::new("setpriv") } else { &copy });
        if is_root() {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
        }
        command.args(args).output().expect("runs")
    };
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("open");
    let picture = folder.path().join("slice.svg");
    let dry =
        unprivileged(&["slice", "up", "--dry-run", "--draw", picture.to_str().expect("utf-8")]);
    assert!(fs::read_to_string(&picture).expect("a picture").contains("10.10.1.1/24"));
    let dry = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(dry.starts_with("ip netns add fleet.slice.balancer\n"), "{dry}");
    for verb in ["up", "down", "run"] {
        let refused = unprivileged(&["slice", verb]);
        assert_eq!(refused.status.code(), Some(5));
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(stderr.contains("needs root"), "{verb}: {stderr}");
    }
    let usage = unprivileged(&["slice", "up", "--name", "a/b"]);
    assert_eq!(usage.status.code(), Some(2), "a usage error");
}
