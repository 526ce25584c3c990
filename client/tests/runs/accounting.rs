//! What is counted and how: latency covers every request, and failures get the right cause.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use client::driver::{self, Destination, Progress};
use client::experiment::Trial;
use client::schedule::Arrivals;
use client::workload::{Item, Reading, Workload};
use common::{Speaks, Stub, error, label};
use http::Response;
use http_body_util::Full;
use serde_json::Value;

use crate::common;

/// Runs `client load` without warm-up and returns its summary.
fn load(stub: &Stub, arguments: &[&str]) -> Value {
    let text = printed(stub, &[&["--json"], arguments].concat());
    let summary: Value = serde_json::from_str(&text).expect("a summary");
    littles_law(&summary);
    summary
}

/// Checks Little's law, which holds in every summary, whatever the service did.
#[track_caller]
fn littles_law(summary: &Value) {
    let figure = |value: &Value| value.as_f64().expect("a number");
    let mean = figure(&summary["latency_ms"]["mean"]) / 1e3;
    let expected = figure(&summary["offered_rate"]) * mean;
    let found = figure(&summary["in_flight"]);
    assert!((found / expected - 1.0).abs() < 0.01, "{found} in flight, not {expected}: {summary}");
}

/// Runs `client load` without warm-up and returns what it prints.
fn printed(stub: &Stub, arguments: &[&str]) -> String {
    let parent = tempfile::tempdir().expect("a folder");
    let out = parent.path().join("run");
    let url = stub.url();
    let common = ["client", "load", "--target", &url, "--out", out.to_str().expect("utf-8")];
    let common = [&common[..], &["--warm-up", "0s"]].concat();
    let cli = client::cli::Cli::parse_from([&common, arguments].concat());
    let mut text = Vec::new();
    client::run(&cli, &mut text).expect("the run ends");
    String::from_utf8(text).expect("text")
}

fn causes(summary: &Value) -> Vec<String> {
    let reasons = summary["verdict"]["reasons"].as_array().expect("reasons");
    reasons.iter().map(|reason| reason["cause"].as_str().expect("a cause").to_owned()).collect()
}

const UNIFORM: [&str; 2] = ["--arrivals", "uniform"];

#[test]
fn requests_that_are_never_answered_stand_in_the_latency_with_the_time_they_had() {
    let seen = AtomicUsize::new(0);
    let stub = Stub::start(Speaks::Http1, move |_| {
        let is_lost = seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(50);
        async move {
            if is_lost {
                std::future::pending::<()>().await;
            }
            label("cat", "w1")
        }
    });
    let limits = ["--rate", "600", "--duration", "2s", "--timeout", "400ms"];
    let summary = load(&stub, &[&UNIFORM[..], &limits].concat());
    let latency = &summary["latency_ms"];
    assert_eq!(latency["count"], summary["requests"]);
    assert!(latency["p99"].as_f64().unwrap() >= 399.0, "{latency}");
    let at_least = latency["at_least"].as_array().unwrap();
    assert!(at_least.contains(&"p99".into()) && !at_least.contains(&"p50".into()), "{latency}");
    assert!(summary["unanswered"].as_u64().unwrap() >= 19, "{summary}");
    assert_eq!(summary["failed_ms"]["count"], summary["unanswered"]);
    let text = printed(&stub, &[&UNIFORM[..], &limits].concat());
    assert!(text.contains("of failures") && text.contains('≥'), "{text}");
}

#[test]
fn a_slow_service_that_answers_everything_is_not_told_that_it_did_not() {
    let stub = Stub::start(Speaks::Http1, |_| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        label("cat", "w1")
    });
    let summary = load(
        &stub,
        &["--rate", "60", "--duration", "2s", "--quantile", "0.5", "--connections", "200"],
    );
    assert_eq!(summary["outcomes"]["200"], summary["requests"], "{summary}");
    // Requests of the measured time were all answered; waiting for the last ones is not part of it.
    assert_eq!(summary["throughput"], summary["offered_rate"], "{summary}");
    assert_eq!(summary["measured_seconds"], 2.0);
    assert!(!causes(&summary).contains(&"service".to_owned()), "{summary}");
}

#[test]
fn what_was_offered_is_what_was_drawn_and_not_what_was_asked() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let summary = load(&stub, &["--rate", "40", "--duration", "1s"]);
    assert_eq!(summary["asked_rate"], 40.0);
    assert_eq!(summary["offered_rate"].as_f64(), summary["requests"].as_f64());
}

#[test]
fn a_service_that_answers_nothing_holds_nobody_up_for_longer_than_the_time_limit() {
    let stub = Stub::start(Speaks::Http1, |_| async { std::future::pending().await });
    let limits = ["--rate", "200", "--duration", "500ms", "--timeout", "300ms"];
    let start = tokio::time::Instant::now();
    // In sequence on these connections, the requests would take 15 s.
    let summary = load(&stub, &[&limits[..], &["--connections", "2", "--threads", "1"]].concat());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(summary["unanswered"], summary["requests"]);
    let mut causes = causes(&summary);
    causes.dedup();
    assert_eq!(causes[..2], ["service", "generator"], "{summary}");
    assert!(summary["succeeded_ms"]["mean"].is_null(), "there is no success to speak of");
}

#[test]
fn failures_are_shown_apart_and_together() {
    let seen = AtomicUsize::new(0);
    let stub = Stub::start(Speaks::Http1, move |_| {
        let number = seen.fetch_add(1, Ordering::Relaxed);
        async move { if number.is_multiple_of(2) { error(503) } else { label("cat", "w1") } }
    });
    let summary = load(&stub, &["--rate", "200", "--duration", "500ms"]);
    let count = |name: &str| summary[name]["count"].as_u64().unwrap();
    assert_eq!(count("succeeded_ms") + count("failed_ms"), count("latency_ms"));
    assert_eq!(summary["outcomes"]["503"], count("failed_ms"));
    assert_eq!(causes(&summary)[0], "service");
}

#[test]
fn streams_beyond_what_the_service_allows_wait_outside_of_the_connection() {
    let stub = Stub::start(Speaks::H2Streams(2), |_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        label("cat", "w1")
    });
    let rate = ["--rate", "400", "--duration", "500ms", "--http", "h2", "--connections", "1"];
    let summary = load(&stub, &[&UNIFORM[..], &rate].concat());
    assert_eq!(summary["outcomes"]["200"], summary["requests"], "{summary}");
    assert_eq!(stub.connections.load(Ordering::Relaxed), 2, "one checked that the target listens");
    let p50 = |time: &str| summary[time]["p50"].as_f64().unwrap();
    assert!(p50("latency_ms") > 3.0 * p50("service_time_ms"), "{summary}");
    assert!(causes(&summary).contains(&"generator".to_owned()), "{summary}");
}

#[test]
fn what_may_wait_for_a_connection_is_a_limit_of_all_threads_together() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let stub = Stub::start(Speaks::Http1, |_| async { std::future::pending().await });
    let cli = client::cli::Cli::parse_from(["client", "rtt", "--target", &stub.url()]);
    let client::cli::Command::Rtt(args) = cli.command else { panic!("this is rtt") };
    let four = std::num::NonZeroUsize::new(4).unwrap();
    let trial = Trial {
        requests: Some(100),
        connections: four,
        threads: four,
        backlog: 10,
        timeout: TIMEOUT,
        ..Trial::new(&args.options, Arrivals::Uniform { rate: 10_000.0 })
    };
    let item = Item::picture("any", b"picture", None);
    let workload = Workload::try_new(&args.options.target, "/", vec![item], Reading::Ignore);
    let destination = Destination::plain(vec![stub.address]);
    let progress = Arc::new(Progress::default());
    let run = driver::run(&trial, &destination, &Arc::new(workload.unwrap()), &progress, None);
    let samples = run.unwrap().samples;
    // Four have a connection, ten wait for one, and the others are given up immediately.
    let waited =
        samples.iter().filter(|it| it.done.saturating_sub(it.dispatched) > TIMEOUT / 2).count();
    assert_eq!((samples.len(), waited), (100, 4 + 10));
}

#[test]
fn a_name_with_several_addresses_has_its_load_spread_over_all_of_them() {
    let stubs = [0, 1].map(|_| Stub::start(Speaks::Http1, |_| async { label("cat", "w1") }));
    let destination = Destination::plain(stubs.iter().map(|stub| stub.address).collect());
    let cli = client::cli::Cli::parse_from(["client", "rtt", "--target", &stubs[0].url()]);
    let client::cli::Command::Rtt(args) = cli.command else { panic!("this is rtt") };
    let closed = Arrivals::Closed { users: 4, think: Duration::ZERO };
    let mut trial = Trial::new(&args.options, closed);
    trial.requests = Some(40);
    let item = Item::picture("any", b"picture", None);
    let workload = Workload::try_new(&args.options.target, "/", vec![item], Reading::Ignore);
    let workload = Arc::new(workload.unwrap());
    let progress = Arc::new(Progress::default());
    let run = driver::run(&trial, &destination, &workload, &progress, None).unwrap();
    assert_eq!(run.tally.successes(), 40);
    let opened = stubs.each_ref().map(|stub| stub.connections.load(Ordering::Relaxed));
    assert_eq!(opened, [2, 2]);
}

/// A limit of this program is not the fault of the service, so no connection beyond it is tried.
#[cfg(unix)]
#[test]
fn a_low_limit_on_open_files_is_a_limit_on_connections() {
    let stub = Stub::start(Speaks::Http1, |_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        label("cat", "w1")
    });
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let script = "ulimit -n 64 && exec \"$0\" \"$@\"";
    let closed = ["--arrivals", "closed", "--users", "400", "--duration", "700ms"];
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_client"), "load", "--json", "--target"])
        .args([&stub.url(), "--out", out.to_str().unwrap(), "--warm-up", "0s", "--threads", "1"])
        .args(closed)
        .output()
        .unwrap();
    let summary: Value = serde_json::from_slice(&output.stdout).expect("a summary");
    assert_eq!(summary["outcomes"]["200"], summary["requests"], "{summary}");
    assert!(stub.connections.load(Ordering::Relaxed) < 64);
    let verdict = summary["verdict"].to_string();
    assert!(causes(&summary).contains(&"generator".to_owned()), "{verdict}");
    assert!(verdict.contains("limit on open files"), "{verdict}");
    assert!(!causes(&summary).contains(&"service".to_owned()), "{verdict}");
}

#[test]
fn answers_that_nobody_reads_may_have_any_length() {
    let stub = Stub::start(Speaks::Http1, |_| async {
        Response::new(Full::from(Bytes::from(vec![b'x'; 3 << 20])))
    });
    let closed = ["--arrivals", "closed", "--users", "1", "--duration", "300ms"];
    let summary = load(&stub, &[&["--get", "/big"], &closed[..]].concat());
    assert_eq!(summary["outcomes"]["200"], summary["requests"], "{summary}");
}

#[test]
fn another_route_may_answer_in_a_form_of_its_own() {
    let stub = Stub::start(Speaks::Http1, |request| async move {
        assert_eq!(request.path, "/mnist");
        Response::new(Full::from("{\"message\": \"Image received. label=7\"}"))
    });
    let summary = load(&stub, &["--route", "/mnist", "--rate", "50", "--duration", "300ms"]);
    assert_eq!(summary["outcomes"]["200"], summary["requests"], "{summary}");
}

#[test]
fn a_run_without_one_success_prints_no_figure_for_successes() {
    let stub = Stub::start(Speaks::Http1, |_| async { error(503) });
    let text = printed(&stub, &["--rate", "100", "--duration", "300ms"]);
    let line = text.lines().find(|line| line.contains("of successes")).expect("a line");
    assert!(line.split_whitespace().skip(2).all(|cell| cell == "-"), "{line}");
    assert!(text.contains("INVALID: the service fell short"), "{text}");
}
