//! Whole experiments against a stub of the service over real sockets.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::Parser;
use common::{Seen, Speaks, Stub, error, label};

use crate::common;

fn client(arguments: &[&str]) -> anyhow::Result<(ExitCode, String)> {
    let cli = client::cli::Cli::try_parse_from([&["client"], arguments].concat())?;
    let mut out = Vec::new();
    let code = client::run(&cli, &mut out)?;
    Ok((code, String::from_utf8(out)?))
}

fn svg_is_whole(path: &Path) {
    let svg = std::fs::read_to_string(path).expect("the plot is there");
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{}", path.display());
    assert!(!svg.contains("NaN"), "{}", path.display());
}

#[test]
fn rtt_measures_every_picture_and_writes_everything_down() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let (_, text) = client(&[
        "rtt",
        "--target",
        &stub.url(),
        "--repeat",
        "3",
        "--warm-up-rounds",
        "1",
        "--out",
        out.to_str().unwrap(),
    ])
    .unwrap();
    assert!(text.contains("generated_2000.jpg"), "{text}");
    let samples = std::fs::read_to_string(out.join("samples.csv")).unwrap();
    assert_eq!(samples.lines().count(), 1 + 9 * 4, "a head, nine pictures, four rounds");
    assert_eq!(samples.matches(",true,").count(), 9, "one round is warm-up");
    svg_is_whole(&out.join("rtt-by-pixels.svg"));
    svg_is_whole(&out.join("rtt-by-bytes.svg"));
    let manifest = std::fs::read_to_string(out.join("manifest.json")).unwrap();
    assert!(manifest.contains("\"seed\": 1"), "{manifest}");
    let rows = std::fs::read_to_string(out.join("summary.csv")).unwrap().lines().count();
    assert_eq!(rows, 1 + 9, "a head, nine pictures");
}

#[test]
fn rtt_sends_the_form_of_the_original_and_reuses_its_connection() {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let recorder = Arc::clone(&seen);
    let stub = Stub::start(Speaks::Http1, move |request| {
        recorder.lock().unwrap().push(request);
        async { label("cat", "w1") }
    });
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    client(&[
        "rtt",
        "--target",
        &stub.url(),
        "--servers",
        "4",
        "--repeat",
        "1",
        "--out",
        out.to_str().unwrap(),
    ])
    .unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 9 * 3);
    // One connection to check that the target listens, and one for all requests.
    assert_eq!(stub.connections.load(std::sync::atomic::Ordering::Relaxed), 2);
    let request = &seen[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/submit"));
    assert_eq!(request.headers["accept"], "*/*");
    let body = String::from_utf8_lossy(&request.body);
    let first = body.find("name=\"number_backend_servers\"\r\n\r\n4\r\n").unwrap();
    let second = body.find("name=\"image\"; filename=\"image\"\r\n\r\n").unwrap();
    assert!(first < second);
}

#[test]
fn scaling_fills_the_grid_and_counts_errors_by_class() {
    // A fleet of two: a request for four servers gets a 400, as from the balancer.
    let stub = Stub::start(Speaks::Http1, |request| async move {
        let body = String::from_utf8_lossy(&request.body);
        if body.contains("\r\n\r\n4\r\n") { error(400) } else { label("cat", "w1") }
    });
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let (_, text) = client(&[
        "scaling",
        "--target",
        &stub.url(),
        "--servers",
        "1,4",
        "--waits",
        "0.002",
        "--requests",
        "20",
        "--capacity",
        "200ms",
        "--trials",
        "2",
        "--out",
        out.to_str().unwrap(),
    ])
    .unwrap();
    assert_eq!(text.matches("400 x 40").count(), 1, "{text}");
    let summary: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    let cells = summary["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 2);
    assert_eq!(cells[0]["latency_ms"]["count"], 40);
    assert_eq!(cells[1]["latency_ms"], serde_json::Value::Null);
    svg_is_whole(&out.join("scaling-latency.svg"));
    svg_is_whole(&out.join("scaling-throughput.svg"));
}

#[test]
fn rates_are_chosen_around_what_the_service_can_do() {
    // One request at a time, each 10 ms: at most 100/s.
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    let stub = Stub::start(Speaks::Http1, move |_| {
        let turn = Arc::clone(&turn);
        async move {
            let _mine = turn.lock().await;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            label("cat", "w1")
        }
    });
    let parent = tempfile::tempdir().unwrap();
    let (url, out) = (stub.url(), parent.path().join("run"));
    let flags =
        ["scaling", "--knee", "--target", &url, "--servers", "1", "--waits", "0.5", "--json"];
    let times = ["--duration", "300ms", "--capacity", "400ms", "--out", out.to_str().unwrap()];
    let (_, text) = client(&[&flags[..], &times].concat()).unwrap();
    let findings: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cells = findings["cells"].as_array().unwrap();
    let rates: Vec<f64> = cells.iter().map(|it| it["offered_rate"].as_f64().unwrap()).collect();
    let capacity = &findings["capacities"][0];
    let most = capacity["throughput"].as_f64().unwrap();
    assert!(rates.len() >= 4 && rates.is_sorted(), "{rates:?}");
    assert!(rates.iter().any(|rate| (0.3 * most..1.5 * most).contains(rate)), "{rates:?}, {most}");
    if cfg!(target_os = "linux") {
        assert!((0.0..=1.0).contains(&capacity["machine_busy"].as_f64().unwrap()), "{capacity}");
    }
}

#[test]
fn a_trial_that_its_requests_end_is_not_measured_over_time_it_did_not_run() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let url = stub.url();
    let limits = ["--requests", "20", "--duration", "1h", "--trials", "1", "--capacity", "50ms"];
    let mut arguments = vec!["scaling", "--target", &url, "--servers", "1", "--waits", "0.001"];
    arguments.extend(limits);
    arguments.extend(["--json", "--out", out.to_str().unwrap()]);
    let (_, text) = client(&arguments).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    let throughput = summary["cells"][0]["throughput"].as_f64().unwrap();
    assert!(throughput > 1.0, "{throughput} a second");
}

#[test]
fn json_is_the_whole_output_when_asked_for() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let (_, text) = client(&[
        "rtt",
        "--target",
        &stub.url(),
        "--repeat",
        "1",
        "--json",
        "--out",
        out.to_str().unwrap(),
    ])
    .unwrap();
    let findings: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(findings["lines"].as_array().unwrap().len(), 9);
}

#[test]
fn an_experiment_without_one_success_fails_and_still_leaves_its_samples() {
    let stub = Stub::start(Speaks::Http1, |_| async { error(503) });
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let failure =
        client(&["rtt", "--target", &stub.url(), "--repeat", "1", "--out", out.to_str().unwrap()])
            .unwrap_err();
    assert!(failure.to_string().contains("503 x 1"), "{failure}");
    assert!(out.join("samples.csv").is_file());
}

#[test]
fn an_answer_that_is_no_label_is_not_a_success() {
    let stub = Stub::start(Speaks::Http1, |_| async {
        http::Response::new(http_body_util::Full::from("<html>200 OK</html>"))
    });
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let failure =
        client(&["rtt", "--target", &stub.url(), "--repeat", "1", "--out", out.to_str().unwrap()])
            .unwrap_err();
    assert!(failure.to_string().contains("no label x 1"), "{failure}");
}

/// A photo folder with two labelled pictures: a flat one that survives any loss of pixels, and one
/// that the stub only recognises by its detail.
fn photos() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for side in [200, 240] {
        let picture = client::workload::generated::picture(side).expect("a picture");
        std::fs::write(folder.path().join(format!("{side}.jpg")), &picture.bytes).expect("written");
    }
    let labels = "file,label\n200.jpg,cat\n240.jpg,cat\n";
    std::fs::write(folder.path().join("labels.csv"), labels).expect("written");
    folder
}

/// A model that needs detail: a PNG with few distinct pixels compresses too well to be a cat.
fn prediction(body: &[u8]) -> http::Response<http_body_util::Full<bytes::Bytes>> {
    let best = if body.len() > 60_000 { "cat" } else { "dog" };
    let candidate =
        |label: &str| wire::Candidate { label: label.into(), index: 0, confidence: 0.5 };
    let answer = wire::Prediction {
        label: best.into(),
        index: 0,
        confidence: 0.5,
        top_k: vec![candidate(best), candidate("cat")],
        model: "stub".into(),
        version: "1".into(),
        endpoint: Some("w1".into()),
        timings_ms: wire::Timings::default(),
        input: None,
    };
    let body = serde_json::to_vec(&answer).expect("it is JSON");
    http::Response::new(http_body_util::Full::from(body))
}

#[test]
fn accuracy_falls_with_resolution_and_top_5_is_not_top_1() {
    let stub = Stub::start(Speaks::Http1, |request| async move {
        assert_eq!(request.headers["accept"], "application/json");
        prediction(&request.body)
    });
    let photos = photos();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let (_, text) = client(&[
        "accuracy",
        "--json",
        "--target",
        &stub.url(),
        "--sizes",
        "224,16",
        "--images",
        photos.path().to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ])
    .unwrap();
    let findings: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (small, large) = (&findings["lines"][0], &findings["lines"][1]);
    assert_eq!((&small["side"], &large["side"]), (&16.into(), &224.into()));
    assert_eq!((&small["top_1"], &small["top_5"]), (&0.into(), &2.into()), "{text}");
    assert_eq!((&large["top_1"], &large["answered"]), (&2.into(), &2.into()), "{text}");
    svg_is_whole(&out.join("accuracy.svg"));
}

fn columns_have_names_of_their_own(folder: &Path) {
    for file in ["samples.csv", "summary.csv", "capacity.csv"] {
        let Ok(text) = std::fs::read_to_string(folder.join(file)) else { continue };
        let heads: Vec<&str> = text.lines().next().expect("a head").split(',').collect();
        let names: BTreeSet<&str> = heads.iter().copied().collect();
        assert_eq!(names.len(), heads.len(), "{}/{file}: {heads:?}", folder.display());
    }
}

#[test]
fn reproduce_runs_all_three_and_report_compares_two_of_them() {
    let stub = Stub::start(Speaks::Http1, |request| async move {
        if request.headers["accept"] == "application/json" {
            prediction(&request.body)
        } else {
            label("cat", "w1")
        }
    });
    let photos = photos();
    let parent = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let out = parent.path().join(name);
        client(&[
            "reproduce",
            "--quick",
            "--trial-time",
            "100ms",
            "--servers",
            "1,2",
            "--target",
            &stub.url(),
            "--photos",
            photos.path().to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ])
        .unwrap();
        out
    };
    let (one, two) = (run("one"), run("two"));
    let html = std::fs::read_to_string(one.join("report.html")).unwrap();
    assert_eq!(html.matches("<svg").count(), 7, "two of rtt, four of scaling, one of accuracy");
    assert_eq!(html.matches("This run found").count(), 3);
    assert!(!html.contains("NaN") && !html.contains("src=") && !html.contains("href="));
    // Servers that share processors are not expected to scale with their number.
    assert!(html.contains("so no ideal is drawn"));
    let capacity = std::fs::read_to_string(one.join("scaling/capacity.csv")).unwrap();
    let mut ideal = capacity.lines().map(|line| line.split(',').nth(5).unwrap().to_owned());
    assert_eq!(ideal.next().as_deref(), Some("ideal"));
    assert!(ideal.all(|cell| cell.parse::<f64>().is_err()), "{capacity}");
    for file in
        ["manifest.json", "rtt/samples.csv", "scaling/capacity.csv", "accuracy/summary.json"]
    {
        assert!(one.join(file).is_file(), "{file}");
    }
    for experiment in ["rtt", "scaling", "accuracy"] {
        columns_have_names_of_their_own(&one.join(experiment));
    }
    let (_, text) = client(&["report", one.to_str().unwrap(), two.to_str().unwrap()]).unwrap();
    assert!(text.contains("rtt generated_2000.jpg"), "{text}");
    let (_, text) = client(&["report", one.to_str().unwrap()]).unwrap();
    assert!(text.contains("servers=2 capacity"), "{text}");
    let page = parent.path().join("page");
    let out = page.to_str().unwrap();
    client(&["report", one.to_str().unwrap(), two.to_str().unwrap(), "--out", out]).unwrap();
    assert!(std::fs::read_to_string(page.join("report.html")).unwrap().contains("<svg"));
    svg_is_whole(&page.join("compare.svg"));
}

#[test]
fn plots_and_report_are_drawn_again_from_what_was_written_down() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let parent = tempfile::tempdir().unwrap();
    let url = stub.url();
    let run = |command: &[&str], name: &str| {
        let out = parent.path().join(name);
        let ends = ["--target", &url, "--out", out.to_str().unwrap()];
        client(&[command, &ends].concat()).unwrap();
        out
    };
    let all = run(&["reproduce", "--quick", "--trial-time", "50ms", "--servers", "1"], "all");
    let load = run(&["load", "--rate", "200", "--duration", "300ms", "--warm-up", "0s"], "load");
    for (folder, files) in [
        (all, vec!["report.html", "rtt/rtt-by-bytes.svg", "scaling/scaling-knee.svg"]),
        (load, vec!["load-tail.svg", "load-course.svg", "load-rate.svg"]),
    ] {
        let read = |file: &&str| std::fs::read_to_string(folder.join(file)).unwrap();
        let before: Vec<String> = files.iter().map(read).collect();
        for file in &files {
            std::fs::remove_file(folder.join(file)).unwrap();
        }
        // Experiments in addition to the three are included in the report.
        std::fs::create_dir(folder.join("churn")).unwrap();
        let section = serde_json::json!({
            "title": "Workers that die", "finding": "found.", "method": "M/M/3 has 20 ms",
            "charts": [], "table": { "rows": [["dead"], ["one worker"]] },
        });
        std::fs::write(folder.join("churn/section.json"), section.to_string()).unwrap();
        client(&["report", folder.to_str().unwrap()]).unwrap();
        let after: Vec<String> = files.iter().map(read).collect();
        // Times are kept in whole microseconds, so digits may differ, but not what is drawn.
        let drawn = |text: &String| ["<circle", "<polyline"].map(|it| text.matches(it).count());
        let drawn = |texts: &[String]| texts.iter().map(drawn).collect::<Vec<_>>();
        assert_eq!(drawn(&before), drawn(&after));
        if files[0] == "report.html" {
            for part in ["<h2>Workers that die</h2>", "M/M/3 has 20 ms", "one worker"] {
                assert!(after[0].contains(part) && !before[0].contains(part), "{part}");
            }
        }
    }
}

#[test]
fn the_tail_of_all_requests_is_not_drawn_again_from_some_of_them() {
    let stub = Stub::start(Speaks::Http1, |_| async { label("cat", "w1") });
    let parent = tempfile::tempdir().unwrap();
    let (url, out) = (stub.url(), parent.path().join("run"));
    let out = out.to_str().unwrap();
    let flags = ["load", "--rate", "500", "--duration", "400ms", "--warm-up", "0s"];
    client(&[&flags[..], &["--keep-samples", "50", "--target", &url, "--out", out]].concat())
        .unwrap();
    let drawn = || std::fs::read_to_string(parent.path().join("run/load-tail.svg")).unwrap();
    let before = drawn();
    assert!(before.contains("500 requests/s; all requests"), "{before}");
    let (_, text) = client(&["report", out]).unwrap();
    assert_eq!(before, drawn());
    assert!(text.contains("requests were kept one by one"), "{text}");
}
