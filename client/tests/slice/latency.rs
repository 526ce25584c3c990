//! Latency emulated by a program if the kernel cannot add it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::{CLIENT, LARGE_BYTES, Slice, me};

/// Shortest time to open a connection from the client to a worker.
fn round_trip(slice: &Slice, worker: &str) -> Duration {
    let url = format!("http://{worker}:8501/");
    let wait = ["client", "--", CLIENT, "slice", "wait", "--best-of", "20", &url];
    Duration::from_micros(slice.ok("exec", &wait).trim().parse().expect("a number"))
}

#[test]
fn packets_take_as_long_as_the_request_says_and_a_stalled_link_is_healed() {
    let Some(slice) = Slice::new("slow") else { return };
    let rspec = slice.state.path().join("slow.rspec");
    let request = ["slice", "rspec", "--workers", "1", "--latency", "10ms"];
    let text = Command::new(CLIENT).args(request).output().expect("runs").stdout;
    fs::write(&rspec, text).expect("written");
    let (bin, models) = (slice.stubs(), slice.state.path().display().to_string());
    let rspec = rspec.display().to_string();
    let run = ["--bin-dir", &bin, "--models", &models, "--rspec", &rspec, "--emulate-latency"];
    slice.ok("run", &run);

    // Two links, there and back.
    let expected = Duration::from_millis(40);
    let found = round_trip(&slice, "10.10.1.1");
    assert!(
        (expected..expected.mul_f64(1.1)).contains(&found),
        "{found:?} instead of {expected:?}"
    );
    // Checksums are correct and nothing is truncated: a page of many packets arrives whole.
    let me = me();
    let fetch =
        ["client", "--", "env", "STUB_FETCH=10.10.1.1:8501", &me, "--exact", "fetch", "--ignored"];
    assert!(slice.call("exec", &fetch).status.success(), "{LARGE_BYTES} bytes did not arrive");
    let status = slice.ok("status", &["--json"]);
    assert!(!status.contains("latency 10ms on"), "{status}");
    assert_eq!(status.matches("\"delayed\": true").count(), 2, "{status}");

    let relay = format!("fleet.{}..delay0", slice.name);
    let pids = Command::new("ip").args(["netns", "pids", &relay]).output().expect("ip runs").stdout;
    let pids = String::from_utf8_lossy(&pids).into_owned();
    assert!(Command::new("kill").args(pids.split_whitespace()).status().expect("kill").success());
    while !slice.ok("status", &[]).contains("link-0       stalled") {}
    slice.ok("heal", &["link-0"]);
    assert!(slice.answers("client", "http://10.10.1.1:8501/", "5s"));

    let other = slice.call("run", &["--bin-dir", &bin, "--models", &models]);
    assert!(other.status.success(), "what is there is used as it is");
    assert!(slice.ok("down", &[]).contains("3 nodes removed, 2 processes stopped"));
    assert_eq!(slice.namespaces(), 0);
}

#[test]
fn a_slice_without_emulated_latency_is_not_taken_for_one_with_it() {
    let Some(slice) = Slice::new("plain") else { return };
    slice.ok("up", &[]);
    let (bin, models) = (slice.stubs(), slice.state.path().display().to_string());
    let refused = slice.call("run", &["--bin-dir", &bin, "--models", &models, "--emulate-latency"]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("its latency is not emulated"), "{stderr}");
}
