//! `client load` against stubs: its report must match what happened.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use common::{Speaks, Stub, error, label};
use serde_json::Value;

use crate::common;

/// Runs `client load` and returns its summary and the folder with the rest.
fn load(stub: &Stub, arguments: &[&str]) -> (Value, tempfile::TempDir) {
    let parent = tempfile::tempdir().expect("a folder");
    let out = parent.path().join("run");
    let url = stub.url();
    let common =
        ["client", "load", "--json", "--target", &url, "--out", out.to_str().expect("utf-8")];
    let cli = client::cli::Cli::parse_from([&common, arguments].concat());
    let mut text = Vec::new();
    client::run(&cli, &mut text).expect("the run ends");
    (serde_json::from_slice(&text).expect("a summary"), parent)
}

fn reasons(summary: &Value) -> String {
    summary["verdict"]["reasons"].to_string()
}

#[test]
fn a_service_that_stalls_cannot_hide_the_requests_it_held_up() {
    // No request is served for 100 ms of every second, as in a garbage collection pause.
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let stall = stub.stall_every(Duration::from_secs(1), Duration::from_millis(100));
    let (open, _folder) = load(
        &stub,
        &[
            "--rate",
            "1000",
            "--arrivals",
            "uniform",
            "--duration",
            "4s",
            "--warm-up",
            "1s",
            "--connections",
            "200",
        ],
    );
    let (closed, _folder) = load(
        &stub,
        &["--arrivals", "closed", "--users", "1", "--duration", "3s", "--warm-up", "1s"],
    );
    drop(stall);
    let p99 = open["latency_ms"]["p99"].as_f64().unwrap();
    assert!(p99 >= 90.0, "the open loop reports {p99} ms");
    let hidden = closed["latency_ms"]["p99"].as_f64().unwrap();
    assert!(hidden < 50.0, "a closed loop is blind to it: {hidden} ms");
}

#[test]
fn a_run_says_where_the_time_went_and_who_answered() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let (summary, folder) =
        load(&stub, &["--rate", "800", "--duration", "2s", "--warm-up", "200ms"]);
    assert_eq!(summary["outcomes"]["200"], summary["requests"]);
    assert_eq!(summary["latency_ms"]["count"], summary["requests"]);
    assert_eq!(summary["endpoints"]["w1"], summary["requests"]);
    if cfg!(any(target_os = "linux", target_os = "macos")) {
        let busy = summary["sender_busy"].as_f64().unwrap();
        assert!(busy > 0.0 && busy <= 1.0, "{busy}");
    }
    assert!((summary["stages_ms"]["queue"]["p50"].as_f64().unwrap() - 1.5).abs() < 0.01);
    let tail = std::fs::read_to_string(folder.path().join("run/load-tail.svg")).unwrap();
    assert!(!tail.contains("NaN"));
}

/// Start and histogram of an interval.
type Interval = (Duration, hdrhistogram::Histogram<u64>);

/// The histograms of an interval log.
fn intervals(text: &[u8]) -> Vec<Interval> {
    use base64::Engine as _;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    let entries = IntervalLogIterator::new(text).map(|entry| entry.expect("the log can be read"));
    let interval = |entry: LogEntry<'_>| {
        let LogEntry::Interval(interval) = entry else { return None };
        let bytes = base64::prelude::BASE64_STANDARD.decode(interval.encoded_histogram());
        let histogram = Deserializer::new().deserialize(&mut bytes.expect("base64").as_slice());
        Some((interval.start_timestamp(), histogram.expect("a histogram")))
    };
    entries.filter_map(interval).collect()
}

#[test]
fn a_log_of_histograms_has_every_request_in_the_second_in_which_it_ended() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let common =
        ["--rate", "300", "--duration", "2s", "--warm-up", "500ms", "--arrivals", "uniform"];
    for (kept, least) in [("100000", 2), ("10", 1)] {
        let (summary, folder) = load(&stub, &[&common[..], &["--keep-samples", kept]].concat());
        let log = std::fs::read(folder.path().join("run/latency.hlog")).unwrap();
        let found = intervals(&log);
        assert!(found.len() >= least && found.is_sorted_by_key(|(start, _)| *start), "{kept} kept");
        let mut all = found[0].1.clone();
        for (_, more) in &found[1..] {
            all.add(more).unwrap();
        }
        assert_eq!(summary["requests"], all.len());
        let p90 = summary["latency_ms"]["p90"].as_f64().unwrap();
        assert!((all.value_at_quantile(0.9) as f64 / 1e6 / p90 - 1.0).abs() < 0.002, "{p90}");
    }
}

#[test]
fn errors_make_a_run_invalid_and_are_counted_by_class() {
    let stub = Stub::start(Speaks::Http1, |_| async { error(503) });
    let (summary, _folder) =
        load(&stub, &["--rate", "300", "--duration", "500ms", "--warm-up", "0s"]);
    assert_eq!(summary["verdict"]["is_valid"], false);
    assert!(reasons(&summary).contains("requests failed (503 x"), "{}", reasons(&summary));
    assert_eq!(summary["outcomes"]["503"], summary["requests"]);
}

#[test]
fn a_service_that_never_answers_is_a_timeout_and_the_run_ends() {
    let stub = Stub::start(Speaks::Http1, |_| async { std::future::pending().await });
    let (summary, _folder) = load(
        &stub,
        &["--rate", "100", "--duration", "300ms", "--warm-up", "0s", "--timeout", "200ms"],
    );
    assert_eq!(summary["outcomes"]["timeout"], summary["requests"]);
}

#[test]
fn too_few_samples_for_the_quantile_are_a_reason() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let (summary, _folder) =
        load(&stub, &["--rate", "100", "--duration", "500ms", "--warm-up", "0s"]);
    assert!(reasons(&summary).contains("quantile 0.99 needs 1000"), "{}", reasons(&summary));
    assert_eq!(summary["latency_ms"]["p999"], Value::Null);
}

#[test]
fn the_connection_cap_holds_and_what_waits_counts_the_wait() {
    let slow = |_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        label("cat", "w1")
    };
    let stub = Stub::start(Speaks::Http1, slow);
    let (summary, _folder) = load(
        &stub,
        &[
            "--rate",
            "400",
            "--duration",
            "500ms",
            "--warm-up",
            "0s",
            "--connections",
            "2",
            "--threads",
            "2",
        ],
    );
    // One more connection checked that the target listens.
    assert_eq!(stub.connections.load(Ordering::Relaxed), 3);
    let p50 = |time: &str| summary[time]["p50"].as_f64().unwrap();
    assert!(p50("latency_ms") > 3.0 * p50("service_time_ms"), "{summary}");
    assert!(reasons(&summary).contains("did not keep up"), "{}", reasons(&summary));
}

#[test]
fn without_keep_alive_every_request_has_its_own_connection() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let (summary, _folder) = load(
        &stub,
        &["--rate", "200", "--duration", "500ms", "--warm-up", "0s", "--no-keep-alive"],
    );
    let requests = summary["requests"].as_u64().unwrap();
    assert_eq!(stub.connections.load(Ordering::Relaxed) as u64, requests + 1);
    assert_eq!(summary["outcomes"]["200"], requests);
}

#[test]
fn http2_shares_one_connection_a_thread() {
    let stub = Stub::start(Speaks::H2, |request| async move {
        assert!(request.headers.get("host").is_none(), "the authority is enough");
        label("cat", "w1")
    });
    let (summary, _folder) = load(
        &stub,
        &[
            "--rate",
            "500",
            "--duration",
            "500ms",
            "--warm-up",
            "0s",
            "--http",
            "h2",
            "--connections",
            "1",
        ],
    );
    assert_eq!(summary["outcomes"]["200"], summary["requests"], "{summary}");
    assert_eq!(stub.connections.load(Ordering::Relaxed), 2);
}

#[test]
fn the_same_seed_sends_the_same_schedule_whatever_the_service_does() {
    let scheduled = |threads: &str, milliseconds: u64| {
        let stub = Stub::start(Speaks::Http1, move |_| async move {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            label("cat", "w1")
        });
        let (_, folder) = load(
            &stub,
            &[
                "--rate",
                "300",
                "--duration",
                "500ms",
                "--warm-up",
                "0s",
                "--seed",
                "9",
                "--threads",
                threads,
            ],
        );
        let mut samples = csv::Reader::from_path(folder.path().join("run/samples.csv")).unwrap();
        let instants = samples.deserialize::<client::record::Row>();
        instants.map(|row| row.unwrap().scheduled_us).collect::<Vec<_>>()
    };
    let one = scheduled("1", 0);
    assert!(one.len() > 100);
    assert_eq!(one, scheduled("2", 7));
}

#[test]
fn labels_beside_the_pictures_are_checked_on_the_way() {
    let stub = Stub::start(Speaks::Http1, |request| async move {
        // The larger picture is a dog.
        label(if request.body.len() > 1500 { "dog" } else { "tabby_cat" }, "w1")
    });
    let folder = tempfile::tempdir().unwrap();
    for side in [24, 200] {
        let picture = client::workload::generated::picture(side).unwrap();
        std::fs::write(folder.path().join(format!("{side}.jpg")), &picture.bytes).unwrap();
    }
    std::fs::write(
        folder.path().join("labels.csv"),
        "file,label\n24.jpg,Tabby cat\n200.jpg,wolf\n",
    )
    .unwrap();
    let images = folder.path().to_str().unwrap();
    let (summary, _folder) = load(
        &stub,
        &[
            "--arrivals",
            "uniform",
            "--rate",
            "200",
            "--duration",
            "500ms",
            "--warm-up",
            "0s",
            "--images",
            images,
        ],
    );
    let accuracy = &summary["accuracy"];
    assert_eq!(accuracy["checked"], summary["requests"]);
    let share = accuracy["share"].as_f64().unwrap();
    assert!((share - 0.5).abs() < 0.02, "every second one is right: {accuracy}");
    // Two pictures are little evidence, however often they are sent.
    assert_eq!(accuracy["items"], 2);
    let end = |name: &str| accuracy["interval"][name].as_f64().unwrap();
    assert!(end("low") < 0.1 && end("high") > 0.9, "{accuracy}");
}

/// Half of the samples are kept, taken from both threads and from the whole run.
#[test]
fn samples_that_are_kept_are_spread_over_the_run_and_its_threads() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let rate = ["--arrivals", "uniform", "--rate", "400", "--duration", "1s", "--warm-up", "0s"];
    let keep = ["--keep-samples", "200", "--threads", "2"];
    let (_, folder) = load(&stub, &[&rate[..], &keep].concat());
    let text = std::fs::read_to_string(folder.path().join("run/samples.csv")).unwrap();
    let due = text.lines().skip(1).map(|line| line.split(',').nth(3).unwrap().parse().unwrap());
    let due: Vec<u64> = due.collect();
    assert!((150..=200).contains(&due.len()), "{}", due.len());
    assert!(due.iter().any(|at| *at > 900_000), "none of the last tenth");
    // Each thread's requests are due every 5 ms, and the threads are 2.5 ms apart.
    let of_first = due.iter().filter(|at| **at % 5000 == 0).count();
    assert!((0.3..0.7).contains(&(of_first as f64 / due.len() as f64)), "{of_first}");
}

#[test]
fn prepared_json_bodies_go_to_their_route_in_turn() {
    let seen: Arc<std::sync::Mutex<Vec<common::Seen>>> = Arc::default();
    let recorder = Arc::clone(&seen);
    let stub = Stub::start(Speaks::Http1, move |request| {
        recorder.lock().unwrap().push(request);
        async { label("any", "w1") }
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bodies.jsonl");
    std::fs::write(&file, "{\"instances\":[1]}\n\n{\"instances\":[2]}\n").unwrap();
    load(
        &stub,
        &[
            "--rate",
            "100",
            "--arrivals",
            "closed",
            "--users",
            "1",
            "--duration",
            "100ms",
            "--warm-up",
            "0s",
            "--json-body",
            file.to_str().unwrap(),
            "--route",
            "/v1/models/iris_model:predict",
        ],
    );
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].path, "/v1/models/iris_model:predict");
    assert_eq!(seen[0].headers["content-type"], "application/json");
    let bodies: std::collections::BTreeSet<_> = seen.iter().map(|s| s.body.to_vec()).collect();
    assert_eq!(bodies.len(), 2);
}

#[test]
fn flowers_are_checked_in_both_protocols() {
    for (workload, route) in
        [("iris", "/v1/models/iris_model:predict"), ("oip-iris", "/v2/models/iris_model/infer")]
    {
        // A service that always answers setosa is right for the first 50 of 150 flowers.
        let stub = Stub::start(Speaks::Http1, move |request| async move {
            assert_eq!(request.path, route);
            let body = if route.starts_with("/v1") {
                r#"{"predictions": [{"predicted_species": ["setosa"]}]}"#
            } else {
                r#"{"outputs":[{"name":"predicted_species","data":["setosa"]}]}"#
            };
            http::Response::new(http_body_util::Full::from(body))
        });
        let (summary, _folder) = load(
            &stub,
            &[
                "--arrivals",
                "uniform",
                "--rate",
                "500",
                "--duration",
                "601ms",
                "--warm-up",
                "0s",
                "--workload",
                workload,
            ],
        );
        let accuracy = &summary["accuracy"];
        assert_eq!(accuracy["checked"], 300, "{summary}");
        assert_eq!(accuracy["correct"], 100, "{summary}");
    }
}
